"""Any editor from its folder or file: which one it is, is read there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..models.families import EDITORS
from ..models.zoo import editor_family

if TYPE_CHECKING:
    import torch

    from .protocol import Editor


def load_editor(
    source: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
) -> Editor:
    """An editor, picked by the folder's class (model_index.json) or the names of a file's tensors.

    source: a diffusers folder, or one `.safetensors` file in the original key names. Nothing is downloaded.
    dtype: "auto" is fp32 on the CPU and fp16 elsewhere; or fp32, fp16, bf16, a torch dtype.
    device: None = CUDA, else Apple's, else the CPU.
    Raises ModelError where nothing is there, it is incomplete, or it is no editor that is known here, and
    CheckpointError for a damaged file.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise ModelError(
            f"{path}: no such file or folder; expected a diffusers folder or a .safetensors file"
        )
    family = editor_family(path)
    if family is None:
        known = ", ".join(each.folder_class for each in EDITORS if each.folder_class)
        raise ModelError(
            f"{path} is no editor that is known here: expected a diffusers folder whose model_index.json "
            f"names {known}, or one safetensors file in the original key names whose UNet takes 8 channels "
            "(4 make a plain Stable Diffusion, 9 one for inpainting)"
        )
    engine: Any = getattr(import_module(f".{family.module}", __package__), family.engine)
    editor: Editor = engine.load(path, dtype, device)
    return editor
