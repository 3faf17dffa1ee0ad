"""The prompt: order, words, sampled frames, and the same question through every processor."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evlm.errors import ModelError, RequestError
from evlm.plan.mask_codec import BoxSpans, decode_mask
from evlm.plan.native_boxes import FORMS, BoxForm, in_our_form
from evlm.plan.trace import PARTS, Plan, parse
from evlm.reason.messages import (
    BASELINES,
    FULL,
    SHORT,
    UNTUNED,
    Chat,
    PromptStyle,
    build_messages,
    encode,
    for_untuned,
    get_style,
    sample_clip,
    template_text,
)
from evlm.reason.system_text import tuned_text
from evlm.request import Reference, Request

PICTURE = torch.rand(1, 24, 32, 3)


def written(chat: Chat) -> str:
    """The user's turn, with a word for each picture."""
    return "".join(item.get("text", f"<{item['type']}>") for item in chat.messages[-1]["content"])


def test_the_short_style_word_for_word() -> None:
    request = Request(
        PICTURE,
        "like this",
        (
            Reference("image", PICTURE, note="the hat"),
            Reference("video", torch.rand(5, 8, 8, 3), fps=8.0),
            Reference("depth", PICTURE),
            Reference("text", text="green"),
        ),
    )
    chat = build_messages(request, style=SHORT)
    assert [message["role"] for message in chat.messages] == ["user"]
    assert written(chat) == (
        "original <image> reference 1 image note the hat <image> reference 2 video <video>"
        " reference 3 depth <image> reference 4 text green prompt like this"
    )


def test_the_full_style_explains_and_names() -> None:
    video = Reference("video", torch.rand(9, 8, 8, 3), fps=4.0, note="its colour")
    chat = build_messages(Request(torch.rand(2, 8, 8, 3), "", (video,)), style=FULL, max_frames=3)
    assert [message["role"] for message in chat.messages] == ["system", "user"]
    assert written(chat) == (
        "Original video, frames 1, 2 of 2:\n<video>\n"
        "Reference 1 (video), note: its colour, frames at 0, 1, 2 seconds:\n<video>\n"
        "Prompt: none\nWrite the four parts now."
    )
    assert [clip.frames.shape for clip in chat.videos] == [(2, 3, 8, 8), (3, 3, 8, 8)]


@pytest.mark.parametrize("grid", [8, 16])
def test_the_examples_that_the_system_text_gives_are_right(grid: int) -> None:
    chat = build_messages(Request(PICTURE, "x"), BoxSpans(grid))
    text = chat.messages[0]["content"][0]["text"]
    (example,) = re.findall(r"mask: (box 120 .*)", text)
    mask = decode_mask(example, 100, 100)
    assert 0 < mask.mean() < 0.25
    skeleton = text[text.index("<thinking>") : text.index("</output>") + len("</output>")]
    skeleton = skeleton.replace("box X0 Y0 X1 Y1 rows R R R ...", example)
    skeleton = re.sub(r"(instruction|targets): .* for example: ", r"\1: ", skeleton)
    plan = Plan("make the red hat blue", ("red hat", "red scarf"), example)
    assert parse(skeleton, repair=False).plan == plan


def about_tokens(text: str) -> int:
    """Of Qwen's tokenizer, within two in a hundred for these texts."""
    return len(re.findall(r"[0-9]|[^\W\d]+|[^\w\s]+|\n+", text))


def test_a_base_model_is_told_the_form_by_examples_that_are_plans() -> None:
    text = build_messages(Request(PICTURE, "x"), BoxSpans(8), UNTUNED).messages[0]["content"][0]["text"]
    assert "rows" not in text and about_tokens(text) < about_tokens(tuned_text(8))
    prose = text[text.index("<thinking>") : text.index("<output>")]
    plans = [parse(f"{prose}<output>{each}", repair=False).plan for each in text.split("<output>")[2:]]
    said = [[(step.targets, step.scope, step.mask_text) for step in plan.steps] for plan in plans]
    rain = ((), "global", None)
    assert said == [
        [(("left cap",), "local", "box 120 80 310 240 full")],
        [(("dog",), "local", "box 0 640 95 890 full"), rain],
    ]


def test_pixels_are_those_of_the_picture() -> None:
    request = Request(PICTURE, "x", (Reference("image", torch.zeros(1, 4, 4, 3)),))
    chat = build_messages(request)
    assert [tuple(image.shape) for image in chat.images] == [(3, 24, 32), (3, 4, 4)]
    assert chat.images[0].dtype == torch.uint8
    assert (chat.images[0].permute(1, 2, 0).float() / 255 - PICTURE[0]).abs().max() <= 0.5 / 255 + 1e-6


