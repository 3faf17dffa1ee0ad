"""The trainer's fast batches and forward against transformers' own processor, positions and model."""

from __future__ import annotations

import random

import pytest
import torch

from evlm.plan.trace import render
from evlm.reason.messages import SHORT, Chat, build_messages, encode
from evlm.request import Reference, Request
from trainer.bundle.tiny_qwen import make_model, make_processor, make_tokenizer
from trainer.model.batch import Collator, Pictures, patchify
from trainer.model.forward import hidden_and_seen, hidden_states
from trainer.objectives.sft import sft_loss
from trainer.world.questions import CATEGORIES, ask
from trainer.world.rows import to_request
from trainer.world.traces import write_trace


@pytest.fixture(scope="module")
def tiny():
    tokenizer = make_tokenizer(iter(["<thinking>\nlarge red circle , left\n</thinking>"] * 8))
    return make_processor(tokenizer), make_model(tokenizer, layers=2, vision_depth=2).eval()


@pytest.fixture(scope="module")
def rows():
    rng = random.Random(5)
    asked = [ask(rng, "train", category=c) for c in CATEGORIES]
    return [build_messages(to_request(q), style=SHORT) for q in asked], [
        render(write_trace(rng, q)) for q in asked
    ]


def test_tokens_positions_and_patches_equal_the_processors(tiny, rows):
    processor, model = tiny
    chats, answers = rows
    batch = Collator(processor)(chats, answers)
    slow = encode(processor, chats, [a + "<|im_end|>" for a in answers], padding_side="right")
    assert torch.equal(batch.input_ids, slow["input_ids"])
    assert torch.equal(batch.attention_mask, slow["attention_mask"].bool())
    positions, _ = model.model.get_rope_index(
        slow["input_ids"],
        slow["mm_token_type_ids"],
        slow["image_grid_thw"],
        slow["video_grid_thw"],
        slow["attention_mask"],
    )
    assert torch.equal(batch.position_ids, positions)
    assert len(batch.pixels) == len(slow["pixel_values"]) + len(slow["pixel_values_videos"])


def test_hidden_states_equal_the_models(tiny, rows):
    processor, model = tiny
    batch = Collator(processor)(*rows)
    slow = encode(processor, rows[0], [a + "<|im_end|>" for a in rows[1]], padding_side="right")
    with torch.no_grad():
        want = model.model(**slow).last_hidden_state
        got = hidden_states(model, batch)
    assert torch.allclose(got[batch.attention_mask], want[batch.attention_mask], atol=2e-5)


def test_the_learned_tokens_are_the_answer_and_its_end(tiny, rows):
    processor, _ = tiny
    batch = Collator(processor)(*rows)
    for row, answer in zip(batch.labels, rows[1], strict=True):
        assert processor.tokenizer.decode(row[row != -100]) == answer + "<|im_end|>"


def test_loss_equals_a_plain_cross_entropy_whatever_the_chunk(tiny, rows):
    processor, model = tiny
    batch = Collator(processor)(*rows)
    with torch.no_grad():
        hidden = hidden_states(model, batch)
        logits = model.lm_head(hidden)[:, :-1].flatten(0, 1)
        want = torch.nn.functional.cross_entropy(
            logits, batch.labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )
        for chunk in (7, 100_000):
            total, count = sft_loss(hidden, batch.labels, model.lm_head, chunk)
            assert torch.allclose(total, want, rtol=1e-5)
            assert count == int((batch.labels != -100).sum())


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (200, 30), (65, 63)])
def test_patches_of_any_size_equal_the_processors(tiny, size):
    processor, _ = tiny
    frame = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    want = processor.image_processor(images=[frame], return_tensors="pt")
    got, grid = patchify(frame[None], Pictures.of(processor))
    assert grid == tuple(want["image_grid_thw"][0].tolist())
    assert torch.allclose(got, want["pixel_values"], atol=1e-6)


@pytest.mark.parametrize("size", [(40, 56), (8, 9), (100, 30), (200, 300), (33, 47)])
def test_a_model_that_takes_pictures_of_many_sizes_sees_them_as_its_processor_makes_them(size):
    processor = many_sizes()
    rng = torch.Generator().manual_seed(2)
    references = (
        Reference("image", torch.rand(1, 24, 70, 3, generator=rng)),
        Reference("video", torch.rand(5, *size, 3, generator=rng), fps=4.0),
    )
    chat = build_messages(Request(torch.rand(1, *size, 3, generator=rng), "x", references))
    batch = Collator(processor)([chat], ["ok"])
    slow = encode(processor, [chat], ["ok<|im_end|>"], padding_side="right")
    assert torch.equal(batch.input_ids, slow["input_ids"])
    assert torch.equal(batch.pixels, torch.cat([slow["pixel_values"], slow["pixel_values_videos"]]))
    assert torch.equal(batch.grids, torch.cat([slow["image_grid_thw"], slow["video_grid_thw"]]))


def many_sizes():
    """A processor as the hub's: pictures keep their size between 16 x 16 and 64 x 64 pixels."""
    processor = make_processor(make_tokenizer(iter(["<thinking>"] * 8)))
    for part, least, most in ((processor.image_processor, 256, 4096), (processor.video_processor, 256, 1024)):
        part.size = type(part.size)(shortest_edge=least, longest_edge=most)
    processor.video_processor.cap_pixels_per_frame = False
    return processor


def test_words_without_pictures_are_a_batch_too(tiny):
    processor, model = tiny
    chat = Chat([{"role": "user", "content": [{"type": "text", "text": "name a colour"}]}], [], [])
    batch = Collator(processor)([chat, chat], ["red", "dark blue"])
    assert batch.grids.shape == (0, 3) and not bool(batch.vision_mask.any())
    with torch.no_grad():
        want = model.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            position_ids=batch.position_ids,
        ).last_hidden_state
        assert torch.allclose(hidden_states(model, batch), want, atol=2e-5)


def test_pictures_of_different_sizes_go_through_the_towers_own_forward(tiny, monkeypatch):
    processor, model = tiny
    frames = [torch.rand(1, 64, 64, 3), torch.rand(1, 40, 96, 3)]
    request = Request(frames[0], "like this", (Reference("image", frames[1]),))
    batch = Collator(processor)([build_messages(request, style=SHORT)], ["ok"])
    assert len({tuple(g) for g in batch.grids.tolist()}) == 2
    slow = encode(processor, [build_messages(request, style=SHORT)], ["ok<|im_end|>"])
    with torch.no_grad():
        got, states = hidden_and_seen(model, batch)
        want = model.model(**slow).last_hidden_state
    assert states is None
    assert torch.allclose(got, want, atol=2e-5)
    tower = model.model.visual
    forward = tower.forward
    monkeypatch.setattr(tower, "forward", lambda *a, **k: forward(*a, **k).pooler_output)  # transformers 4.57
    with torch.no_grad():
        assert torch.equal(hidden_and_seen(model, batch)[0], got)


def test_any_text_round_trips_through_the_tokenizer(tiny):
    tokenizer = tiny[0].tokenizer
    for text in (
        "make it heroic",
        "Größe 15 \u2713 \u65e5\u672c\u8a9e",
        "<thinking>\n\n</thinking>\nmask: box 1 2-3 .",
        "a\tb  c\n\n",
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
