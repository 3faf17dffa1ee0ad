"""A stand-in for the few modules of `comfy` that nodes/host.py knows: a ComfyUI on a CPU."""
