"""A stand-in for ComfyUI's `comfy_api`, for tests without ComfyUI. tests/comfyui compares the two."""
