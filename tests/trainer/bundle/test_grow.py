"""Vocabularies that grow: what was read before is read as before, and a new word is one token."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from evlm.errors import ConfigError
from evlm.plan.trace import render
from evlm.reason.messages import SHORT, build_messages
from trainer.bundle.detector import label_bank
from trainer.bundle.editor.models import TEXT_LENGTH, build_text_encoder, build_tokenizer
from trainer.bundle.grow import carried, carry_clip, carry_reasoner, grown_bpe
from trainer.bundle.tiny_qwen import make_model, make_tokenizer
from trainer.bundle.tokens import clip_tokenizer
from trainer.world.conflicts import ask_conflict
from trainer.world.doubles import ask_double
from trainer.world.edits import OPERATIONS, random_edit
from trainer.world.questions import ask
from trainer.world.rows import to_request
from trainer.world.scene import random_scene
from trainer.world.solid import SOLIDS
from trainer.world.traces import write_trace
from trainer.world.whatif.ask import MORE, WORDS, ask_what_if
from trainer.world.word_questions import SHAPE_MOODS
from trainer.world.words import all_words, editor_words, known_words

BUNDLED = Path(__file__).resolve().parents[3] / "evlm" / "bundled"


def texts(asker, count: int, seed: str) -> list[str]:
    """What a reasoner reads and writes: the texts of the chats, and the traces."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        question = asker(rng, "train")
        for message in build_messages(to_request(question, 16), style=SHORT).messages:
            found += [item["text"] for item in message["content"] if item["type"] == "text"]
        found.append(render(write_trace(rng, question)))
    return found


def instructions(count: int) -> list[str]:
    rng = random.Random("instructions")
    edits = [random_edit(rng, op, random_scene(rng)) for op in OPERATIONS for _ in range(count)]
    return [edit.instruction for edit in edits if edit is not None]


@pytest.fixture(scope="module")
def bundled():
    from transformers import AutoTokenizer

    old = AutoTokenizer.from_pretrained(BUNDLED / "reasoner")
    return old, grown_bpe(old, all_words())


def test_every_word_that_a_wing_asks_or_answers_is_one_token(bundled) -> None:
    known = set(all_words())
    rng = random.Random("words")
    for asker in (ask_what_if, ask_double, ask_conflict):
        for _ in range(40):
            question = asker(rng, "train")
            said = f"{question.prompt} {' '.join(ref.text for ref in question.refs)} {question.hint}"
            words = [word for word in said.split() if word not in SHAPE_MOODS]  # spelled, as it always was
            assert all(len(bundled[1](f" {word}")["input_ids"]) == 1 for word in words), said
    for wording in (*WORDS.values(), *MORE.values()):
        assert {word for text in wording for word in text.split() if word.isalpha()} <= known
    assert set(SOLIDS) <= known and "ring" not in SOLIDS


def test_an_old_text_has_the_same_tokens_and_a_new_word_is_one(bundled) -> None:
    old, new = bundled
    for text in texts(ask, 60, "old"):
        assert new(text)["input_ids"] == old(text)["input_ids"]
        assert new.decode(new(text)["input_ids"]) == text
    for word in all_words():
        fresh = len(old(f" {word}")["input_ids"]) > 1
        assert len(new(f" {word}")["input_ids"]) == 1, word
        assert len(new(word)["input_ids"]) <= (1 if fresh else len(old(word)["input_ids"])), word
    assert all(new.get_vocab()[token] == number for token, number in old.get_vocab().items())
    assert (new.eos_token, new.pad_token, new.padding_side) == (
        old.eos_token,
        old.pad_token,
        old.padding_side,
    )
    assert new.image_token == old.image_token and len(new) < 2 * len(old)


def test_the_bundled_reasoner_says_the_same_of_an_old_text_to_the_bit(bundled) -> None:
    from transformers import Qwen2VLForConditionalGeneration

    old, new = bundled
    model = Qwen2VLForConditionalGeneration.from_pretrained(BUNDLED / "reasoner", dtype=torch.float32).eval()
    ids = old(texts(ask, 2, "logits")[-1], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        mean = model.get_input_embeddings().weight.mean(0)
        carry_reasoner(model, old, new)
        after = model(input_ids=ids).logits
    assert after.shape[-1] == len(new) and torch.equal(after[..., : len(old)], before)
    rows = model.get_input_embeddings().weight
    assert torch.allclose(rows[len(old) :], mean.expand(len(new) - len(old), -1))
    assert model.lm_head.weight is rows and model.config.text_config.vocab_size == len(new)


def test_a_reasoner_whose_tokens_have_moved_is_refused() -> None:
    tokenizer = make_tokenizer(iter(["<thinking> red circle </thinking>"] * 8))
    model = make_model(tokenizer, width=64, layers=1, vision_width=32, vision_depth=1)
    other = make_tokenizer(iter(["<thinking> blue square of things </thinking>"] * 8))
    with pytest.raises(ConfigError, match="another number"):
        carry_reasoner(model, tokenizer, other)
    with pytest.raises(ConfigError, match="not the model's tokenizer"):
        carried(torch.zeros(3, 2), {"a": 0, "b": 1}, {"a": 0})


def test_the_editors_text_reads_old_instructions_alike_though_its_numbers_move() -> None:
    old, new = build_tokenizer(), clip_tokenizer(editor_words(), TEXT_LENGTH, pad="<|endoftext|>")
    moved = [token for token, number in old.get_vocab().items() if new.get_vocab().get(token) != number]
    assert len(moved) > 100  # the trap
    model = build_text_encoder(old, width=32, layers=1).eval()
    asked = instructions(4)
    with torch.no_grad():
        before = model(**old(asked, padding="max_length", return_tensors="pt"))
        carry_clip(model, old, new)
        after = model(**new(asked, padding="max_length", return_tensors="pt"))
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)
    assert torch.equal(before.pooler_output, after.pooler_output)  # the end token is found by its number
    assert model.config.vocab_size == len(new)
    for word in editor_words():
        if word.isalpha():
            assert len(new(word)["input_ids"]) == 3, word  # between its start and its end


def test_the_detector_scores_old_labels_alike() -> None:
    from trainer.bundle.detector import OTHER_WORDS
    from trainer.bundle.detector import TEXT_LENGTH as LABEL_LENGTH
    from trainer.bundle.detector import make_model as make_detector
    from trainer.bundle.detector import make_tokenizer as make_labels

    old = make_labels()
    new = clip_tokenizer([*known_words(), *OTHER_WORDS, *SOLIDS], LABEL_LENGTH)
    torch.manual_seed(0)
    model, labels = make_detector(old).eval(), [phrase for phrase, _ in label_bank()][::9]
    pixels = torch.rand(1, 3, 64, 64)

    def scored(tokenizer) -> torch.Tensor:
        inputs = tokenizer(labels, padding="max_length", return_tensors="pt")
        with torch.no_grad():
            return model(pixel_values=pixels, **inputs).logits

    before = scored(old)
    carry_clip(model.owlvit.text_model, old, new)
    assert torch.equal(scored(new), before)
