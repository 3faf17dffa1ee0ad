"""`--ask-below`: whether a plan is painted of which the model is not sure."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pipeline import BOX, SIZE, circle, pipeline, trace

from evlm.cli.ask import UNKNOWN, Ask
from evlm.cli.main import main
from evlm.cli.terminal import Terminal
from evlm.files.pictures import load_picture, save_picture
from evlm.pipeline import Pipeline
from evlm.reason.reasoner import Reasoned
from evlm.request import Request


def asked() -> Request:
    return Request(torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0)), "like this")


def sure(confidence: float | None) -> Pipeline:
    """Whose reasoner says so of its plan."""
    made = pipeline(trace(circle()), BOX)
    says = made.reasoner.reason

    def reason(*args: Any, **kwargs: Any) -> Reasoned:
        said = says(*args, **kwargs)
        plan = replace(said.trace.plan, confidence=confidence)
        return replace(said, trace=replace(said.trace, plan=plan))

    made.reasoner.reason = reason  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize(
    ("confidence", "below", "typed", "painted"),
    [
        *(
            (0.5, 0.6, "y\n", True),
            (0.5, 0.6, " Yes \n", True),
            (0.5, 0.6, "n\n", False),
            (0.5, 0.6, "", False),
        ),
        *((0.5, 0.6, None, False), (0.6, 0.6, None, True), (0.1, 0.0, None, True), (None, 0.9, None, True)),
    ],
)
def test_it_paints_what_is_sure_enough_or_said_to_be(
    confidence: float | None, below: float, typed: str | None, painted: bool
) -> None:
    out = io.StringIO()
    ask = Ask(below, Terminal(out), None if typed is None else lambda: typed)
    request = asked()
    result = sure(confidence).run(request, confirm=ask, anyway=True)
    assert (result.held_back == "") is painted
    assert torch.equal(result.edited, request.original) is not painted
    assert (UNKNOWN in out.getvalue()) is (confidence is None)
    assert ("instruction: " in out.getvalue()) is bool(confidence and confidence < below), "the plan is shown"
    assert ("paint it?" in out.getvalue()) is (typed is not None)


def test_the_command_stops_with_its_own_status_and_keeps_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is asked where nobody watches."""
    monkeypatch.setattr(Pipeline, "load", lambda *_, **__: sure(0.25))
    image = tmp_path / "a.png"
    save_picture(image, asked().original)
    words = ["edit", "--image", str(image), "--prompt", "x", "--out", str(tmp_path / "out"), "--ask-below"]
    assert main([*words, "0.6"]) == 3
    shown = capsys.readouterr().err
    assert "sure of this plan by 0.25" in shown and shown.rstrip().endswith("or lower --ask-below")
    assert torch.equal(load_picture(tmp_path / "out" / "edited.png"), load_picture(image))
    kept = json.loads((tmp_path / "out" / "trace.json").read_text())
    assert "--ask-below is 0.6" in kept["held_back"] and kept["trace"]["plan"]["confidence"] == 0.25
    assert main([*words, "0.2"]) == 0
    assert main([*words, "1.5"]) == 2
