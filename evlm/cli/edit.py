"""`python -m evlm edit`: one picture or video, from a request to files."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EVLMError
from .originals import read_original, read_references, write_edited

if TYPE_CHECKING:
    from ..pipeline import Pipeline, Result
    from ..request import Request


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add(
        "--image",
        required=True,
        metavar="FILE",
        help="picture, animation or video to edit; - reads a picture from standard input",
    )
    add("--prompt", default="", help="a few words, or none when there is a reference")
    for kind, metavar, text in (
        ("reference", "FILE", "picture to look at, or a folder of them"),
        ("reference-video", "FILE", "video, animation or folder of frames to look at"),
        ("reference-depth", "FILE", "depth map to look at"),
        ("reference-text", "WORDS", "words to go by"),
    ):
        add(f"--{kind}", action="append", default=[], metavar=metavar, help=f"{text}; repeatable")
    names = (
        "'bundled', folders, files, names of `models` or hub ids; later ones win; ROLE=NAME says for what, "
        "ROLE=none leaves it out (roles: reasoner detector segmenter editor)"
    )
    add("--models", nargs="+", default=["bundled"], metavar="NAME", help=names)
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add("--adapter", metavar="PATH", help="LoRA for the reasoner: PEFT folder or .safetensors of ours")
    add("--quantize", choices=["4bit"], help="the reasoner in 4 bits; needs bitsandbytes and CUDA")
    add("--endpoint", metavar="URL", help="OpenAI-compatible endpoint instead of a local reasoner")
    add("--endpoint-model", metavar="NAME", help="the model's name at the endpoint")
    add("--device", help="cuda, mps, cpu; the best one by default")
    add("--dtype", default="auto", choices=["auto", "bf16", "fp16", "fp32"])
    add("--seed", type=int, default=0)
    add("--steps", type=int, help="editing steps")
    add("--guidance", type=float, help="how strictly the instruction is followed")
    add("--image-guidance", type=float, help="how closely the original is kept")
    add("--threshold", type=float, help="least score of a detected box, 0..1")
    add("--temperature", type=float, default=0.0, help="of the reasoner; 0 is deterministic")
    add("--max-new-tokens", type=int, default=768)


def run(options: argparse.Namespace) -> int:
    """Edit one picture or video and write the picture, the mask, the trace and a contact sheet."""
    from .terminal import Terminal, quiet_libraries

    quiet_libraries()
    from ..request import Request
    from ..viz.sheet import SheetRow, draw_sheet

    original = read_original(options.image)
    references, notes = read_references(options)
    notes[:0] = original.notes
    request = Request(original.frames, options.prompt, references, original.fps)
    models, pipeline = _pipeline(options)
    terminal = Terminal()
    for note in notes:
        terminal.note(note)
    result = pipeline.run(
        request,
        sampling=_sampling(options),
        edit=_settings(options, pipeline),
        threshold=options.threshold,
        on_event=terminal.event,
    )
    terminal.summary(result)

    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    written, lost = write_edited(out, result.edited, result.mask, original)
    for note in lost:
        terminal.note(note)
    files = [*written, out / "trace.json", out / "sheet.png"]
    record = _record(options, models, request, result)
    record["notes"] = [*notes, *record["notes"], *lost]
    _write_text(files[2], json.dumps(record, ensure_ascii=False, indent=2) + "\n")
    _write_image(files[3], draw_sheet([SheetRow(request, result)]))
    terminal.line(f"{'wrote':8}  {', '.join(map(str, files))}")
    return 0


def _pipeline(options: argparse.Namespace) -> tuple[dict[str, Path], Pipeline]:
    from ..models.zoo import choose
    from ..pipeline import Pipeline

    chosen = choose(options.models, options.folder)
    remote: Any = None
    if options.endpoint:
        if not options.endpoint_model:
            raise EVLMError("--endpoint needs --endpoint-model, the model's name there")
        from ..reason.remote import RemoteReasoner

        chosen.pop("reasoner", None)
        remote = RemoteReasoner(options.endpoint, options.endpoint_model)
    loaded = Pipeline.load(chosen, remote, options.adapter, options.dtype, options.device, options.quantize)
    return chosen, loaded


def _sampling(options: argparse.Namespace) -> Any:
    from ..reason.reasoner import Sampling

    return Sampling(max_new_tokens=options.max_new_tokens, temperature=options.temperature, seed=options.seed)


def _settings(options: argparse.Namespace, pipeline: Any) -> Any:
    """The model's own defaults, with what the command line says on top."""
    from dataclasses import replace

    said = {"steps": options.steps, "guidance": options.guidance, "image_guidance": options.image_guidance}
    chosen = {key: value for key, value in said.items() if value is not None}
    return replace(pipeline.editor.defaults, seed=options.seed, **chosen)


def _record(
    options: argparse.Namespace, models: dict[str, Path], request: Request, result: Result
) -> dict[str, Any]:
    from .. import __version__
    from ..plan.trace import TRACE_VERSION

    kinds = ("reference", "reference_video", "reference_depth", "reference_text")
    return {
        "evlm": __version__,
        "trace_version": TRACE_VERSION,
        "image": options.image,
        "size": list(request.original.shape[:3]),
        "prompt": options.prompt,
        "references": [str(each) for kind in kinds for each in getattr(options, kind)],
        "models": {role: str(path) for role, path in models.items()},
        "trace": asdict(result.trace),
        "text": result.text,
        "boxes": [asdict(box) for box in result.boxes],
        "mask_share": None if result.mask is None else float((result.mask > 0).float().mean()),
        "seconds": {step: round(seconds, 3) for step, seconds in result.seconds.items()},
        "notes": list(result.notes),
    }


def _write_text(path: Path, text: str) -> None:
    from ..files.pictures import write_atomically

    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def _write_image(path: Path, image: Any) -> None:
    from ..files.pictures import write_atomically

    write_atomically(path, lambda file: image.save(file, format="PNG"))
