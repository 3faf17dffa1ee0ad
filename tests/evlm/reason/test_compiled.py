"""The compiled forward of one token writes what the plain one writes, and says what it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch

from evlm.errors import ModelError
from evlm.reason import compiled
from evlm.reason.compiled import CompiledStep, check_compiler
from evlm.reason.reasoner import Reasoner, Sampling
from evlm.request import Reference, Request


def ask(seed: int = 1) -> Request:
    random = torch.Generator().manual_seed(seed)
    reference = Reference("video", torch.rand(5, 32, 48, 3, generator=random), fps=8.0)
    return Request(torch.rand(1, 48, 64, 3, generator=random), "like this", (reference,))


def both(folder: Path, backend: str) -> tuple[Reasoner, Reasoner]:
    """One that compiles, and one that does not."""
    (folder / "evlm.json").write_text('{"prompt": "short"}')
    compiles = Reasoner.load(folder, device="cpu", dtype="fp32", compiled=True)
    compiles.compiled = CompiledStep(compiles.module, backend)
    return compiles, Reasoner.load(folder, device="cpu", dtype="fp32")


FREE, GUIDED = Sampling(24, guided="never"), Sampling(48, temperature=1.3, seed=3, guided="always")


def check(compiles: Reasoner, plain: Reasoner, *samplings: Sampling) -> None:
    for sampling in samplings:
        for seed in (1, 2):
            assert compiles.generate(ask(seed), sampling).text == plain.generate(ask(seed), sampling).text


def test_the_text_is_the_same(tmp_path: Path) -> None:
    """Without a compiler: torch traces the forward and runs what it traced."""
    compiles, plain = both(tiny_qwen.save_folder(tmp_path / "m", "qwen2_5_vl"), "eager")
    check(compiles, plain, FREE, GUIDED)
    step = compiles.compiled
    assert step is not None and step.nbytes > 0
    assert compiles.kept_bytes == step.nbytes + compiles.prefixes.nbytes
    compiles.forget()
    assert compiles.kept_bytes == 0


@pytest.mark.slow
def test_a_text_that_passes_the_end_of_its_room_goes_on_in_a_longer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "LEAST_ROOM", 64)
    monkeypatch.setattr(compiled, "SPARE", 1)
    compiles, plain = both(tiny_qwen.save_folder(tmp_path / "m"), "eager")
    step, sizes = compiles.compiled, set()
    assert step is not None
    long = Sampling(200, temperature=1.0, guided="never")
    text = compiles.generate(ask(), long, lambda _: sizes.add(step.nbytes)).text
    assert text == plain.generate(ask(), long).text
    assert len(sizes) > 1


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_the_text_is_the_same_in_every_family(tmp_path: Path, family: str) -> None:
    pair = both(tiny_qwen.save_folder(tmp_path / "m", family), "aot_eager")
    check(*pair, FREE, GUIDED, Sampling(48, guided="always"), Sampling(48, temperature=1.3, guided="never"))


@pytest.mark.slow
def test_what_a_compiler_makes_writes_the_same(tmp_path: Path) -> None:
    check_compiler(torch.device("cpu"))
    check(*both(tiny_qwen.save_folder(tmp_path / "m"), "inductor"), FREE, GUIDED)


@pytest.mark.slow
def test_models_that_went_before_leave_room_to_compile(tmp_path: Path) -> None:
    """torch compiles one code object eight times, and then no more."""
    folder = tiny_qwen.save_folder(tmp_path / "m")
    for _ in range(10):
        compiles, _plain = both(folder, "eager")
        compiles.generate(ask(), Sampling(3, guided="never"))


def test_what_is_lacking_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ModelError, match=r"needs a C\+\+ compiler.*turn compile off"):
        check_compiler(torch.device("cpu"))
    with pytest.raises(ModelError, match="not on mps"):
        check_compiler(torch.device("mps"))
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="triton"):
        check_compiler(torch.device("cuda"))
    folder = tiny_qwen.save_folder(tmp_path / "m")
    reasoner = Reasoner.load(folder, device="cpu", compiled=True)
    with pytest.raises(ModelError, match=r"C\+\+"):
        reasoner.generate(ask(), Sampling(8, guided="never"))


@pytest.mark.slow
def test_what_a_compiler_raises_is_an_error_of_ours(tmp_path: Path) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such instruction")

    reasoner = Reasoner.load(tiny_qwen.save_folder(tmp_path / "m"), device="cpu", compiled=True)
    reasoner.compiled = CompiledStep(reasoner.module, broken)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"torch.compile failed .*turn compile off"):
        reasoner.generate(ask(), Sampling(8, guided="never"))
