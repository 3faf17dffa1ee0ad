"""Loaders: a name from a list becomes a model that ComfyUI manages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from . import folders, host, sockets
from .checks import checked

DTYPES = ["auto", "fp32", "fp16", "bf16"]
ATTENTION = ["auto", "sdpa", "eager", "flash_attention_2"]
BITS = ["none", "4bit"]
OF_4_BITS = 0.37  # of weights in 16 bits what they take in 4, with what stays in 16


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_LoadModel",
            display_name="Load EVLM",
            category=sockets.CATEGORY,
            description="The reasoner: Qwen2-VL, Qwen2.5-VL or Qwen3-VL, with or without an EVLM adapter.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=folders.models("reasoner"),
                    default="bundled",
                    tooltip="'bundled' knows only a small drawn world. Others: models/evlm or models/LLM.",
                ),
                io.Combo.Input(
                    "adapter",
                    options=folders.adapters(),
                    default=folders.NO_ADAPTER,
                    tooltip="LoRA weights from models/evlm or models/loras that were trained for this model.",
                ),
                dtype_input(),
                io.Combo.Input(
                    "attention",
                    options=ATTENTION,
                    tooltip="How attention is computed; auto is transformers' choice.",
                ),
                io.Combo.Input(
                    "quantize",
                    options=BITS,
                    tooltip="4bit takes a quarter of the memory; it needs the package bitsandbytes, and is "
                    "slow on a CPU.",
                ),
                io.Int.Input(
                    "max_pixels",
                    default=0,
                    min=0,
                    max=16_777_216,
                    step=784,
                    tooltip="Size of each picture as the model sees it, in pixels; 0 is the model's own.",
                ),
                download_input(),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    tooltip="torch.compile for each token: the first one takes a minute or more, later ones "
                    "can be faster. Needs a C++ compiler, and triton on a CUDA card.",
                ),
            ],
            outputs=[
                sockets.Model.Output(
                    "evlm_model", display_name="model", tooltip="The reasoner, for a node that asks it."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, model: Any) -> bool | str:
        # ComfyUI repeats what is said here at each input that is named; so `adapter` is looked at in a run.
        return _problem(folders.find, "reasoner", model) or True

    @classmethod
    def fingerprint_inputs(cls, model: Any, adapter: Any, **rest: Any) -> str:
        return f"{fingerprint_of('reasoner', model)} {fingerprint_of('adapter', adapter)}"

    @classmethod
    @checked
    def execute(
        cls,
        model: str,
        adapter: str,
        dtype: str,
        attention: str,
        quantize: str,
        max_pixels: int,
        download: bool,
        compile: bool = False,
    ) -> io.NodeOutput:
        from ..evlm.models.quantized import is_quantised
        from ..evlm.reason.reasoner import Reasoner

        path, lora = _path("reasoner", model, download), folders.find_adapter(adapter)
        bits = None if sockets.choice("quantize", quantize, BITS) == "none" else quantize
        sockets.choice("attention", attention, ATTENTION)
        number = host.dtype_for(sockets.choice("dtype", dtype, DTYPES))

        def build(device: Any) -> Reasoner:
            return Reasoner.load(
                path,
                lora,
                number,
                device,
                attention=None if attention == "auto" else attention,
                quantize=bits,
                max_pixels=max_pixels or None,
                compiled=compile,
            )

        def kept(reasoner: Reasoner) -> host.Kept:
            return reasoner

        moves = bits is None and not is_quantised(path)  # weights of few bits stay where they were made
        room = 0 if moves else _weights(path, 1.0 if bits is None else OF_4_BITS)
        said = _said("reasoner", path, lora, number, attention, quantize, max_pixels, compile)
        return io.NodeOutput(
            host.Managed(model, build, lambda r: [r.module], "reasoner", moves, kept, said, room)
        )


class LoadDetector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "EVLM_LoadDetector",
            "Load EVLM Detector",
            "detector",
            "Finds things by their names: GroundingDINO, OWL-ViT or OWLv2, from models/evlm or "
            "models/grounding-dino.",
            sockets.Detector.Output(
                "evlm_detector",
                display_name="detector",
                tooltip="The detector, for a node that looks for things.",
            ),
        )

    @classmethod
    def validate_inputs(cls, model: Any) -> bool | str:
        return _problem(folders.find, "detector", model) or True

    @classmethod
    def fingerprint_inputs(cls, model: Any, **rest: Any) -> str:
        return fingerprint_of("detector", model)

    @classmethod
    @checked
    def execute(cls, model: str, dtype: str, download: bool) -> io.NodeOutput:
        from ..evlm.ground.grounder import Grounder

        sockets.choice("dtype", dtype, DTYPES)
        path = _path("detector", model, download)
        # fp32 unless somebody asks: these models are small and their box heads lose by less.
        return io.NodeOutput(
            host.Managed(
                model,
                lambda device: Grounder.load(path, dtype, device),
                lambda g: [g.model],
                "detector",
                said=_said("detector", path, dtype),
            )
        )


class LoadSegmenter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "EVLM_LoadSegmenter",
            "Load SAM 2",
            "segmenter",
            "Draws the outline of what a box or a point shows: SAM 2 or 2.1, as a folder or as one of Meta's "
            "files, from models/sam2 or models/evlm.",
            sockets.Segmenter.Output(
                "evlm_segmenter",
                display_name="segmenter",
                tooltip="The segmenter, for a node that draws outlines.",
            ),
        )

    @classmethod
    def validate_inputs(cls, model: Any) -> bool | str:
        return _problem(folders.find, "segmenter", model) or True

    @classmethod
    def fingerprint_inputs(cls, model: Any, **rest: Any) -> str:
        return fingerprint_of("segmenter", model)

    @classmethod
    @checked
    def execute(cls, model: str, dtype: str, download: bool) -> io.NodeOutput:
        from ..evlm.segment.segmenter import Segmenter

        sockets.choice("dtype", dtype, DTYPES)
        path, number = _path("segmenter", model, download), host.dtype_for(dtype)
        return io.NodeOutput(
            host.Managed(
                model,
                lambda device: Segmenter.load(path, number, device),
                lambda s: [s.model],
                "segmenter",
                said=_said("segmenter", path, number),
            )
        )


class LoadEditor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "EVLM_LoadEditor",
            "Load IP2P",
            "editor",
            "InstructPix2Pix, as a diffusers folder (models/diffusers, models/evlm) or as the one "
            "safetensors file (models/checkpoints).",
            sockets.Editor.Output(
                "evlm_editor", display_name="editor", tooltip="The editor, for a node that paints."
            ),
        )

    @classmethod
    def validate_inputs(cls, model: Any) -> bool | str:
        return _problem(folders.find, "editor", model) or True

    @classmethod
    def fingerprint_inputs(cls, model: Any, **rest: Any) -> str:
        return fingerprint_of("editor", model)

    @classmethod
    @checked
    def execute(cls, model: str, dtype: str, download: bool) -> io.NodeOutput:
        from ..evlm.edit.load import load_editor

        sockets.choice("dtype", dtype, DTYPES)
        path, number = _path("editor", model, download), host.dtype_for(dtype, half="fp16")
        return io.NodeOutput(
            host.Managed(
                model,
                lambda device: load_editor(path, number, device),
                lambda editor: list(editor.modules),
                "editor",
                said=_said("editor", path, number),
            )
        )


def _schema(node: str, title: str, role: str, about: str, output: Any) -> io.Schema:
    return io.Schema(
        node_id=node,
        display_name=title,
        category=sockets.CATEGORY,
        description=about,
        inputs=[
            io.Combo.Input(
                "model",
                options=folders.models(role),
                default="bundled",
                tooltip="'bundled' knows only a small drawn world; the others are for photographs.",
            ),
            dtype_input(),
            download_input(),
        ],
        outputs=[output],
    )


def dtype_input() -> Any:
    return io.Combo.Input(
        "dtype", options=DTYPES, tooltip="Numbers to compute in; auto is what suits your device."
    )


def download_input() -> Any:
    return io.Boolean.Input(
        "download",
        default=False,
        tooltip="Fetch the model if it is not here: a pinned revision, resumed and checked. Off: never.",
    )


def _problem(find: Any, *args: Any) -> str | None:
    from ..evlm.errors import EVLMError

    if args[-1] is None:  # linked: its value comes with the run
        return None
    try:
        find(*args)
    except EVLMError as error:
        return folders.shortened(str(error))
    return None


def fingerprint_of(role: str, name: Any) -> str:
    """Of the files of a model, or an adapter. One whose name is linked is known by the node that makes it."""
    if name is None:
        return "linked"
    return folders.fingerprint(folders.find_adapter(name) if role == "adapter" else folders.find(role, name))


def _weights(folder: Path, share: float) -> int:
    """About how many bytes of a folder's weights there are on the device; the last of them are there twice
    while they are made."""
    return round(share * sum(file.stat().st_size for file in folder.glob("*.safetensors")) + (1 << 30))


def _said(role: str, path: Path, *how: Any) -> str:
    """For `host.Managed`: the files, by what is in them, and everything else that a loader was given."""
    others = [folders.fingerprint(each) if isinstance(each, Path) else str(each) for each in how]
    return " ".join([role, str(path), folders.fingerprint(path), *others])


def _path(role: str, name: str, download: bool) -> Path:
    """Where a model lies; fetched first where it is not here and `download` is on. Raises ModelError."""
    from ..evlm.errors import ModelError
    from ..evlm.models.zoo import resolve

    path = folders.find(role, name)
    if path is not None:
        return resolve(path, role)
    if not download:
        raise ModelError(folders.absent(role, name))
    from ..evlm.models.download import download as fetch

    bar: list[host.Progress] = []

    def progress(done: int, total: int, file: str) -> None:
        if not bar:
            bar.append(host.Progress(total))
        bar[0](done, total)

    return fetch(name, folders.roots("evlm")[0], progress)
