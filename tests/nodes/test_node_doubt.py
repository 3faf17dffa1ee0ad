"""By a doubtful plan EVLM Edit paints nothing and says why and what to do; with `anyway` it paints (C14)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from standin import call, nodes, part

UNASKED = "instruction: make everything heroic"
LOCAL = "instruction: make it blue\ntargets: red car"
GLOBAL = (
    "<thinking>\n</thinking>\n<intermediate>\n</intermediate>\n<reflection>\n</reflection>\n<output>\n"
    "instruction: make it snow\ntargets:\nscope: global\n</output>"
)


@pytest.fixture(scope="module")
def editor() -> Any:
    return call("EVLM_LoadEditor").args[0]


@pytest.fixture()
def texts_shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nodes show as text."""
    texts: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", texts.append)
    return texts


def picture() -> torch.Tensor:
    return torch.rand(1, 48, 80, 3, generator=torch.Generator().manual_seed(0))


def a_part() -> torch.Tensor:
    mask = torch.zeros(1, 48, 80)
    mask[:, 8:40, 10:50] = 1
    return mask


def mended(text: str, repairs: int) -> Any:
    """The plan in a text, as if it had needed so many repairs."""
    trace = part("evlm.plan.trace").parse(text)
    return replace(trace, plan=replace(trace.plan, repairs=tuple(f"mended {n}" for n in range(repairs))))


def painted(editor: Any, plan: Any, **inputs: Any) -> bool:
    """Whether Edit changes the picture by a plan, or by the one that a model wrote."""
    how = {"instruction": "", "steps": 1, **inputs}
    plan = part("evlm.plan.trace").parse(plan) if isinstance(plan, str) else plan
    edited, crop = call("EVLM_Edit", editor=editor, image=picture(), plan=plan, **how).args
    assert torch.equal(edited, picture()) <= torch.equal(crop, edited), "what is held back shows no crop"
    return not torch.equal(edited, picture())


@pytest.mark.parametrize(
    ("text", "mask", "why"),
    [
        (UNASKED, None, "there is no mask"),
        (LOCAL, None, "there is no mask"),
        (LOCAL, torch.ones(1, 48, 80), "no red car was found"),
        (UNASKED, torch.ones(1, 48, 80), "names no target"),
        (UNASKED, torch.zeros(1, 64, 64), "there is no mask"),  # core's mask of an opaque picture
    ],
)
def test_what_does_not_say_where_paints_nothing_and_says_so(
    editor: Any, texts_shown: list[str], text: str, mask: torch.Tensor | None, why: str
) -> None:
    assert not painted(editor, text, mask=mask)
    said = texts_shown[-1]
    assert "nothing was painted: " in said and why in said and "turn `anyway` on" in said
    assert painted(editor, text, mask=mask, anyway=True)


def test_many_repairs_are_doubted_wherever_the_mask_is(editor: Any, texts_shown: list[str]) -> None:
    for text, mask in ((LOCAL, a_part()), (GLOBAL, None)):
        assert painted(editor, mended(text, 6), mask=mask)
        assert not painted(editor, mended(text, 7), mask=mask)
        assert "needed 7 repairs" in texts_shown[-1]
        assert painted(editor, mended(text, 7), mask=mask, anyway=True)


def test_what_somebody_settled_is_not_doubted(editor: Any, texts_shown: list[str]) -> None:
    """A mask of a part is the place, an own instruction is the word, and a plan may say `scope: global`."""
    assert painted(editor, UNASKED, mask=a_part()) and painted(editor, LOCAL, mask=a_part())
    assert painted(editor, mended(UNASKED, 7), instruction="make it snow")
    assert painted(editor, GLOBAL)
    assert not any("nothing was painted" in text for text in texts_shown)


def test_the_switch_keeps_its_place_and_older_graphs_go_on_without_it() -> None:
    """Values of a saved workflow are positional; a graph in API form of 0.1.0 does not name it."""
    last = nodes()["EVLM_Edit"].GET_SCHEMA().inputs[-3]
    assert (last.id, last.optional, last.default) == ("anyway", True, False)
