"""InstructPix2Pix's parts from a diffusers folder, or from one `.safetensors` file in the original key names.

No network and no pickle: a folder is read with local files only, and the configuration and vocabulary that
an original file lacks come from configs/sd15-ip2p (InstructPix2Pix was made from Stable Diffusion 1.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, RequestError
from ..models.load_report import check_report
from ..models.loading import read_json, read_notes
from ..models.quantized import check_plain, check_unquantised
from ..models.safetensors_file import read_header
from .clip_tokenizer import load_tokenizer
from .original_names import text_name, unet_name, vae_name
from .protocol import EditSettings

SD15 = Path(__file__).parent / "configs" / "sd15-ip2p"


@dataclass
class Parts:
    """A loaded InstructPix2Pix. The resolutions are sides, in pixels, of the squares it works best at."""

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: dict[str, Any]
    defaults: EditSettings
    best_resolution: int
    full_frame_resolution: int


def load_parts(source: str | Path, dtype: torch.dtype, config: str | Path | None = None) -> Parts:
    """Loads from a folder or a file, on the CPU, in `dtype`, ready for inference.

    Args:
        source: a diffusers folder (model_index.json, unet/, vae/, ...), or a `.safetensors` file in
            original names.
        config: for a file: a diffusers folder without weights that says how the model is built; None: SD 1.5.

    Raises:
        ModelError: nothing there, something missing, or not an InstructPix2Pix.
        CheckpointError: a file that is damaged or not safetensors.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        parts = _from_folder(path, dtype)
    elif path.is_file() and path.suffix == ".safetensors":
        parts = _from_file(path, Path(config) if config else SD15, dtype)
    elif path.is_file():
        raise ModelError(
            f"{path}: only .safetensors files are read ({path.suffix or 'no suffix'} may hold code)"
        )
    else:
        raise ModelError(
            f"{path}: no such file or folder; expected a diffusers folder or a .safetensors file"
        )
    _check(parts, path)
    return parts


