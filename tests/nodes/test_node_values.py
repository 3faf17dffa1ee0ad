"""What filters, other packs and core's nodes hand in: values outside 0..1, masks of other sizes, pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from standin import call, part
from torch.nn.functional import interpolate

TEXT = "instruction: make it red\ntargets: car\nmask: box 100 100 500 500 full\n"


@pytest.fixture()
def texts_shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nodes show as text."""
    texts: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", texts.append)
    return texts


@pytest.fixture(scope="module")
def editor() -> Any:
    return call("EVLM_LoadEditor").args[0]


def outcome(node: str, **inputs: Any) -> Any:
    """A node's outputs, or its refusal in words."""
    try:
        return call(node, **inputs).args
    except part("evlm.errors").EVLMError as error:
        return str(error)


def square(height: int, width: int, value: float = 1.0) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, height // 4 : height // 2, width // 4 : width // 2] = value
    return mask


def test_what_overshoots_is_clamped_and_said(texts_shown: list[str]) -> None:
    """A bicubic enlargement and a brightened picture, into a node (C21)."""
    small = (torch.arange(192).reshape(1, 1, 8, 24) % 2).float().expand(-1, 3, -1, -1)
    picture = interpolate(small, scale_factor=4.0, mode="bicubic").movedim(1, -1)
    mask = square(32, 96)
    answer = outcome("EVLM_Composite", original=picture, edited=1.05 * picture.clamp(0, 1), mask=mask)
    assert not isinstance(answer, str), answer
    off = mask < 0.5
    assert torch.equal(answer[0][off], picture.clamp(0, 1)[off])
    assert answer[0].min() >= 0 and answer[0].max() <= 1
    assert "original: values" in texts_shown[-1] and "edited: values 0..1.05" in texts_shown[-1]


def test_a_blurred_mask_is_taken_without_a_word(texts_shown: list[str]) -> None:
    """Its largest value is 1 + 2.4e-7 (C21)."""
    mask = square(32, 48, 1 + 2.4e-7)
    original, edited = torch.rand(1, 32, 48, 3), torch.rand(1, 32, 48, 3)
    answer = outcome("EVLM_Composite", original=original, edited=edited, mask=mask)
    assert not isinstance(answer, str), answer
    assert texts_shown == []


@pytest.mark.parametrize(
    ("factor", "reason"),
    [(255.0, "divide 8-bit values by 255"), (float("nan"), "finite"), (float("inf"), "finite")],
)
@pytest.mark.parametrize("name", ["original", "edited", "mask"])
def test_other_values_are_refused_with_the_input_s_name(name: str, factor: float, reason: str) -> None:
    """(C21)"""
    inputs = {
        "original": torch.rand(1, 32, 48, 3),
        "edited": torch.rand(1, 32, 48, 3),
        "mask": square(32, 48),
    }
    answer = outcome("EVLM_Composite", **{**inputs, name: inputs[name] * factor})
    assert isinstance(answer, str) and answer.startswith(f"{name}: values") and reason in answer


def test_a_mask_of_another_size_is_resized_as_core_does(texts_shown: list[str]) -> None:
    """Bilinear, and said (C21)."""
    original, edited = torch.rand(1, 32, 48, 3), torch.rand(1, 32, 48, 3)
    mask = square(20, 20)
    answer = outcome("EVLM_Composite", original=original, edited=edited, mask=mask, feather=0)
    assert not isinstance(answer, str), answer
    on = interpolate(mask[:, None], (32, 48), mode="bilinear")[:, 0] >= 0.5
    assert torch.equal(answer[0][on], edited[on]) and torch.equal(answer[0][~on], original[~on])
    assert "mask: resized from 20 x 20 to the picture's 48 x 32" in texts_shown[-1]
    assert "2 masks for 1 frames" in outcome(
        "EVLM_Composite", original=original, edited=edited, mask=mask.expand(2, -1, -1)
    )


