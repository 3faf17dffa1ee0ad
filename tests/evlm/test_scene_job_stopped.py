"""An edit of a scene, stopped on its way: it goes on to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_scene_job import QUICK, SIZE, Greens, job
from torch import Tensor

from evlm.errors import Cancelled
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan
from evlm.scene.edit import SceneEdit
from evlm.scene_job import SceneJob


def _goes_on(work: Path, settings: SceneEdit, plans: tuple[Plan, ...], stops: tuple[int | None, ...]) -> None:
    """Stopped at each painting of `stops`, and for None in the last fit, it ends in the bits of one that was
    not."""

    def made(**how: Any) -> SceneJob:
        found = job(*plans, **how)
        found.settings = settings
        return found

    first, editor = made(), Greens()
    first.pipeline.editor = editor
    looks = first.looks()
    chosen = first.select_all(first.reason(looks), looks)
    wanted, told = first.paint(chosen, looks), [0]

    def fits(what: str, done: int, total: int, picture: Tensor | None) -> None:
        told[0] += what == "edit" and picture is None and done == total
        if told[0] == 3:  # of the last fit
            raise Cancelled

    for stop in stops:
        broken = made(editor=Greens(left=stop), work=work / str(stop), on_work=fits if stop is None else None)
        with pytest.raises(Cancelled):
            broken.paint(chosen, looks)
        rest = Greens()
        again = made(editor=rest, work=work / str(stop))
        edited = again.paint(chosen, looks)
        assert len(rest.orders) == (len(plans) - 1 if stop is None else len(editor.orders) - stop)
        assert first.home is not None and again.home is not None and torch.equal(again.home, first.home)
        pairs = zip(edited.gaussians.tensors().values(), wanted.gaussians.tensors().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_a_stopped_edit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Two steps, each of two rounds; stopped between two rounds, and in the second step."""
    two = (
        Plan("make the red ball green", ("red ball",)),
        Plan("make the blue ball green", ("blue ball",)),
    )
    rounds = replace(QUICK, strengths=(1.0, 1.0), settled=0)
    _goes_on(tmp_path, rounds, two, (1, 3))


def test_a_stopped_change_of_a_shape_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """The red ball goes, the hole behind it is closed, and what comes in its place grows."""
    twice = replace(QUICK, views=2, strengths=(1.0, 1.0), settled=0)
    _goes_on(tmp_path, twice, (Plan("replace the red ball with a green box", ("red ball",)),), (1, None))


@pytest.mark.slow  # what is added begins as six hundred Gaussians
def test_stopped_changes_of_shapes_go_on_to_the_same_bits(tmp_path: Path) -> None:
    """One thing goes, another comes, a third is replaced; stopped at each painting."""
    place = torch.zeros(SIZE, SIZE)
    place[20:30, 4:14] = 1
    plans = (
        Plan("remove the red ball", ("red ball",)),
        Plan("add a green ball at the left", ("green ball",), BoxSpans().encode(place)),
        Plan("replace the blue ball with a green box", ("blue ball",)),
    )
    _goes_on(tmp_path, QUICK, plans, (1, 2, None))
