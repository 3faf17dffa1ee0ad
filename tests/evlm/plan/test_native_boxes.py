"""Boxes as Qwen's models write them, there and back: through the processor's resize, and out of any text."""

from __future__ import annotations

import json
import random

import pytest

from evlm.errors import ModelError
from evlm.plan.boxes_text import boxes_text
from evlm.plan.mask_codec import get_codec
from evlm.plan.native_boxes import (
    FORMS,
    OWN,
    QWEN2,
    QWEN2_5,
    QWEN3,
    box_form,
    form_of_model,
    in_our_form,
    resized,
)
from evlm.plan.trace import parse


def sizes(count: int) -> list[tuple[int, int]]:
    """(height, width) of any aspect that Qwen-VL takes, up to 12 megapixels and more."""
    rng, made = random.Random(0), []
    while len(made) < count:
        height, width = (round(2 ** rng.uniform(0, 13)) for _ in range(2))
        if max(height, width) / min(height, width) <= 200:
            made.append((height, width))
    return made


def test_the_resize_is_that_of_the_processor() -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    limits = [(28, 3136, 12_845_056), (28, 3136, 1_003_520), (32, 65_536, 16_777_216), (16, 256, 4096)]
    for number, (height, width) in enumerate(sizes(1000)):
        side, least, most = limits[number % len(limits)]
        expected = smart_resize(height, width, side, least, most)
        assert resized(height, width, side, least, most) == expected


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.name)
def test_a_box_comes_back_within_half_a_step_of_the_forms_own_grid(form) -> None:
    """1,000 sizes, any aspect, through the resize and as text."""
    rng = random.Random(1)
    for height, width in sizes(1000):
        size = resized(height, width)
        x0, x1 = sorted(rng.sample(range(1001), 2))
        y0, y1 = sorted(rng.sample(range(1001), 2))
        steps = [1000 / limit for limit in form.limits(size)] * 2
        numbers = form.numbers((x0, y0, x1, y1), size)
        again = form.thousandths(numbers, size)
        if again is None:  # slimmer than a pixel of what the model sees
            assert min((x1 - x0) / steps[0], (y1 - y0) / steps[1]) <= 1
            continue
        for here, there, step in zip((x0, y0, x1, y1), again, steps, strict=True):
            assert abs(here - there) <= step / 2 + 1e-9
        a, b, c, d = map(str, numbers)
        text = in_our_form(f"mask: {form.write((a, b, c, d), 'red hat 2')}", form, size)
        assert text == f"mask: {boxes_text([again])}"
        assert get_codec("box-spans-8").box(text.removeprefix("mask: ")) is not None


SEEN = (728, 1092)


@pytest.mark.parametrize(
    ("form", "written", "ours"),
    [
        (QWEN2_5, '{"bbox_2d": [131, 58, 339, 175], "label": "cap"}', "box 120 80 310 240 full"),
        (QWEN2_5, '[{"bbox_2d": [131, 58, 339, 175]}]', "box 120 80 310 240 full"),
        (QWEN2_5, "[131, 58, 339, 175]", "box 120 80 310 240 full"),
        (QWEN2_5, "box 131 58 339 175 full", "box 120 80 310 240 full"),
        (QWEN2_5, "(339, 175), (131, 58)", "box 120 80 310 240 full"),
        (QWEN2_5, '{"bbox_2d": [-4, 0, 4000, 364.0]}', "box 0 0 1000 500 full"),
        (QWEN2_5, '{"bbox_2d": [1200, 0, 4000, 364]}', '{"bbox_2d": [1200, 0, 4000, 364]}'),
        (QWEN2_5, "none", "none"),
        (QWEN3, '{"bbox_2d": [120, 80, 310, 240], "label": "cap 3"}', "box 120 80 310 240 full"),
        (
            QWEN2,
            "<|object_ref_start|>cap<|object_ref_end|><|box_start|>(120,80),(310,240)<|box_end|>",
            "box 120 80 310 240 full",
        ),
        (QWEN2, "cap(120,80),(310,240)", "box 120 80 310 240 full"),
        (OWN, "[131, 58, 339, 175]", "[131, 58, 339, 175]"),
        (QWEN3, "box 1 2 3 4 rows " + "0-7 " * 8, "box 1 2 3 4 rows " + "0-7 " * 8),
    ],
)
def test_a_mask_line_in_the_models_own_words(form, written, ours) -> None:
    text = f"<output>\ninstruction: x 1 2 3 4\ntargets: cap\nscope: local\nmask: {written}\n</output>"
    assert in_our_form(text, form, SEEN) == text.replace(written, ours)


def test_several_boxes_are_one_mask() -> None:
    written = (
        '[{"bbox_2d": [0, 0, 273, 182], "label": "a"}, {"bbox_2d": [819, 546, 1092, 728], "label": "b"}]'
    )
    mask = get_codec("box-spans-8").decode(
        in_our_form(f"mask: {written}", QWEN2_5, SEEN).removeprefix("mask: "), 80, 80
    )
    assert mask[5, 5] and mask[75, 75] and not mask[40, 40] and not mask[5, 75]


