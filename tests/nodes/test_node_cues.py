"""A bridge under ComfyUI's memory: told its cues as without it, each model there while it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from standin import part

PLAN = SimpleNamespace(targets=("star",))


class Kept:
    """A model that is on its device only while it is used, alone, as on a small card."""

    there: ClassVar[list[str]] = []

    def __init__(self, role: str, **has: Any) -> None:
        self.role, self.engine = role, SimpleNamespace(role=role, **has)

    @contextmanager
    def use(self) -> Iterator[Any]:
        self.there.append(self.role)
        yield self.engine
        self.there.remove(self.role)


def editor(shut: bool = False) -> Kept:
    def with_cues(cues: Any) -> Any:
        return SimpleNamespace(edit=lambda: cues)

    def words(targets: tuple[str, ...]) -> Any:
        assert Kept.there == ["editor"] and targets == PLAN.targets
        return None

    shape = part("evlm.edit.bridge").Shape()
    bridge = SimpleNamespace(shut=shut, shape=shape)
    return Kept("editor", with_cues=with_cues, words=words, bridge=bridge, edit=lambda: None)


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Of what reasoner and segmenter say."""
    of = {"reasoner": 160, "segmenter": 64}

    def said(engine: Any, *_: Any) -> Any:
        assert Kept.there == [engine.role]
        seen = part("evlm.edit.bridge").Seen.of(torch.ones(2, of[engine.role]))
        return (None, None, seen) if engine.role == "reasoner" else seen

    monkeypatch.setattr(part("evlm.cues"), "_reasoned", said)
    monkeypatch.setattr(part("evlm.cues"), "_regions", said)
    return of


def told(bridged: Kept, frames: int = 1, reasoner: Any = None) -> tuple[Any, list[str]]:
    borrowed, notes = part("nodes.borrowed").Borrowed, list[str]()
    plain = borrowed(bridged, "edit")
    request = SimpleNamespace(original=torch.zeros(frames, 8, 8, 3))
    models = (
        plain,
        borrowed(reasoner or Kept("reasoner", backbone=0, reason=0), "reason"),
        borrowed(Kept("segmenter", segment=0), "segment"),
    )
    painter = part("evlm.cues").told(*models, request, PLAN, "", None, notes)
    assert not Kept.there and (painter is plain) == (painter.edit() is None)
    return painter.edit(), notes


def test_cues_reach_an_editor_that_is_lent(widths: dict[str, int]) -> None:
    cues, notes = told(editor())
    assert cues.states.values.shape == (1, 2, 160) and cues.regions.values.shape == (1, 2, 64) and not notes


def test_without_cues_an_open_bridge_is_noted(widths: dict[str, int]) -> None:
    assert told(editor(shut=True)) == (None, [])
    cues, notes = told(editor(), frames=2)
    assert cues is None and len(notes) == 1 and "a clip" in notes[0]
    cues, notes = told(editor(), reasoner=SimpleNamespace(reason=0))
    assert cues is None and len(notes) == 1 and "not on this machine" in notes[0]


@pytest.mark.parametrize("role", ["reasoner", "segmenter"])
def test_models_of_other_widths_are_named(widths: dict[str, int], role: str) -> None:
    widths[role] = 7
    with pytest.raises(part("evlm.errors").ModelError, match=f"another {role}: .* this {role}'s 7; load"):
        told(editor())
