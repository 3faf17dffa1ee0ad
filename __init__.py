"""ComfyUI-EVLM: reflective visual editing. A vague request and a reference become a plan, a mask, a picture.

The engine is the package `evlm` in this folder (`python -m evlm --help`). This file is where ComfyUI comes in
when the folder lies in `custom_nodes`; there are no nodes yet, so it exports none.
"""