def test_cores_mask_of_an_opaque_picture_is_none(editor: Any, texts_shown: list[str]) -> None:
    """Load Image gives 64 x 64 zeros for a picture without alpha (C21)."""
    image, how = torch.rand(1, 48, 80, 3), {"instruction": "make it snow", "steps": 1}
    whole = call("EVLM_Edit", editor=editor, image=image, **how).args[0]
    answer = outcome("EVLM_Edit", editor=editor, image=image, mask=torch.zeros(1, 64, 64), **how)
    assert not isinstance(answer, str), answer
    assert torch.equal(answer[0], whole) and not torch.equal(whole, image)
    assert "counts as none" in texts_shown[-1]


@pytest.mark.parametrize(("value", "words"), [(0.0, "it is empty"), (0.3, "the highest value is 0.3")])
def test_a_mask_that_chooses_nothing_is_said_on_the_node(
    editor: Any, texts_shown: list[str], value: float, words: str
) -> None:
    """Not in the server's console alone (N10)."""
    image, mask = torch.rand(1, 48, 80, 3), torch.full((1, 48, 80), value)
    edited = call("EVLM_Edit", editor=editor, image=image, mask=mask, instruction="make it snow", steps=1)
    assert torch.equal(edited.args[0], image)
    assert any("no pixel" in text and words in text for text in texts_shown)
    texts_shown.clear()
    combined = call("EVLM_Composite", original=image, edited=1 - image, mask=mask).args[0]
    assert torch.equal(combined, image)
    assert any("no pixel" in text and words in text for text in texts_shown)


class Says:
    """A reasoner that always says the same."""

    def reason(self, *_: Any) -> Any:
        trace = part("evlm.plan.trace").parse(TEXT)
        return part("evlm.reason.reasoner").Reasoned(TEXT, 1, 0.0, trace=trace)


def test_plans_of_several_pictures_want_their_own_pictures(editor: Any) -> None:
    """Four plans and a wire from the source are sixteen edits; the error says which wire to move (N8).

    Plans of Quick Edit know their pictures, too."""
    image, references, prompt, _ = call("EVLM_Example", which="1-reference").args
    batch = torch.cat([image, image.flip(2)])
    model = Says()
    reasoned = call("EVLM_Reason", model=model, image=batch, prompt=prompt, references=references).args
    pipe = replace(call("EVLM_LoadAll").args[0], reasoner=model)
    request = {"image": batch, "prompt": prompt, "references": references, "stop": "stop at the plan"}
    quick = call("EVLM_QuickEdit", pipe=pipe, **request).args[2]
    for node, inputs in (
        ("EVLM_Ground", {}),
        ("EVLM_Edit", {"editor": editor, "steps": 1}),
        ("EVLM_Segment", {"segmenter": call("EVLM_LoadSegmenter").args[0]}),
    ):
        for plan in (reasoned[0][0], quick[0]):
            wrong = outcome(node, image=batch, plan=plan, **inputs)
            assert isinstance(wrong, str), f"{node} takes both pictures for one plan"
            assert "image: 2 pictures" in wrong and "`image` output of EVLM Reason" in wrong
            assert "Rebatch Images" in wrong, "and what to do with the plans of Quick Edit"
        assert not isinstance(outcome(node, image=reasoned[5][1], plan=reasoned[0][1], **inputs), str)
        assert not isinstance(outcome(node, image=batch[1:], plan=quick[1], **inputs), str)
    whole = call("EVLM_QuickEdit", pipe=pipe, batch="video", **request).args[2][0]
    assert whole.planned_for == (2, 1) and not isinstance(
        outcome("EVLM_Ground", image=batch, plan=whole), str
    )
    video = call("EVLM_Reason", model=model, image=batch, prompt=prompt, references=references, batch="video")
    assert not isinstance(outcome("EVLM_Ground", image=batch, plan=video.args[0][0]), str)
    alone = call("EVLM_PlanFromText", text=TEXT).args[0]
    assert not isinstance(outcome("EVLM_Ground", image=batch, plan=alone), str)