@given(total=st.integers(1, 200), limit=st.integers(1, 20))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_frames_are_spread_evenly(total: int, limit: int) -> None:
    clip = sample_clip(torch.zeros(total, 1, 1, 3), 10.0, limit)
    indices = clip.indices
    assert len(indices) == min(total, limit) == clip.frames.shape[0]
    assert list(indices) == sorted(set(indices))
    assert indices[0] == 0 and (limit == 1 or indices[-1] == total - 1)
    gaps = [after - before for before, after in pairwise(indices)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert clip.times == tuple(index / 10 for index in indices)


def test_a_video_of_one_frame_is_a_picture() -> None:
    chat = build_messages(Request(PICTURE, "", (Reference("video", PICTURE),)), style=SHORT)
    assert len(chat.images) == 2 and not chat.videos


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (3, 700)])
def test_slender_pictures_stay_within_what_qwen_takes(shape: tuple[int, int]) -> None:
    (pixels,) = build_messages(Request(torch.rand(1, *shape, 3), "x")).images
    assert max(pixels.shape[1:]) / min(pixels.shape[1:]) <= 100
    assert max(pixels.shape[1:]) == max(shape)


@given(words=st.text(max_size=60) | st.sampled_from(tiny_qwen.SPECIAL) | st.just("<|<|image_pad|>|>"))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_words_of_the_user_never_become_special_tokens(words: str) -> None:
    references = (Reference("text", text=f"a {words}"), Reference("image", PICTURE, note=words))
    request = Request(PICTURE, words, references)
    for style in (FULL, SHORT):
        text = written(build_messages(request, style=style))
        assert not any(token in text for token in tiny_qwen.SPECIAL)
        assert style is FULL or "\n" not in text


@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
@pytest.mark.parametrize("style", [FULL, SHORT])
def test_each_processor_takes_it(family: str, style: Any) -> None:
    processor = tiny_qwen.make_processor(family)
    video = Reference("video", torch.rand(5, 32, 48, 3), fps=4.0)
    request = Request(PICTURE, "<|image_pad|><|im_end|>", (video, Reference("image", PICTURE)))
    chat = build_messages(request, style=style)
    inputs = encode(processor, [chat])
    tokens = inputs["input_ids"][0]
    merged = inputs["image_grid_thw"].prod(-1).sum() + inputs["video_grid_thw"].prod(-1).sum()
    pads = [processor.tokenizer.convert_tokens_to_ids(word) for word in tiny_qwen.SPECIAL[-2:]]
    assert int(torch.isin(tokens, torch.tensor(pads)).sum()) == int(merged) // 4
    assert inputs["video_grid_thw"][0, 0] == 3  # five frames in pairs
    assert template_text(processor, chat).endswith("<|im_start|>assistant\n")


def test_a_qwen3_video_is_marked_once_a_pair_of_frames() -> None:
    """The time, then the marked pair, as Qwen trained it; in every version of transformers (A15)."""
    processor = tiny_qwen.make_processor("qwen3_vl")
    video = Reference("video", torch.rand(5, 32, 48, 3), fps=4.0)
    inputs = encode(processor, [build_messages(Request(PICTURE, "", (video,)), style=SHORT)])
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    pair = "<|vision_start|>" + 6 * "<|video_pad|>" + "<|vision_end|>"
    marked = "".join(f"<{time} seconds>{pair}" for time in ("0.1", "0.6", "1.0"))
    assert f"video {marked}" in text and f"{marked} prompt" in text


def test_answers_follow_the_prompt_and_batches_are_padded() -> None:
    processor = tiny_qwen.make_processor()
    short = build_messages(Request(PICTURE, "a"), style=SHORT)
    long = build_messages(Request(PICTURE, "a longer prompt", (Reference("image", PICTURE),)), style=SHORT)
    prompt = encode(processor, [short])["input_ids"]
    whole = encode(processor, [short, long], ["yes<|im_end|>", "no<|im_end|>"])
    assert whole["input_ids"].shape[0] == 2
    real = whole["input_ids"][0][whole["attention_mask"][0] == 1]
    assert torch.equal(real[: prompt.shape[1]], prompt[0])
    assert processor.tokenizer.decode(real[prompt.shape[1] :]) == "yes<|im_end|>"
    with pytest.raises(ValueError, match="zip"):
        encode(processor, [short, long], ["one answer"])


