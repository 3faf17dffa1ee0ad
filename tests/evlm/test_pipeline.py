"""The five steps in a row with small steps of known behaviour: order, events, timings, cancel, what decides
the mask. With the bundled models, the same on a real request."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evlm.boxes import Box
from evlm.edit import Edited, EditSettings
from evlm.errors import Cancelled, ModelError, TraceError
from evlm.pipeline import STEPS, Event, Pipeline
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan, Trace, parse, render
from evlm.reason.reasoner import Reasoned
from evlm.request import Request
from evlm.segment.segmenter import Segmentation
from evlm.viz.sheet import SheetRow, draw_sheet, overlay

SIZE = 48


def circle() -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (((columns - 24) ** 2 + (rows - 20) ** 2) <= 100).float()


def trace(
    mask: Tensor | None = None, targets: tuple[str, ...] = ("red circle",), scope: Any = "local"
) -> Trace:
    text = None if mask is None else BoxSpans().encode(mask)
    return Trace(
        "a circle", "make it green", "no: blue", Plan("make the red circle blue", targets, text, scope)
    )


class Says:
    """A reasoner that writes a given text in pieces of seven characters."""

    def __init__(self, text: str) -> None:
        self.text = text

    def reason(
        self, request: Request, sampling: Any = None, on_token: Any = None, repair: bool = True
    ) -> Reasoned:
        pieces = [self.text[i : i + 7] for i in range(0, len(self.text), 7)]
        for piece in pieces:
            if on_token:
                on_token(piece)
        return Reasoned(self.text, len(pieces), 0.0, trace=parse(self.text, repair))


class Finds:
    """A detector that finds given boxes, and remembers what it was asked."""

    def __init__(self, *boxes: Box) -> None:
        self.boxes, self.asked = boxes, []  # type: ignore[var-annotated]

    def ground(self, frames: Tensor, labels: Any, threshold: float | None = None) -> list[Box]:
        self.asked.append((tuple(labels), threshold))
        return list(self.boxes)


class Cuts:
    """A segmenter that returns the circle for every box."""

    def segment(self, frames: Tensor, boxes: Any = None) -> Segmentation:
        masks = circle().expand(len(boxes), len(frames), -1, -1)
        return Segmentation(masks, torch.ones(len(boxes)))


class Paints:
    """An editor that paints the mask blue in three steps."""

    defaults = EditSettings(steps=3)

    def edit(
        self, frames: Tensor, instruction: str, mask: Any = None, settings: Any = None, on_step: Any = None
    ) -> Edited:
        for step in range(3):
            on_step(step + 1, 3, None)
        where = torch.ones(frames.shape[:3]) if mask is None else mask
        blue = torch.tensor([0.0, 0.0, 1.0]).expand_as(frames)
        return Edited(torch.where(where[..., None] > 0, blue, frames), frames, notes=("painted",))


@pytest.fixture
def request_() -> Request:
    return Request(
        torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0)), "like this, maybe"
    )


def pipeline(of: Trace | str, *boxes: Box, segmenter: Any = None) -> Pipeline:
    text = of if isinstance(of, str) else render(of)
    return Pipeline(Says(text), Finds(*boxes), Cuts() if segmenter is None else segmenter, Paints())


BOX = Box("red circle", 0.9, 14, 10, 35, 31)


def test_every_intermediate_comes_out_and_the_outside_stays(request_: Request) -> None:
    result = pipeline(trace(circle()), BOX).run(request_)
    assert result.plan.instruction == "make the red circle blue" and result.trace.reflection == "no: blue"
    assert result.boxes == (BOX,)
    assert result.object_masks is not None and result.object_masks.shape == (1, 1, SIZE, SIZE)
    assert result.mask is not None and torch.equal(result.mask[0], circle())
    outside = result.mask == 0
    assert torch.equal(result.edited[outside], request_.original[outside])
    assert bool((result.edited[~outside] == torch.tensor([0.0, 0.0, 1.0])).all())
    assert tuple(result.seconds) == STEPS and all(s >= 0 for s in result.seconds.values())
    assert "painted" in result.notes


def test_events_tell_the_whole_story_in_order(request_: Request) -> None:
    events: list[Event] = []
    pipe = pipeline(trace(circle()), BOX)
    result = pipe.run(request_, on_event=events.append)
    assert "".join(e.text for e in events if e.kind == "text") == result.text
    assert [e.step for e in events if e.kind == "start"] == list(STEPS)
    assert [(e.done, e.total) for e in events if e.kind == "progress"] == [(1, 3), (2, 3), (3, 3)]
    assert [e.text for e in events if e.kind == "end"] == [
        "make the red circle blue",
        "red circle 0.90",
        "1 object",
        "14% of the frame",
    ]
    assert tuple(e.text for e in events if e.kind == "note") == result.notes


@pytest.mark.parametrize("kind", ["start", "text", "progress", "end", "note"])
def test_what_the_listener_raises_stops_the_work(request_: Request, kind: str) -> None:
    def stop(event: Event) -> None:
        if event.kind == kind:
            raise Cancelled

    with pytest.raises(Cancelled):
        pipeline(trace(circle()), BOX).run(request_, on_event=stop)


def test_a_global_plan_skips_detector_and_segmenter(request_: Request) -> None:
    pipe = pipeline(trace(scope="global", targets=()), BOX)
    result = pipe.run(request_)
    assert pipe.grounder.asked == []  # type: ignore[union-attr]
    assert result.mask is None and result.boxes == () and tuple(result.seconds) == ("reason", "edit")


def test_without_detector_and_segmenter_the_plans_box_and_mask_do_the_work(request_: Request) -> None:
    said = trace(circle())
    result = Pipeline(Says(render(said)), None, None, Paints()).run(request_)
    assert len(result.boxes) == 1 and result.boxes[0].label == "red circle"
    assert result.object_masks is None and result.mask is not None
    inside = circle() > 0
    assert (result.mask[0] > 0)[inside].float().mean() > 0.9


def test_when_the_detector_is_wrong_the_plans_box_prompts_the_segmenter(request_: Request) -> None:
    wrong = Box("red circle", 0.5, 40, 40, 47, 47)
    result = pipeline(trace(circle()), wrong).run(request_)
    assert result.boxes[0].by_plan and result.boxes[0].score == 0.0, "no detector vouches for it"
    assert result.boxes[0].x0 < 24 < result.boxes[0].x1
    assert any("not where the plan says" in note for note in result.notes)


def test_nothing_found_is_a_result(request_: Request) -> None:
    result = pipeline(trace(None)).run(request_)
    assert result.boxes == () and result.object_masks is None and result.mask is None
    assert any("nothing was found" in note for note in result.notes)


def test_an_empty_plan_mask_returns_the_original(request_: Request) -> None:
    said = trace(torch.zeros(SIZE, SIZE))
    result = Pipeline(Says(render(said)), None, None, Paints()).run(request_)
    assert torch.equal(result.edited, request_.original) and result.edited is not request_.original


def test_the_threshold_reaches_the_detector_and_repairs_reach_the_notes(request_: Request) -> None:
    pipe = pipeline('{"instruction": "make it blue", "targets": ["red circle"]}', BOX)
    result = pipe.run(request_, threshold=0.4)
    assert pipe.grounder.asked == [(("red circle",), 0.4)]  # type: ignore[union-attr]
    assert any(note.startswith("repaired: ") for note in result.notes)


def test_a_text_without_a_plan_is_a_trace_error(request_: Request) -> None:
    with pytest.raises(TraceError):
        pipeline("I cannot help with that.").run(request_)


def test_a_video_keeps_its_frames(request_: Request) -> None:
    frames = request_.original.repeat(4, 1, 1, 1)
    result = Pipeline(Says(render(trace(circle()))), None, None, Paints()).run(
        Request(frames, "blue", fps=8.0)
    )
    assert result.edited.shape == frames.shape and result.mask is not None and len(result.mask) == 4


def test_load_says_which_models_lack() -> None:
    with pytest.raises(ModelError, match="no reasoner and no editor"):
        Pipeline.load({})


# The sheet that shows such a result


def test_the_sheet_shows_small_pictures_pixel_by_pixel(request_: Request) -> None:
    result = pipeline(trace(circle()), BOX).run(request_)
    sheet = draw_sheet([SheetRow(request_, result, "one"), SheetRow(request_, result)], side=96)
    assert sheet.mode == "RGB" and sheet.width == 2 * 28 + 4 * 96 + 3 * 16
    factor = 96 // SIZE
    import numpy as np

    pixels = np.asarray(sheet)
    wanted = (
        (request_.original[0] * 255).round().byte().repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    )
    rows = [
        y for y in range(pixels.shape[0] - 96) if (pixels[y : y + 96, 28 : 28 + 96] == wanted.numpy()).all()
    ]
    assert len(rows) == 2, "each row shows its original, enlarged by a whole factor, unchanged"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 400), (700, 300), (64, 64)])
def test_any_size_fits_into_a_tile(height: int, width: int) -> None:
    frame, mask = torch.rand(height, width, 3), torch.ones(height, width)
    box = Box("a very long label that does not fit anywhere", 0.5, 0, 0, width, height)
    assert overlay(frame, mask, [box], side=128).size == (128, 128)
    assert overlay(frame, None, [], side=128).size == (128, 128)


def test_long_words_and_empty_prompts_are_drawn(request_: Request) -> None:
    from dataclasses import replace

    from evlm.request import Reference

    result = pipeline(trace(circle()), BOX).run(request_)
    result = replace(result, plan=Plan("a" * 500 + " and then some more words " * 20, ("x",)))
    references = (Reference("text", text="word " * 400), Reference("video", torch.rand(5, 9, 30, 3)),
                  Reference("image", torch.rand(1, 600, 20, 3)), Reference("depth", torch.rand(1, 8, 8, 3)),
                  Reference("text", text="one too many"))  # fmt: skip
    sheet = draw_sheet([SheetRow(Request(request_.original, "", references), result)], side=64)
    assert sheet.height > 64


@pytest.mark.parametrize("targets", [(), ("red circle",)])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_a_plan_that_asks_for_no_change_gives_the_original_back_and_says_so(
    request_: Request, targets: tuple[str, ...], scope: Any
) -> None:
    """(A7)"""
    events: list[Event] = []
    pipe = pipeline(Trace("a", "b", "c", Plan("no change needed", targets, None, scope)), BOX)
    result = pipe.run(request_, on_event=events.append)
    assert torch.equal(result.edited, request_.original)
    assert result.mask is not None and not result.mask.any()
    assert any("no change" in note for note in result.notes)
    assert any(event.kind == "note" and "no change" in event.text for event in events)


def test_a_refusal_stops_the_pipeline_and_is_quoted(request_: Request) -> None:
    """(A7)"""
    text = render(Trace("a", "b", "c", Plan("I'm sorry, but I can't assist", (), None, "global")))
    said = ""
    try:
        pipeline(text).run(request_)
    except TraceError as error:
        said = str(error)
    assert "I'm sorry, but I can't assist" in said


def test_what_the_reasoner_notes_is_noted(request_: Request) -> None:
    """(A19)"""

    class Notes(Says):
        def reason(self, *args: Any, **options: Any) -> Reasoned:
            reasoned = super().reason(*args, **options)
            object.__setattr__(reasoned, "notes", ("sent without seed",))
            return reasoned

    pipe = Pipeline(Notes(render(trace(circle()))), None, None, Paints())
    assert "sent without seed" in pipe.run(request_).notes
