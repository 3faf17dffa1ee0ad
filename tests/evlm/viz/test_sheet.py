"""The contact sheet in every script, and with more references than it has room for (C17)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_pipeline import BOX, SIZE, circle, pipeline, trace

from evlm.boxes import Box
from evlm.plan.trace import Plan
from evlm.request import Reference, Request
from evlm.viz.sheet import SheetRow, draw_sheet, overlay


def drawn(prompt: str = "blue", references: int = 0, instruction: str = "make it blue") -> bytes:
    """The sheet of one edit, as bytes; the times that it took are not on it."""
    noise = torch.rand(9, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    given = tuple(Reference("image", frame[None]) for frame in noise[1 : 1 + references])
    request = Request(noise[:1], prompt, given)
    result = replace(pipeline(trace(circle()), BOX).run(request), seconds={}, plan=Plan(instruction))
    return draw_sheet([SheetRow(request, result)], side=128).tobytes()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\u628a\u5929\u7a7a", "\u53d8\u84dd\u8272"),
        ("\u0627\u062c\u0639\u0644", "\u0632\u0631\u0642\u0627\u0621"),
        ("\U0001f984", "\U0001f433"),
        ("\u043f\u0440\u0438\u0432\u0435\u0442", "\u043f\u0440\u0438\u0432\u0430\u0442"),
        ("\u65e5\u672c", "\u8a9e\u5b57"),
    ],
)
def test_each_script_is_readable(one: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Different words look different: in a font that has them, and as codes where no font of the system
    has them. Empty boxes would look the same. (C17)"""
    assert drawn(one) != drawn(other)
    assert drawn(instruction=one) != drawn(instruction=other)
    from evlm.viz import lettering

    monkeypatch.setattr(lettering, "_fonts", lambda size: (lettering._own(size),))
    assert drawn(one) != drawn(other)
    codes = one.encode("unicode_escape").decode()
    assert lettering.Lettering(15).length(one) == lettering.Lettering(15).length(codes)


def test_a_fifth_reference_is_counted() -> None:
    """ "+4" of eight (C17)"""
    assert drawn(references=8) != drawn(references=4)
    assert drawn(references=8) != drawn(references=7)
    assert drawn(references=4) == drawn(references=4)


def test_fonts_are_found_where_systems_keep_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of their reach; a damaged one is passed over. (C17)"""
    from evlm.viz import lettering

    for name in ("b/Symbola.ttf", "a/NotoSansCJK-Regular.ttc", "a/NotoSansCJK-Bold.ttc", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no font")
    monkeypatch.setattr(lettering, "_folders", lambda: [tmp_path, tmp_path / "nowhere"])
    lettering.system_fonts.cache_clear()
    try:
        found = [Path(path).name for path in lettering.system_fonts()]
        assert found == ["NotoSansCJK-Regular.ttc", "Symbola.ttf"]
        assert lettering._fonts(23) == (lettering._own(23),)
    finally:
        lettering.system_fonts.cache_clear()
        lettering._fonts.cache_clear()


def test_boxes_that_lie_elsewhere_are_cut_off() -> None:
    """(D24) Boxes of other packs: PIL cannot draw at 10^12."""
    frame = torch.zeros(1, 32, 32, 3)
    far = Box("far", 1.0, -1e12, 4, 1e12, 12)
    gone = Box("gone", 1.0, 40, 40, 60, 60)
    with_both, plain = overlay(frame[0], None, [far, gone], 64), overlay(frame[0], None, [], 64)
    inside = overlay(frame[0], None, [Box("far", 1.0, 0, 4, 32, 12)], 64)
    assert with_both.tobytes() == inside.tobytes() != plain.tobytes()
    assert overlay(frame[0], None, [gone], 64).tobytes() == plain.tobytes()
