"""A plan that is doubted is shown and paints nothing unless that is asked for (C14).

A box of the plan's own has no score (C15)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pipeline import BOX, SIZE, circle, pipeline, trace

from evlm.boxes import Box
from evlm.cli.main import main
from evlm.files.pictures import load_picture, save_picture
from evlm.pipeline import Event, Pipeline
from evlm.request import Request
from evlm.viz.sheet import overlay

# What the bundled reasoner wrote for an Arabic request about a photograph: eight repairs.
LOST = "reference 1 : the words\nblue for agrees full\n</output>"
JSON = '{"instruction": "make it blue", "targets": ["red circle"]}'
FENCED = (
    'Here is the plan:\n```json\n{"instruction": "make it blue", "targets": ["red circle"], '
    '"bbox": [300, 200, 730, 640]}\n```'
)


def asked() -> Request:
    picture = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    return Request(
        picture,
        "\u0627\u062c\u0639\u0644 \u0627\u0644\u0633\u0645\u0627\u0621 \u0632\u0631\u0642\u0627\u0621",
    )


@pytest.mark.parametrize(
    "text",
    [
        LOST,
        f"<output>\n{LOST}",
        '{"instruction": "make it blue"}',
        '{"instruction": "make it blue", "targets": []}',
        "<thinking>\n</thinking>\n<intermediate>\n</intermediate>\n<reflection>\n</reflection>\n"
        "<output>\ninstruction: make it blue\ntargets: none\nscope: local\n</output>",
    ],
)
def test_what_does_not_say_where_paints_nothing(text: str) -> None:
    """(C14)"""
    request = asked()
    events: list[Event] = []
    result = pipeline(text).run(request, on_event=events.append)
    assert torch.equal(result.edited, request.original)
    assert any("nothing was painted" in event.text for event in events if event.kind == "note")
    shown = [event.text for event in events if event.kind == "note" and event.text.startswith("repaired: ")]
    assert shown == [f"repaired: {repair}" for repair in result.plan.repairs]
    painted = pipeline(text).run(request, anyway=True)
    assert not torch.equal(painted.edited, request.original)


def test_nothing_found_for_a_target_does_not_mean_the_whole_picture() -> None:
    """The brother of C14: targets, but no box and no mask of the plan."""
    request = asked()
    assert torch.equal(pipeline(trace(None)).run(request).edited, request.original)


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (trace(scope="global", targets=()), ()),
        (trace(circle()), (BOX,)),
        (JSON, (BOX,)),
        (FENCED, (BOX,)),
        (JSON.replace("}", ', "scope": "the whole picture"}'), ()),
    ],
)
def test_what_says_where_is_painted_however_plainly(text: Any, boxes: tuple[Box, ...]) -> None:
    """Untuned models answer in JSON, and are followed. (C14)"""
    request = asked()
    assert not torch.equal(pipeline(text, *boxes).run(request).edited, request.original)


def test_many_repairs_paint_nothing_although_there_is_a_target() -> None:
    """(C14)"""
    text = (
        "Sure!\n<Thinking>a circle\n<Output>\n```\n**Target:** red circle\ntargets: x\nhm\nScope = object\n"
        "**instruction:** make\nit blue\n```\n"
    )
    request = asked()
    result = pipeline(text, BOX).run(request)
    assert len(result.plan.repairs) > 8 and result.plan.targets == ("red circle",)
    assert torch.equal(result.edited, request.original)


def test_the_command_says_so_and_ends_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """(C14)"""
    monkeypatch.setattr(Pipeline, "load", lambda *_, **__: pipeline(LOST))
    image = tmp_path / "a.png"
    save_picture(image, asked().original)
    words = ["edit", "--image", str(image), "--prompt", "x", "--out", str(tmp_path / "out")]
    assert main(words) != 0
    shown = capsys.readouterr().err
    assert "repaired: " in shown and "--anyway" in shown
    assert torch.equal(load_picture(tmp_path / "out" / "edited.png"), load_picture(image))
    assert json.loads((tmp_path / "out" / "trace.json").read_text())["held_back"]
    assert main([*words, "--anyway"]) == 0
    assert not torch.equal(load_picture(tmp_path / "out" / "edited-2.png"), load_picture(image))


def test_the_plans_own_box_has_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Terminal, sheet and trace.json say whose it is. (C15)"""
    monkeypatch.setattr(Pipeline, "load", lambda *_, **__: pipeline(trace(circle())))
    image = tmp_path / "a.png"
    save_picture(image, asked().original)
    assert main(["edit", "--image", str(image), "--prompt", "x", "--out", str(tmp_path / "out")]) == 0
    (box,) = json.loads((tmp_path / "out" / "trace.json").read_text())["boxes"]
    assert box["score"] is None and box["label"] == "red circle"
    shown = capsys.readouterr().err
    assert "1.00" not in shown and "the plan's own box" in shown
    result = pipeline(trace(circle())).run(asked())
    frame = asked().original[0]
    with_score = [Box(b.label, 1.0, b.x0, b.y0, b.x1, b.y1) for b in result.boxes]
    assert overlay(frame, None, result.boxes).tobytes() != overlay(frame, None, with_score).tobytes()
