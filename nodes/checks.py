"""What arrives at a node, held against what its `execute` asks for.

A workflow is somebody else's input: it can hold a constant where a link belongs, NaN, or a list for a word,
and ComfyUI's own checks let some of that through. `checked` reads the annotations of `execute`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

from . import folders, host
from .story import STORY

Execute = TypeVar("Execute", bound=Callable[..., Any])
# role -> (what a model of it can do, where one comes from)
MODELS = {
    "reasoner": ("reason", "Load EVLM or Remote EVLM"),
    "detector": ("ground", "Load EVLM Detector"),
    "segmenter": ("segment", "Load SAM 2"),
    "editor": ("edit", "Load IP2P, or to EVLM Native Editor for a MODEL with its CLIP and VAE"),
}
# The same for what core's loaders give, by the names of core.py.
CORES = {
    "CoreModel": ("model_options", "a MODEL of a loader of ComfyUI"),
    "CoreClip": ("tokenize", "a CLIP of a loader of ComfyUI"),
    "CoreVae": ("decode", "a VAE of a loader of ComfyUI"),
}
SEEN = 80  # characters of a wrong value that an error repeats


def checked(execute: Execute) -> Execute:
    """Checks every argument and then runs. An IMAGE loses its alpha, a MASK becomes [F, H, W]; both are
    float32 in 0..1 on the CPU: what lies a little outside is clamped, and the node says so. What
    the node shows of itself is kept for a page that comes later.

    Raises RequestError or PictureError, which names the input.
    """
    from ..evlm.errors import EVLMError

    signature = inspect.signature(execute)

    @wraps(execute)
    def run(cls: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(cls, *args, **kwargs)
        try:
            with host.telling():
                for name, value in list(bound.arguments.items())[1:]:
                    bound.arguments[name] = _check(name, value, str(signature.parameters[name].annotation))
                made = execute(*bound.args, **bound.kwargs)
        except EVLMError as error:
            error.args = (folders.shortened(str(error)), *error.args[1:])  # it is shown, and shared
            raise
        if shown := getattr(made, "ui", None):
            STORY.end(shown if isinstance(shown, dict) else shown.as_dict())
        return made

    return run  # type: ignore[return-value]


def _check(name: str, value: Any, kind: str) -> Any:
    if value is None and "None" in kind:
        return None
    if kind.startswith("Tensor"):
        return _mask(name, value) if "mask" in name else _image(name, value)
    if kind.startswith("tuple[") and "Reference" in kind:
        return _references(name, value)
    if kind.startswith("Trace"):
        from ..evlm.plan.trace import Trace

        return _expect(name, value, isinstance(value, Trace), "a link to a plan")
    if kind == "str":
        return _text(name, value)
    if kind == "bool":
        return _expect(name, value, isinstance(value, bool), "true or false")
    if kind in ("int", "float"):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = number and math.isfinite(value) and (kind == "float" or value == int(value))
        return _expect(name, value, fits, "a finite number" if kind == "float" else "a whole number")
    if kind == "Keys":
        from ..evlm.video.handed_out import Keys

        return _expect(name, value, isinstance(value, Keys), "a link to EVLM Keyframes")
    if kind == "Pipe":
        from .load_all import Pipe

        return _expect(name, value, isinstance(value, Pipe), "a link to EVLM Load All")
    if kind.startswith("SplatScene"):
        from ..evlm.scene import SplatScene

        return _expect(name, value, isinstance(value, SplatScene), "a link to EVLM Load Scene")
    if kind.startswith("Splat"):
        return _expect(name, value, hasattr(value, "opacities"), "a link to a SPLAT")
    if kind in CORES:
        has, what = CORES[kind]
        return _expect(name, value, hasattr(value, has), f"a link to {what}")
    role = "reasoner" if name == "model" else name.removeprefix("custom_")
    if role in MODELS and kind.startswith("Any"):
        does, what = MODELS[role]
        fits = value.role == role if isinstance(value, host.Managed) else hasattr(value, does)
        return _expect(name, value, fits, f"a link to {what}")
    if kind.startswith("Clip"):
        if isinstance(value, torch.Tensor):
            return _image(name, value)
        scene = kind == "ClipOrScene" and hasattr(value, "gaussians")
        of = "a video, to images or to a scene" if kind == "ClipOrScene" else "a video or to images"
        return _expect(name, value, scene or hasattr(value, "get_components"), f"a link to {of}")
    if name == "video":
        return _expect(name, value, hasattr(value, "get_components"), "a link to a video")
    return value


def _image(name: str, value: Any) -> torch.Tensor:
    fits = isinstance(value, torch.Tensor) and value.ndim == 4 and value.shape[-1] in (1, 3, 4)
    _expect(name, value, fits and 0 not in value.shape, "a link to an image")
    from ..evlm.files.pictures import check_frames

    notes: list[str] = []
    image: torch.Tensor = value
    image = image.expand(-1, -1, -1, 3) if image.shape[-1] == 1 else image[..., :3]
    image = check_frames(image, name, notes)
    host.tell(notes)
    return image


def _mask(name: str, value: Any) -> torch.Tensor:
    fits = isinstance(value, torch.Tensor) and value.ndim in (2, 3) and 0 not in value.shape
    _expect(name, value, fits, "a link to a mask")
    from ..evlm.masks import check_mask

    notes: list[str] = []
    mask = check_mask(value, name, notes)
    host.tell(notes)
    return mask


def _references(name: str, value: Any) -> Any:
    from ..evlm.request import Reference

    fits = isinstance(value, tuple) and all(isinstance(each, Reference) for each in value)
    return _expect(name, value, fits, "a link to references")


def _text(name: str, value: Any) -> str:
    _expect(name, value, isinstance(value, str), "text")
    text: str = value
    try:
        text.encode()
    except UnicodeEncodeError as error:
        _expect(name, value, False, f"text; character {error.start} is half of a pair (a lone surrogate)")
    return text


def _expect(name: str, value: Any, fits: bool, what: str) -> Any:
    from ..evlm.errors import RequestError

    if not fits:
        raise RequestError(f"{name}: expected {what}, got {type(value).__name__} {value!a:.{SEEN}}")
    return value