@pytest.mark.parametrize(
    ("form", "written"),
    [
        (QWEN3, "[[0, 0, 250, 250], [750, 750, 1000, 1000]]"),
        (QWEN3, "0, 0, 250, 250, 750, 750, 1000, 1000"),
        (QWEN2, "(0,0),(250,250)(750,750),(1000,1000)"),
        (QWEN2_5, "[[0, 0, 273, 182], [819, 546, 1092, 728]]"),
        (OWN, "[[0, 0, 250, 250], [750, 750, 1000, 1000]]"),
    ],
)
def test_numbers_of_several_boxes_in_one_list_are_taken_in_fours(form, written) -> None:
    """(B5) All but the last box were lost."""
    for line in ("mask", "- **mask**"):
        text = f"instruction: x\ntargets: cap\nscope: local\n{line}: {written}"
        mask_text = parse(in_our_form(text, form, SEEN)).plan.mask_text
        mask = get_codec("box-spans-8").decode(mask_text, 80, 80)
        assert mask[5, 5] and mask[75, 75] and not mask[40, 40] and not mask[5, 75]


@pytest.mark.parametrize(
    "place",
    [
        "Mask: [131, 58, 339, 175]",
        "- **mask**: [131, 58, 339, 175]",
        "**Mask:** (131, 58), (339, 175)",
        "region: [131, 58, 339, 175]",
        "bbox = [131, 58, 339, 175]",
        "<mask>[131, 58, 339, 175]</mask>",
        "**Box**\n[131, 58, 339, 175]",
        '"region": [131, 58, 339, 175]',
        '"box": [[131, 58, 339, 175]]',
        '"box": [[131, 58], [339, 175]]',
        '"mask": "box 131 58 339 175 full"',
        '"mask": {"bbox": [131, 58, 339, 175]}',
        '"mask": {"x1": 131, "y1": 58, "x2": 339, "y2": 175}',
        '"mask": {"x": "131", "y": "58", "width": "208", "height": "117"}',
        '"mask": {"xmin": 131,\n "ymin": 58,\n "xmax": 339,\n "ymax": 175}',
        '"mask": {"box_2d": [58, 131, 175, 339]}',
    ],
)
def test_pixels_become_thousandths_wherever_they_are_read_as_a_box(place: str) -> None:
    """(B6) They were taken for thousandths as they stood."""
    if place.startswith('"'):
        text = '{"instruction": "make it red", "targets": ["cap"], "scope": "local", ' + place + "}"
    else:
        text = f"instruction: make it red\ntargets: cap\nscope: local\n{place}\n"
    box = get_codec("box-spans-8").box(parse(in_our_form(text, QWEN2_5, SEEN)).plan.mask_text or "")
    assert box is not None and box == pytest.approx((120, 80, 310, 240), abs=1)


@pytest.mark.parametrize(
    "place",
    ["mask: [0.1, 0.2, 0.3, 0.4]", "Region: 0.1 0.2 0.3 0.4", '{"x1": 0.1, "y1": 0.2, "x2": 0.3, "y2": 0.4}',
     "mask: box 1 2 3 4 rows 0-7 0-7", '"mask": "box 1 2 3 4 rows 0-7"', "box: 3 of 131 58 339 175", "x: 3"],
)  # fmt: skip
def test_what_is_no_pixels_stays_as_it_is(place: str) -> None:
    assert in_our_form(place, QWEN2_5, SEEN) == place


@pytest.mark.parametrize("key", ["bbox_2d", "bbox", "box"])
def test_boxes_of_a_plan_in_json_are_read_in_their_pixels(key: str) -> None:
    plan = {
        "instruction": "make the cap red",
        "targets": [{"label": "cap", key: [131, 58, 339, 175]}],
        "scope": "local",
    }
    trace = parse(in_our_form(json.dumps(plan), QWEN2_5, SEEN))
    assert trace.plan.mask_text == "box 120 80 310 240 full"
    shares = json.dumps(plan).replace("131, 58, 339, 175", "0.1, 0.2, 0.3, 0.4")
    assert parse(in_our_form(shares, QWEN2_5, SEEN)).plan.mask_text == "box 100 200 300 400 full"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen2-VL-7B-Instruct", "qwen2-vl"),
        ("Qwen/Qwen2.5-VL-72B-Instruct-AWQ", "qwen2.5-vl"),
        ("qwen2.5vl:7b", "qwen2.5-vl"),
        ("qwen2_5-vl-3b", "qwen2.5-vl"),
        ("qwen3-vl:8b-thinking", "qwen3-vl"),
        ("qwen-vl-max", "own"),
        ("gpt-5", "own"),
    ],
)
def test_a_remote_models_form_is_known_by_its_name(model: str, name: str) -> None:
    assert form_of_model(model).name == name


def test_another_form_is_an_error_that_names_those_there_are() -> None:
    for name in ("qwen4", None, 3):
        with pytest.raises(ModelError, match=r"expected one of own, qwen2-vl, qwen2\.5-vl, qwen3-vl"):
            box_form(name)