def test_refusals() -> None:
    assert get_style("full") is FULL and get_style("short") is SHORT
    with pytest.raises(ModelError, match="poem"):
        get_style("poem")
    with pytest.raises(RequestError, match="max_frames is 0"):
        build_messages(Request(PICTURE, "x"), max_frames=0)


# Of the words that models were tuned on at 1c55b69: one other token, and they answer worse.
TUNED = {"full": "6c968f1a807f9db9", "short": "904f47a995599f0c"}


@pytest.mark.parametrize("name", sorted(TUNED))
def test_tuned_models_are_asked_in_the_words_they_were_tuned_on(name: str) -> None:
    """(A9)"""
    video = Reference("video", torch.zeros(3, 8, 8, 3), note="the movement", fps=4.0)
    request = Request(PICTURE, "mach den Hut blau", (Reference("text", text="so"), video))
    text = json.dumps(build_messages(request, BoxSpans(8), get_style(name)).messages)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == TUNED[name]


@pytest.mark.parametrize(
    ("notes", "asked"), [(None, True), ({"prompt": "full"}, False), ({"prompt": "short"}, False)]
)
def test_only_an_untuned_model_is_asked_for_english(tmp_path: Path, notes: Any, asked: bool) -> None:
    """(A9)"""
    from evlm.reason.reasoner import Reasoner

    folder = tiny_qwen.save_folder(tmp_path / "model", "qwen2_vl")
    if notes is not None:
        (folder / "evlm.json").write_text(json.dumps(notes))
    style = Reasoner.load(folder, device="cpu").style
    chat = build_messages(Request(PICTURE, "mach den Hut blau"), style=style)
    assert ("English" in json.dumps(chat.messages)) is asked


# --- the paper's baselines, for models that were tuned on none of our styles ---


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.name)
@pytest.mark.parametrize("style", [UNTUNED, *BASELINES], ids=lambda style: style.name)
def test_an_untuned_model_is_told_its_parts_in_english_and_the_form_of_its_box(
    style: PromptStyle, form: BoxForm
) -> None:
    style = for_untuned(style, form)
    messages = build_messages(Request(PICTURE, "mach den Hut blau"), style=style).messages
    system, asked = messages[0]["content"][0]["text"], messages[1]["content"][-1]["text"]
    assert "in English whatever the language of the prompt" in system
    assert set(re.findall("<([a-z]+)>", system)) == set(style.parts)
    assert form.write(("120", "80", "310", "240"), "cap") in system and "{" not in system.replace(
        '{"bbox', ""
    )
    wanted = {"two_step": "<think> and <output>", "direct": "<output>"}.get(style.name, "the four parts")
    assert asked.endswith(f"Write {wanted} now.")
    examples = system.split("<thinking>")[1:] if style.name == "few-shot" else system.split("<output>")[2:]
    for example in examples:
        text = ("<thinking>" if style.name == "few-shot" else "<output>") + example.strip()
        parts = PARTS if style.name == "few-shot" else ("output",)
        plan = parse(in_our_form(text, form, (1000, 1000)), repair=False, parts=parts).plan
        assert plan.mask_text == (None if plan.scope == "global" else "box 120 80 310 240 full")


@pytest.mark.parametrize(
    ("text", "parts", "thinking", "repairs"),
    [
        ("<output>\n{plan}\n</output>", ("output",), "", ()),
        ("<think>\na hat\n</think>\n<output>\n{plan}\n</output>", ("think", "output"), "a hat", ()),
        (
            "<think>a hat</think>\n<output>\n{plan}\n</output> So be it.",
            ("think", "output"),
            "a hat",
            ("text between the parts left out",),
        ),
        ("<output>\n{plan}\n</output>", ("think", "output"), "", ("<thinking> is missing: taken as empty",)),
        ("<output>\n{plan}", ("output",), "", ("</output> was missing",)),
    ],
)
def test_a_baselines_answer_is_read_without_missing_what_was_not_asked_for(
    text: str, parts: tuple[str, ...], thinking: str, repairs: tuple[str, ...]
) -> None:
    plan = "instruction: make it red\ntargets: hat\nscope: local\nmask: box 1 2 3 4 full"
    trace = parse(text.replace("{plan}", plan), parts=parts)
    assert (trace.thinking, trace.intermediate, trace.reflection) == (thinking, "", "")
    assert trace.plan.mask_text == "box 1 2 3 4 full" and trace.plan.repairs == repairs


def test_models_are_tuned_on_no_baseline() -> None:
    assert get_style("direct", baselines=True) in BASELINES
    with pytest.raises(ModelError, match="knows 'full' and 'short'"):
        get_style("direct")