def _from_folder(path: Path, dtype: torch.dtype) -> Parts:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if not (path / part).is_dir():
            raise ModelError(
                f"{path}: the folder {part}/ is missing; expected a diffusers InstructPix2Pix folder"
            )

    for part in ("unet", "vae", "text_encoder"):
        config = read_json(path / part / "config.json", "how this part is built")
        check_unquantised(path / part, config, "an editor")
    manner, schedule = _manner(path), _scheduler_config(path)

    def load(model_class: Any, part: str, stem: str, **how: Any) -> Any:
        model, info = model_class.from_pretrained(
            path / part,
            local_files_only=True,
            use_safetensors=True,
            variant=_variant(path / part, stem),
            output_loading_info=True,
            **how,
        )
        check_report(path / part, info)
        return model

    try:
        unet = load(UNet2DConditionModel, "unet", "diffusion_pytorch_model", torch_dtype=dtype)
        vae = load(AutoencoderKL, "vae", "diffusion_pytorch_model", torch_dtype=dtype)
        text_encoder = load(CLIPTextModel, "text_encoder", "model", dtype=dtype, **_text_names())
    except (ModelError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged folder makes the libraries raise nearly anything
        raise ModelError(f"{path}: the weights do not load: {error}") from error
    return Parts(vae, unet, text_encoder, load_tokenizer(path / "tokenizer"), schedule, *manner)


def _text_names() -> dict[str, Any]:
    """transformers 5.6 dropped `text_model.` from CLIPTextModel's names: an older one reads newer folders by
    this."""
    import transformers

    major, minor = (int(number) for number in transformers.__version__.split(".")[:2])
    return {} if (major, minor) >= (5, 6) else {"key_mapping": {r"^(?!text_model\.)": "text_model."}}


def _from_file(path: Path, config: Path, dtype: torch.dtype) -> Parts:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors import SafetensorError, safe_open
    from transformers import CLIPTextConfig, CLIPTextModel

    header = read_header(path)
    unet_config = read_json(config / "unet" / "config.json", "how the UNet is built")
    vae_config = read_json(config / "vae" / "config.json", "how the VAE is built")
    text_config = read_json(config / "text_encoder" / "config.json", "how the text encoder is built")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config)
        vae = AutoencoderKL.from_config(vae_config)
        text_encoder = CLIPTextModel(CLIPTextConfig(**text_config))
    names = original_names(unet, vae)
    shapes = {name: info.shape for name, info in header.tensors.items()}
    check_plain(path, shapes)
    try:
        with safe_open(path, framework="pt") as file:
            for model, part in ((unet, "unet"), (vae, "vae"), (text_encoder, "text_encoder")):
                _fill(model, names[part], shapes, file.get_tensor, dtype, path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from error
    tokenizer = load_tokenizer(config / "tokenizer")
    return Parts(vae, unet, text_encoder, tokenizer, _scheduler_config(config), *_manner(config))


def original_names(unet: Any, vae: Any) -> dict[str, Callable[[str], str]]:
    """For each part, the function from a diffusers parameter's name to its name in an original file."""
    built = unet.config
    blocks = len(vae.config.block_out_channels)
    return {
        "unet": lambda name: unet_name(
            name, built.layers_per_block, built.down_block_types, built.up_block_types
        ),
        "vae": lambda name: vae_name(name, blocks),
        "text_encoder": text_name,
    }


def _fill(
    model: nn.Module,
    original: Callable[[str], str],
    shapes: dict[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    dtype: torch.dtype,
    path: Path,
) -> None:
    """Gives a model on the meta device its weights; first every name and every shape is checked."""
    wanted = {name: (original(name), tuple(value.shape)) for name, value in model.state_dict().items()}
    missing = [there for there, _ in wanted.values() if there not in shapes]
    if missing:
        raise ModelError(
            f"{path}: {len(missing)} of {len(wanted)} tensors of {type(model).__name__} are missing, first "
            f"{missing[0]}; expected InstructPix2Pix (Stable Diffusion 1.5) in the original key names"
        )
    for there, shape in wanted.values():
        if not _same(shapes[there], shape):
            hint = ""
            if there.endswith("input_blocks.0.0.weight"):
                hint = "; 8 input channels make an InstructPix2Pix, 4 a plain Stable Diffusion, 9 inpainting"
            raise ModelError(f"{path}: {there} has shape {shapes[there]}, expected {shape}{hint}")
    state = {name: read(there).to(dtype).reshape(shape) for name, (there, shape) in wanted.items()}
    model.load_state_dict(state, strict=True, assign=True)
    # Buffers that no file holds (CLIP's position ids) are still on the meta device.
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                if name != "position_ids":
                    raise ModelError(
                        f"{type(model).__name__}: the buffer {name} is in no file and not known here"
                    )
                module.register_buffer(name, torch.arange(buffer.shape[-1])[None], persistent=False)
    model.eval()


def _same(there: tuple[int, ...], here: tuple[int, ...]) -> bool:
    """Equal, or a 1x1 convolution of the original where diffusers has a linear layer."""
    return there == here or (there[:2] == here and math.prod(there[2:]) == 1) or there == (*here, 1, 1)


def _manner(path: Path) -> tuple[EditSettings, int, int]:
    """Defaults and resolutions from evlm.json; without one 512 px and Stable Diffusion's usual settings."""
    file, given = path / "evlm.json", read_notes(path)
    kinds: dict[str, type | tuple[type, ...]] = {
        "steps": int,
        "guidance": (int, float),
        "image_guidance": (int, float),
        "scheduler": str,
        "best_resolution": int,
        "full_frame_resolution": int,
    }
    for name, kind in kinds.items():
        if name in given and (not isinstance(given[name], kind) or isinstance(given[name], bool)):
            raise ModelError(
                f"{file}: {name} is {given[name]!r}, expected a number or, for scheduler, a name"
            )
    try:
        defaults = EditSettings(
            **{k: given[k] for k in ("steps", "guidance", "image_guidance", "scheduler") if k in given}
        )
    except RequestError as error:
        raise ModelError(f"{file}: {error}") from error
    best = given.get("best_resolution", 512)
    full = given.get("full_frame_resolution", best)
    if not (8 <= best <= 8192 and 8 <= full <= 8192):
        raise ModelError(f"{file}: resolutions {best} and {full}, expected 8 to 8192 pixels")
    return defaults, best, full


def _check(parts: Parts, path: Path) -> None:
    latents, both = parts.vae.config.latent_channels, parts.unet.config.in_channels
    if both != 2 * latents:
        raise ModelError(
            f"{path}: not InstructPix2Pix: the UNet takes {both} channels, expected {2 * latents}"
        )
    width, reads = parts.text_encoder.config.hidden_size, parts.unet.config.cross_attention_dim
    if width != reads:
        raise ModelError(
            f"{path}: the text encoder gives {width} channels and the UNet reads {reads}: they do not fit"
        )
    for model in (parts.vae, parts.unet, parts.text_encoder):
        model.eval().requires_grad_(False)


def _scheduler_config(path: Path) -> dict[str, Any]:
    return read_json(path / "scheduler" / "scheduler_config.json", "the noise schedule")


def _variant(folder: Path, stem: str) -> str | None:
    """None for the plain file names; "fp16" when only `stem.fp16.safetensors` is there."""
    plain = [folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"]
    if not any(file.is_file() for file in plain) and any(folder.glob(f"{stem}.fp16*.safetensors")):
        return "fp16"
    return None
