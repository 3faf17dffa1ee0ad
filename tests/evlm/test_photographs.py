"""Photographs (public domain, from scikit-image) through the whole chain, at their own sizes. The bundled
models know
nothing of photographs: shapes, ranges and an untouched outside are asked for here, and no quality."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evlm import Pipeline, Reference, Request
from evlm.edit.protocol import EditSettings
from evlm.errors import TraceError
from evlm.models import zoo
from evlm.pipeline import Result
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan, Scope, Trace
from evlm.reason.reasoner import Reasoned

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")


def photograph(name: str) -> Tensor:
    import skimage.data

    return torch.from_numpy(getattr(skimage.data, name)()).float()[None] / 255


def references(kind: str) -> tuple[Reference, ...]:
    if kind == "image":
        return (Reference("image", photograph("coffee")[:, :120, :90]),)
    return (Reference("text", text="make it green, like a meadow"),) if kind == "text" else ()


@pytest.fixture(scope="module")
def bundled() -> Pipeline:
    return Pipeline.load(zoo.choose(["bundled"]), device="cpu")


def two_steps(pipeline: Pipeline) -> EditSettings:
    """Of the editor: shapes, ranges and the outside are in every step."""
    return pipeline.editor.defaults.with_kwargs(steps=2)


class Planned:
    """A reasoner whose plan is given: what comes after the plan is what is tested."""

    def __init__(self, plan: Plan) -> None:
        self.trace = Trace("", "", "", plan)

    def reason(self, *_: object, **__: object) -> Reasoned:
        return Reasoned("", 0, 0.0, trace=self.trace)


def check(request: Request, result: Result) -> None:
    edited, original = result.edited, request.original
    assert edited.shape == original.shape and edited.dtype == torch.float32
    assert bool(torch.isfinite(edited).all()) and float(edited.min()) >= 0 and float(edited.max()) <= 1
    if result.mask is not None:
        assert result.mask.shape == original.shape[:3]
        outside = result.mask == 0
        assert torch.equal(edited[outside], original[outside])


@pytest.mark.parametrize(("name", "kind"), [*zip(PHOTOGRAPHS, ("image", "text", "none"), strict=True)])
def test_a_photograph_gives_a_picture_or_one_clear_error(bundled: Pipeline, name: str, kind: str) -> None:
    request = Request(photograph(name), "make it so", references(kind))
    try:
        check(request, bundled.run(request, edit=two_steps(bundled)))
    except TraceError as error:
        assert str(error), "a reasoner that knows only a drawn world may write no plan for a photograph"


@pytest.mark.parametrize(
    ("name", "region"),
    [("astronaut", "silhouette"), ("coffee", "rectangle"), ("coffee", "none"), ("chelsea", "global")],
)
def test_whatever_is_planned_the_outside_stays(bundled: Pipeline, name: str, region: str) -> None:
    request = Request(photograph(name), "green")
    height, width = request.original.shape[1:3]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = ((columns - width / 2) ** 2 + (rows - height / 2) ** 2 < (height / 5) ** 2).float()
    box = torch.zeros(height, width)
    box[height // 3 : height // 2, width // 4 : width // 2] = 1
    mask = {"silhouette": disc, "rectangle": box}.get(region)
    text = None if mask is None else BoxSpans().encode(mask)
    scope: Scope = "global" if region == "global" else "local"
    plan = Plan("make the red circle green", ("red circle",), text, scope)
    planned = Pipeline(Planned(plan), bundled.grounder, bundled.segmenter, bundled.editor)
    result = planned.run(request, edit=two_steps(bundled))
    check(request, result)
    if mask is not None:
        assert result.mask is not None and 0 < float(result.mask.mean()) < 0.5
    assert (result.mask is None) or region != "global"
