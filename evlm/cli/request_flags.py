"""What `edit` and `scene edit` share: the flags of a request and of its models, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EVLMError
from ..plan.native_boxes import FORMS
from . import arguments as kinds
from . import given

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from ..reason.given import GivenPlan
    from .terminal import Terminal

TOY = "the bundled models know a small drawn world and no photographs; for those: --models photo-8gb"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    add = parser.add_argument
    add("--prompt", default="", help="a few words, or none when there is a reference")
    for kind, metavar, text in (
        ("reference", "FILE", "picture to look at, or a folder of them"),
        ("reference-video", "FILE", "video, animation or folder of frames to look at"),
        ("reference-depth", "FILE", "depth map to look at"),
        ("reference-text", "WORDS", "words to go by"),
    ):
        read = str if metavar == "WORDS" else kinds.path
        add(f"--{kind}", action="append", default=[], metavar=metavar, type=read, help=f"{text}; repeatable")
    names = (
        "'bundled', folders, files, names of `models` or hub ids; later ones win; ROLE=NAME says for what, "
        "ROLE=none leaves it out (roles: reasoner detector segmenter editor)"
    )
    add("--models", nargs="+", default=["bundled"], metavar="NAME", type=kinds.model_name, help=names)
    text = "folder for the results; nothing in it is replaced, a second run writes edited-2.png and so on"
    add("--out", required=True, metavar="DIR", type=kinds.path, help=text)
    text = "replace the results of an earlier run in --out (a file that this run reads, never)"
    add("--overwrite", action="store_true", help=text)
    text = (
        "paint by a plan that is doubted, too: one that needed many repairs, or that would repaint the whole "
        "picture unasked"
    )
    add("--anyway", action="store_true", help=text)
    text = (
        "show a plan of which the model is less sure than this, 0 to 1, and ask before it is painted; where "
        "nobody can be asked, paint nothing; 0: never"
    )
    add("--ask-below", type=kinds.number(0, 1), default=0.0, metavar="X", help=text)
    given.add_flags(parser)
    text = "LoRA for the reasoner: PEFT folder or .safetensors of ours"
    add("--adapter", metavar="PATH", type=kinds.path, help=text)
    add("--quantize", choices=["4bit"], help="the reasoner in 4 bits; needs bitsandbytes")
    text = "torch.compile for each of the reasoner's tokens: slow at first; needs a C++ compiler"
    add("--compile", action="store_true", help=text)
    text = "OpenAI-compatible endpoint instead of a local reasoner; its key is read from EVLM_API_KEY"
    add("--endpoint", metavar="URL", help=text)
    add("--endpoint-model", metavar="NAME", help="the model's name at the endpoint")
    text = "tuned: the endpoint's model was trained on EVLM's masks, so its place decides, not the detector's"
    add("--endpoint-trust", choices=["base", "tuned"], default="base", help=text)
    text = (
        "the form in which the endpoint's model writes a box: own (0 to 1000), qwen2-vl, qwen2.5-vl or "
        "qwen3-vl; auto: by its name"
    )
    add("--endpoint-boxes", choices=["auto", *FORMS], default="auto", help=text)
    add("--device", help="cuda, cuda:1, mps or cpu; the best one there is by default")
    text = "of the weights; auto: what suits model and device"
    add("--dtype", default="auto", choices=["auto", "bf16", "fp16", "fp32"], help=text)
    text = "of the reasoner's and the editor's draws, 0 to 2^63 - 1"
    add("--seed", type=kinds.whole(0, 2**63 - 1), default=0, metavar="N", help=text)
    own = "the model's own by default"
    text = f"editing steps, 1 to 1000; {own}"
    add("--steps", type=kinds.whole(1, 1000), metavar="N", help=text)
    text = f"how strictly the instruction is followed, 0 to 100; {own}"
    add("--guidance", type=kinds.number(0, 100), metavar="X", help=text)
    text = f"how closely the original is kept, 0 to 100; {own}"
    add("--image-guidance", type=kinds.number(0, 100), metavar="X", help=text)
    text = f"least score of a detected box, 0 to 1; {own}"
    add("--threshold", type=kinds.number(0, 1), metavar="X", help=text)
    text = "of the reasoner, 0.001 to 100; 0 is deterministic"
    add("--temperature", type=kinds.number(1e-3, 100, or_zero=True), default=0.0, metavar="X", help=text)
    text = "how long the reasoner's answer may be, 1 to 65536"
    add("--max-new-tokens", type=kinds.whole(1, 65536), default=768, metavar="N", help=text)
    text = (
        "whether the reasoner's text is held to its form, so that it cannot ramble or miss it; auto: a model "
        "that was never tuned on the form"
    )
    add("--guided", choices=["auto", "always", "never"], default="auto", help=text)
    text = (
        "how a reasoner that was never tuned on the form is asked: all four parts explained, by two whole "
        "examples, one part of thought, the plan alone; auto: its own, the only one for a tuned model"
    )
    add("--style", choices=["auto", "full", "few-shot", "two_step", "direct"], default="auto", help=text)
    text = (
        "tokens that each part of a text that is held to its form may have: thinking, intermediate, "
        "reflection, output; 256,96,128,160 by default"
    )
    add("--budgets", type=kinds.numbers(4), metavar="T,I,R,O", help=text)
    text = f"largest picture that the reasoner sees, in pixels (a larger one is made smaller); {own}"
    add("--max-pixels", type=kinds.whole(784, 10**8), metavar="N", help=text)


def check_request(options: argparse.Namespace) -> None:
    """Raises EVLMError for what can be seen to be wrong from the flags alone."""
    if options.endpoint and not options.endpoint_model:
        raise EVLMError("--endpoint needs --endpoint-model, the model's name there")
    if options.endpoint_model and not options.endpoint:
        raise EVLMError("--endpoint-model needs --endpoint, the address")
    given.check_flags(options)
    for flag in ("adapter", "quantize", "compile"):
        if options.endpoint and getattr(options, flag):
            raise EVLMError(
                f"--{flag} is for a reasoner on this machine, and --endpoint names another: leave one out"
            )
    if options.budgets is not None:
        from ..reason.budgets import Budgets

        Budgets(*options.budgets).check()
    if options.adapter and not _exists(options.adapter):
        raise EVLMError(f"--adapter {options.adapter}: no such file or folder")


def loaded(
    terminal: Terminal, plan: GivenPlan | None
) -> Callable[[argparse.Namespace], tuple[dict[str, Path], Pipeline]]:
    """Loads the models, and says of the bundled ones what they know."""

    def load(options: argparse.Namespace) -> tuple[dict[str, Path], Pipeline]:
        from ..models.zoo import BUNDLED

        models, pipeline = _pipeline(options, plan)
        if models.get("reasoner") == BUNDLED / "reasoner":
            terminal.note(TOY)
        return models, pipeline

    return load


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _pipeline(options: argparse.Namespace, plan: GivenPlan | None) -> tuple[dict[str, Path], Pipeline]:
    from ..models.zoo import choose
    from ..pipeline import Pipeline

    chosen = choose(options.models, options.folder)
    for role in ("detector", "segmenter") if options.mask else ():
        chosen.pop(role, None)
    remote: Any = plan
    if plan is not None:
        chosen.pop("reasoner", None)
    elif options.endpoint:
        from ..reason.remote import RemoteReasoner

        chosen.pop("reasoner", None)
        limits = {} if options.max_pixels is None else {"max_pixels": options.max_pixels}
        remote = RemoteReasoner(
            options.endpoint,
            options.endpoint_model,
            trust=options.endpoint_trust,
            boxes=options.endpoint_boxes,
            **limits,
        )
    loaded = Pipeline.load(
        chosen,
        remote,
        options.adapter,
        options.dtype,
        options.device,
        options.quantize,
        options.max_pixels,
        options.compile,
    )
    return chosen, loaded


def sampling(options: argparse.Namespace) -> Any:
    from ..reason.budgets import DEFAULT_BUDGETS, Budgets
    from ..reason.reasoner import Sampling

    return Sampling(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        seed=options.seed,
        guided=options.guided,
        style=options.style,
        budgets=DEFAULT_BUDGETS if options.budgets is None else Budgets(*options.budgets),
    )


def editor_settings(options: argparse.Namespace, pipeline: Any) -> Any:
    """The model's own defaults, with what the command line says on top."""
    from dataclasses import replace

    said = {"steps": options.steps, "guidance": options.guidance, "image_guidance": options.image_guidance}
    chosen = {key: value for key, value in said.items() if value is not None}
    return replace(pipeline.editor.defaults, seed=options.seed, **chosen)
