"""Files that the workflows name in `properties.models`, as the frontend and Manager read them: where to get
each and which of ComfyUI's model folders it belongs to. Safetensors only."""

from __future__ import annotations

HUB = "https://huggingface.co"


def _file(repo: str, path: str, directory: str, name: str = "", revision: str = "main") -> dict[str, str]:
    url = f"{HUB}/{repo}/resolve/{revision}/{path}"
    return {"name": name or path.rpartition("/")[2], "url": url, "directory": directory}


def _ours(repo: str, revision: str, folder: str, *paths: str) -> list[dict[str, str]]:
    return [_file(repo, path, "evlm", f"{folder}/{path}", revision) for path in paths]


QWEN2_VL_7B = _ours(
    "Qwen/Qwen2-VL-7B-Instruct",
    "eed13092ef92e448dd6875b2a00151bd3f7db0ac",
    "qwen2-vl-7b",
    *(f"model-0000{n}-of-00005.safetensors" for n in range(1, 6)),
)
GROUNDING_DINO = _ours(
    "IDEA-Research/grounding-dino-tiny",
    "a2bb814dd30d776dcf7e30523b00659f4f141c71",
    "grounding-dino-tiny",
    "model.safetensors",
)
SAM2 = [_file("Kijai/sam2-safetensors", "sam2.1_hiera_small.safetensors", "sam2")]
IP2P = [_file("timbrooks/instruct-pix2pix", "instruct-pix2pix-00-22000.safetensors", "checkpoints")]
QWEN_IMAGE_EDIT = (
    _file(
        "Comfy-Org/Qwen-Image-Edit_ComfyUI",
        "split_files/diffusion_models/qwen_image_edit_fp8_e4m3fn.safetensors",
        "diffusion_models",
    ),
    _file(
        "Comfy-Org/Qwen-Image_ComfyUI",
        "split_files/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors",
        "text_encoders",
    ),
    _file("Comfy-Org/Qwen-Image_ComfyUI", "split_files/vae/qwen_image_vae.safetensors", "vae"),
)
_WAN = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
WAN_VACE = (
    _file(_WAN, "split_files/diffusion_models/wan2.1_vace_1.3B_fp16.safetensors", "diffusion_models"),
    _file(_WAN, "split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors", "text_encoders"),
    _file(_WAN, "split_files/vae/wan_2.1_vae.safetensors", "vae"),
)
