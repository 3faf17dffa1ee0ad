"""A second look: neutral light, the whole text's probabilities, and a plan's confidence by them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch

from evlm.errors import ModelError
from evlm.models.zoo import BUNDLED
from evlm.reason.decoding import Decoder, log_probability
from evlm.reason.messages import build_messages, encode
from evlm.reason.reasoner import Reasoner, Sampling
from evlm.reason.second_look import MOST_GAIN, confidence, in_neutral_light, light_gains, scored
from evlm.request import Reference, Request


@pytest.fixture(scope="module")
def bundled() -> Reasoner:
    return Reasoner.load(BUNDLED / "reasoner", device="cpu")


def noise(seed: int, frames: int = 1) -> torch.Tensor:
    return torch.rand(frames, 64, 64, 3, generator=torch.Generator().manual_seed(seed)) * 0.9


def pixels(*channels: float) -> torch.Tensor:
    return torch.tensor(channels).mul(255).round().to(torch.uint8)[:, None, None].expand(3, 4, 4)


def test_a_lamp_is_taken_off_and_neutral_light_stays() -> None:
    grey = torch.rand(1, 600, 8, generator=torch.Generator().manual_seed(1)).expand(3, -1, -1) * 255
    torch.testing.assert_close(light_gains([grey.byte()]), torch.ones(3))
    lamp = torch.tensor([1.0, 0.8, 0.55])
    found = light_gains([(grey * lamp[:, None, None]).round().byte(), pixels(1, 0.8, 0.55)])
    torch.testing.assert_close(found, 1 / lamp, atol=0.01, rtol=0)
    assert light_gains([pixels(0, 0, 0)]).tolist() == [1, 1, 1]
    assert light_gains([pixels(0.5, 0.004, 0)]).tolist() == [1, MOST_GAIN, MOST_GAIN]


def test_pictures_and_clips_of_a_request_share_the_light_and_depth_has_none() -> None:
    words, depth = Reference("text", text="like rain"), Reference("depth", noise(5))
    tint = torch.tensor([1.0, 0.5, 0.5])
    one, clip = Reference("image", noise(2) * tint), Reference("video", noise(3, 4) * tint, fps=8.0)
    for original in (noise(1) * tint, noise(1, 3) * tint):
        request = Request(original, "like this", (one, words, depth, clip))
        chat = build_messages(request)
        again = in_neutral_light(chat, request)
        still = chat.images[:-1]
        gains = light_gains([*still, *(each.frames for each in chat.videos)])
        assert gains[0] == 1 and gains[1:].min() > 1.5
        for before, after in [
            *zip(still, again.images[:-1], strict=True),
            *((a.frames, b.frames) for a, b in zip(chat.videos, again.videos, strict=True)),
        ]:
            expected = (before.float() * gains[:, None, None]).round().clamp(0, 255)
            assert torch.equal(after.float(), expected)
        assert torch.equal(again.images[-1], chat.images[-1]) and again.messages == chat.messages
        assert all(a.indices == b.indices for a, b in zip(chat.videos, again.videos, strict=True))


def test_names_of_special_tokens_in_a_text_are_words(bundled: Reasoner) -> None:
    request = Request(noise(3), "make it blue")
    chat = build_messages(request, bundled.codec, bundled.style, bundled.backbone.max_frames)
    logs = scored(bundled.module, bundled.processor, chat, "a <|image_pad|> and <|im_end|> red")
    assert len(logs) > 5 and all(map(math.isfinite, logs))


def test_one_forward_gives_what_the_token_loop_gives(bundled: Reasoner) -> None:
    """Against one forward for each token."""
    request, text = Request(noise(3), "make it blue"), "<thinking>\noriginal : a red plain square"
    chat = build_messages(request, bundled.codec, bundled.style, bundled.backbone.max_frames)
    ids = bundled.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    decoder, expected = Decoder(bundled.module), []
    with torch.inference_mode():
        logits = decoder.prefill(encode(bundled.processor, [chat]))
        for token in ids:
            expected.append(float(log_probability(logits, token)))
            logits = decoder.feed([token])
    found = scored(bundled.module, bundled.processor, chat, text)
    assert len(found) == len(ids) > 4
    assert found == pytest.approx(expected, abs=2e-3)
    assert scored(bundled.module, bundled.processor, chat, "") == []


def test_confidence_is_one_where_both_looks_are_certain_and_falls_with_each_doubt() -> None:
    assert confidence([0.0, 0.0], [0.0, 1e-9], 5.0) == 1.0 and confidence([], [], 5.0) == 1.0
    halves = [-math.log(4), -math.log(2)]  # mean probabilities 1/2 and 3/4
    found = confidence(halves, [-math.log(4 / 3), 0.0], 2.0)
    expected = math.sqrt(math.log(2)) + math.sqrt(math.log(4 / 3))
    assert found == pytest.approx(math.exp(-expected / 2))
    assert 0 < confidence([-800.0], [-900.0], 1.0) < 1e-3
    assert confidence([-1.0], [math.nan], 1.0) is None and confidence([-math.inf], [-1.0], 1.0) is None
    with pytest.raises(ValueError):
        confidence([0.0], [], 1.0)


def test_a_plan_of_the_bundle_has_it_and_the_text_stays(
    bundled: Reasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(noise(4) * torch.tensor([1.0, 0.6, 0.3]), "make it blue")
    sampling = Sampling(guided="always")
    reasoned = bundled.reason(request, sampling)
    backbone = bundled.backbone
    chat = build_messages(request, bundled.codec, bundled.style, backbone.max_frames)
    again = in_neutral_light(chat, request)
    logs = [scored(bundled.module, bundled.processor, each, reasoned.text) for each in (chat, again)]
    assert backbone.temperature is not None and logs[0] != logs[1]
    assert reasoned.confidence == pytest.approx(confidence(*logs, backbone.temperature))
    monkeypatch.setattr("evlm.reason.second_look.scored", lambda *given: [math.nan])
    unknown = bundled.reason(request, sampling)
    assert unknown.confidence is None and "not finite in torch.float32" in unknown.notes[-1]
    monkeypatch.setattr(backbone, "second_look", False)
    once = bundled.reason(request, sampling)
    assert once.text == reasoned.text and once.trace == reasoned.trace
    assert once.confidence != reasoned.confidence


@pytest.mark.parametrize(
    "notes", [{"second_look": True}, {"second_look": 1, "confidence_temperature": 2.0}, {"second_look": "no"}]
)
def test_it_is_a_word_of_the_folder_and_wants_its_temperature(tmp_path: Path, notes: dict[str, Any]) -> None:
    folder = tiny_qwen.save_folder(tmp_path / "m")
    assert not Reasoner.load(folder, device="cpu").backbone.second_look
    (folder / "evlm.json").write_text(json.dumps(notes))
    with pytest.raises(ModelError, match="second_look"):
        Reasoner.load(folder, device="cpu")
