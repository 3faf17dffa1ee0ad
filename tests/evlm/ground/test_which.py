"""Labels that say which and how many, and what is kept of what was found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evlm.boxes import Box
from evlm.ground.which import find, which
from evlm.pipeline import ground_plan
from evlm.plan.trace import Plan

FRAMES = torch.zeros(1, 100, 200, 3)


@pytest.mark.parametrize(
    ("label", "name", "count", "side", "but"),
    [
        ("the left cup", "cup", 1, "left", ""),
        ("leftmost red cup", "red cup", 1, "left", ""),
        ("cup on the right", "cup", 1, "right", ""),
        ("cup on the far left side", "cup", 1, "left", ""),
        ("Upper window", "window", 1, "top", ""),
        ("both cups", "cups", 2, "", ""),
        ("all of the cups", "cups", None, "", ""),
        ("the two left cups", "cups", 2, "left", ""),
        ("3 cups", "cups", 3, "", ""),
        ("all cups but the red one", "cups", None, "", "red cup"),
        ("every chair except the broken chair", "chair", None, "", "broken chair"),
        ("cups other than the red ones", "cups", None, "", "red cup"),
        ("all cups at the bottom", "cups", None, "bottom", ""),
        ("the left one of the two", "two", 1, "left", ""),
        ("left of the cups", "cups", 1, "left", ""),
        ("two door handles", "door handles", 2, "", ""),
        ("two men in a car", "men in a car", 2, "", ""),
        ("two cups on the table", "cups on the table", 2, "", ""),
        ("two dogs playing", "dogs playing", 2, "", ""),
        ("three dogs chasing a cat", "dogs chasing a cat", 3, "", ""),
        ("two people sitting on a bench", "people sitting on a bench", 2, "", ""),
    ],
)
def test_words_for_which_and_how_many_are_taken_off(
    label: str, name: str, count: int | None, side: str, but: str
) -> None:
    asked = which(label)
    assert (asked.label, asked.name, asked.count, asked.side, asked.but) == (label, name, count, side, but)
    assert not asked.plain


@pytest.mark.parametrize(
    "label",
    ["red circle", "small star", "top hat", "her left hand", "right shoe", "left", "both", "all", "butter",
     "top of the mountain", "the bottom of the page", "middle of the road", "left side of the house",
     "middle finger", "center console", "three piece suit", "two door car", "four wheel drive",
     "two tone shirt", "two tone shirts", "all terrain vehicle", "one way sign",
     "Leftover pizza", "allium", "one-way sign", "the man on the left bank", "bottom", "all but one",
     "one bus stop", ""],
)  # fmt: skip
def test_other_labels_are_their_own_name(label: str) -> None:
    assert which(label).plain and which(label).name == label


class Finds:
    """A detector that knows where things of a name are, and what it was asked for."""

    def __init__(self, **boxes: list[Box]) -> None:
        self.boxes, self.asked = boxes, []  # type: ignore[var-annotated]

    def ground(self, frames: Tensor, labels: Any, threshold: Any = None, keep: str = "best") -> list[Box]:
        self.asked.append((tuple(labels), keep))
        found = [box for label in labels for box in self.boxes.get(label.replace(" ", "_"), [])]
        if keep == "all":
            return found
        return [
            max((b for b in found if b.label == label), key=lambda b: b.score)
            for label in labels
            if any(b.label == label for b in found)
        ]


def cup(x: float, y: float = 50, score: float = 0.8, label: str = "cup") -> Box:
    return Box(label, score, x - 10, y - 10, x + 10, y + 10)


CUPS = Finds(
    cup=[cup(100, 50, 0.9), cup(30), cup(170, 70, 0.7), cup(60, 20, 0.2)],
    cups=[cup(100, 50, 0.9, "cups"), cup(30, label="cups"), cup(170, 70, 0.7, "cups")],
    red_cup=[cup(101, 50, 0.95, "red cup")],
    dog=[cup(50, 90, 0.6, "dog")],
)


@pytest.mark.parametrize(
    ("label", "expected", "note"),
    [
        ("left cup", [30], "4 found, 1 kept (1, from the left)"),
        ("cup on the right", [170], "from the right"),
        ("middle cup", [100], "from the middle"),
        ("bottom cup", [170], "from the bottom"),
        ("both cups", [100, 30], "3 found, 2 kept (2)"),
        ("all cups", [100, 30, 170], "3 kept (all)"),
        ("the two left cups", [30, 100], "2 kept (2, from the left)"),
        ("all cups but the red one", [30, 170], "but the 'red cup'"),
        ("six cups", [100, 30, 170], "3 found, 3 kept (6)"),
    ],
)
def test_what_the_label_says_is_kept(label: str, expected: list[float], note: str) -> None:
    boxes, notes = find(CUPS, FRAMES, [label])
    assert [(box.x0 + box.x1) / 2 for box in boxes] == expected
    assert {box.label for box in boxes} == {label}
    assert note in notes[0] and len(notes) == 1


def test_plain_labels_are_asked_as_ever_and_the_order_is_theirs() -> None:
    detector = Finds(**CUPS.boxes)
    boxes, notes = find(detector, FRAMES, ["left cup", "dog"], keep="best")
    assert [box.label for box in boxes] == ["left cup", "dog"] and len(notes) == 1
    assert detector.asked == [(("dog",), "best"), (("cup",), "all")]
    assert find(detector, FRAMES, ["left unicorn"]) == ([], [])


@pytest.mark.parametrize("trust", ["base", "tuned"])
def test_a_plan_keeps_what_its_targets_say(trust: Any) -> None:
    """Under both rules; the box of a base model does not choose one of both."""
    both = Plan("make both cups red", ("both cups",), "box 0 0 1000 1000 full", trust=trust)
    grounded = ground_plan(CUPS, FRAMES, both)
    assert [round(box.x0) for box in grounded.boxes] == [90, 20]
    assert any("2 kept" in note for note in grounded.notes)
    left = Plan("make the left cup red", ("left cup",), "box 100 400 200 600 full", trust=trust)
    assert [round(box.x0) for box in ground_plan(CUPS, FRAMES, left).boxes] == [20]
