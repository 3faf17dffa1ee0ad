"""Writing a trace: tokens a second and the first token, beside transformers' `generate`, greedy both."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from evlm.reason.budgets import LEAST_OUTPUT, Budgets
from evlm.reason.messages import build_messages, encode
from evlm.reason.reasoner import Guided, Reasoner, Sampling
from evlm.request import Reference, Request

from ..guided_overhead import single_steps
from .qwen import MODELS, backbone, picture_side
from .steps import Bar, Setting, Step
from .turns import figures, in_turns, wait

PROMPT, NEW = 1200, 256


def steps(setting: Setting) -> list[Step]:
    found = []
    for name in MODELS:
        if setting.toy and name == "Qwen2-VL-7B":
            continue  # the toy of 2B
        bars = (Bar("ours x", 1.5), Bar("ours over static x", 1.0)) if name == "Qwen2-VL-7B" else ()
        found.append(Step(f"reason: {name}, tokens", 4.0, partial(tokens, setting, name), bars))
        found.append(Step(f"reason: {name}, guided writing", 2.0, partial(guided, setting, name)))
    found.append(
        Step(
            "reason: Qwen2-VL-2B in 4 bit", 3.0, lambda: four_bit(setting), needs=("bitsandbytes",), cuda=True
        )
    )
    return found


def tokens(setting: Setting, name: str) -> dict[str, float]:
    """`generate` by default (a growing cache) and with its static cache, compiled; ours as it is and
    compiled. "first": until the first token. Ours reads the pictures anew each time, as the peers do."""
    made = backbone(name, setting)
    model: Any = made.model
    prompt, new = (80, 8) if setting.toy else (PROMPT, NEW)
    request = request_of(made, prompt, setting)
    inputs = encode(made.processor, [build_messages(request, style=made.request_style)])
    given = {
        key: value.to(setting.device, setting.half if value.is_floating_point() else None)
        for key, value in inputs.items()
    }
    plain = Reasoner(made)
    compiled = Reasoner(made, compiled=True) if setting.device.type == "cuda" else None

    def theirs(count: int, **how: Any) -> Callable[[], Any]:
        return lambda: model.generate(
            **given, max_new_tokens=count, min_new_tokens=count, do_sample=False, **how
        )

    def ours(reasoner: Reasoner, count: int) -> Callable[[], Any]:
        def run() -> None:
            reasoner.prefixes.clear()
            written = reasoner.generate(request, Sampling(count, guided="never")).tokens
            if written != count:
                raise RuntimeError(f"{written} tokens were written, not {count}: another seed of the weights")

        return run

    static = {"cache_implementation": "static"}  # which generate compiles by itself on a card
    first = in_turns(
        {"ours first": ours(plain, 1), "generate first": theirs(1)},
        setting.device,
        setting.rounds,
        setting.warm,
    )
    ways = {"generate": theirs(new), "static": theirs(new, **static), "ours eager": ours(plain, new)}
    ways["ours"] = ours(compiled, new) if compiled is not None else ours(plain, new)
    timed = in_turns(ways, setting.device, setting.rounds, warm=2 * setting.warm)
    values = {"prompt": float(given["input_ids"].shape[1]), "new": float(new)}
    values |= {f"{way} tokens/s": new / each.seconds for way, each in timed.items()}
    values |= figures(timed, "generate") | {f"{way} s": each.seconds for way, each in first.items()}
    values["ours over static x"] = timed["static"].seconds / timed["ours"].seconds
    return values


def guided(setting: Setting, name: str) -> dict[str, float]:
    """A token written in the form and freely, drawn by its odds: of forwards of one token each, as
    `benchmarks.guided_overhead` takes them."""
    made = backbone(name, setting)
    request = request_of(made, 80 if setting.toy else PROMPT, setting)
    reasoner, count = Reasoner(made), 100 if setting.toy else 160
    budgets = Budgets(count - LEAST_OUTPUT, 0, 0, LEAST_OUTPUT)
    ways: dict[str, Guided] = {"free": "never", "guided": "always"}
    found: dict[str, float] = {}
    for name, way in ways.items():
        spent: list[float] = []
        for seed in range(setting.rounds):
            with single_steps(partial(wait, setting.device)) as single:
                reasoner.generate(request, Sampling(count, 1.0, 1.0, seed, way, budgets))
            spent += single[2 : count - LEAST_OUTPUT]
        found[f"{name} s a token"] = median(spent)
    found["guided x"] = found["guided s a token"] / found["free s a token"]
    return found


def four_bit(setting: Setting) -> dict[str, float]:
    """bitsandbytes' nf4 beside bf16."""
    made = backbone("Qwen2-VL-2B", setting)
    request = request_of(made, PROMPT, setting)
    model: Any = made.model
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        model.save_pretrained(folder)
        made.processor.save_pretrained(folder)
        small = Reasoner.load(folder, quantize="4bit", device=setting.device)
    whole = Reasoner(made)
    held = torch.cuda.memory_allocated(setting.device)

    def run(reasoner: Reasoner) -> Callable[[], Any]:
        def work() -> None:
            reasoner.prefixes.clear()
            reasoner.generate(request, Sampling(NEW, guided="never"))

        return work

    timed = in_turns({"bf16": run(whole), "4 bit": run(small)}, setting.device, setting.rounds, setting.warm)
    return {**figures(timed, "bf16"), "both GB": held / 1e9}


def request_of(made: Any, length: int, setting: Setting) -> Request:
    """Two pictures and words, of about `length` tokens as the model reads them."""
    side = picture_side(made.family, setting)
    draw = torch.Generator().manual_seed(3)
    one, other = (torch.rand(1, side, side, 3, generator=draw) for _ in range(2))

    def asked(words: int) -> Request:
        return Request(one, "make it " + "so " * words, (Reference("image", other),))

    def count(request: Request) -> int:
        chat = build_messages(request, style=made.request_style)
        return int(encode(made.processor, [chat])["input_ids"].shape[1])

    bare, each = count(asked(0)), count(asked(10)) - count(asked(0))
    return asked(max(0, round((length - bare) / max(each, 1) * 10)))
