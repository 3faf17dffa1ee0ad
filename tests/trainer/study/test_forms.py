"""Stage 0: a base that knows every form, and R_reflect of any arm on the same traces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer.study.forms
from evlm.plan.form import LEARNED, parse_exact
from evlm.plan.mask_codec import get_codec
from evlm.reason.backbone import load_backbone
from evlm.reason.messages import FULL, SHORT, build_messages, encode, tuned_on
from evlm.request import Request
from trainer.bundle.tiny_qwen import make_model, make_processor, make_tokenizer
from trainer.config.recipe import RECIPES, Source
from trainer.config.settings import read_yaml
from trainer.evaluation.accuracy import as_learner
from trainer.evaluation.questions import world_questions
from trainer.learner.rows import open_rows
from trainer.model.ranks import Ranks
from trainer.objectives.reflection import ReflectionConfig, mean_embedding, reflection_reward
from trainer.study.arms import STUDIES
from trainer.study.forms import forms_base, known_forms, model_of, needed, page
from trainer.study.reflection import _right, reflection_of

CODEC = get_codec("box-spans-8")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(iter(["<thinking> red circle <output> instruction: make the blue"] * 8))
    model = make_model(tokenizer, width=64, layers=2, vision_width=32, vision_depth=2)
    model.config.text_config.max_position_embeddings = 4096
    model.save_pretrained(folder)
    make_processor(tokenizer).save_pretrained(folder)
    (folder / "evlm.json").write_text(json.dumps({"prompt": "short", "mask_codec": "box-spans-8"}))
    return folder


def recipe_on(base: Path) -> dict[str, Any]:
    return {**read_yaml(RECIPES / "tiny.yaml"), "model": {"base": str(base), "attention": "eager"}}


def test_studies_of_fewer_parts_need_it_and_no_other() -> None:
    assert {name for name, arms in STUDIES.items() if needed(arms)} == {"parts", "table13"}


def test_the_short_style_names_fewer_parts_and_not_all() -> None:
    request = Request(torch.zeros(1, 8, 8, 3), "make it blue")

    def last(parts: str) -> str:
        chat = build_messages(request, style=tuned_on(SHORT, parts))
        return str(chat.messages[-1]["content"][-1]["text"])

    assert last("full") == " prompt make it blue"
    assert {last(parts) for parts in LEARNED if parts != "full"} == {
        " prompt make it blue only think output",
        " prompt make it blue only output",
        " prompt make it blue only thinking intermediate output",
    }
    assert tuned_on(FULL, "full") == FULL


@pytest.mark.parametrize("rows", [0, 60])
def test_mixed_rows_come_in_every_form_and_in_the_words_for_it(rows: int) -> None:
    source, wanted = [Source(world=True, rows=rows)], 16
    mixed = open_rows(source, wanted, 0, True, SHORT, CODEC, mixed=True)
    whole = open_rows(source, wanted, 0, True, SHORT, CODEC)
    seen: list[str] = []
    for step in range(4):
        some = mixed.batch(step)
        ranks = [mixed.batch(step, Ranks(number, 2)) for number in range(2)]
        assert [e.answer for part in ranks for e in part] == [e.answer for e in some]
        for one, all_of_it in zip(some, whole.batch(step), strict=True):
            form = next(name for name, parts in LEARNED.items() if one.answer.startswith(f"<{parts[0]}>")
                        and ("<reflection>" in one.answer) is ("reflection" in parts))  # fmt: skip
            seen.append(form)
            assert parse_exact(one.answer, LEARNED[form]).plan == parse_exact(all_of_it.answer).plan
            said = one.chat.messages[-1]["content"][-1]["text"]
            assert said.endswith(f" only {' '.join(LEARNED[form])}") is (form != "full")
    assert {name: seen.count(name) >= 6 for name in LEARNED} == dict.fromkeys(LEARNED, True)


def test_a_base_goes_on_until_it_knows_its_forms_and_is_made_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.study.forms, "_BATCH", 2)
    monkeypatch.setattr(trainer.study.forms, "load", scripted)
    monkeypatch.setattr(trainer.study.forms, "ASKED", 3)
    recipe = recipe_on(base)
    pieces = forms_base(recipe, 2, tmp_path, 0.5)
    assert [trial.config.phases[0].steps for trial in pieces] == [2, 1, 1, 1], "what it says is never a trace"
    models = [model_of(trial) for trial in pieces]
    assert [trial.config.model.base for trial in pieces] == list(map(str, [base, *models[:-1]]))
    weights = [(model / "model.safetensors").read_bytes() for model in (base, *models)]
    assert len(set(weights)) == 5 and load_backbone(models[-1]).style == SHORT
    found = known_forms(pieces[-1], 0.5)
    assert set(found) == set(LEARNED) and found["direct"]["malformed"] == 1.0
    text = page(pieces, found)
    assert "5 steps of all weights" in text and "| two_step | 1.000 | 0.000 | 1.000 | 0.000 |" in text
    known = {name: {**values, "malformed": 0.01} for name, values in found.items()}
    assert "is missed" in text and "is missed" not in page(pieces, known)

    monkeypatch.setattr(trainer.study.forms, "load", lambda *_, **__: pytest.fail("asked again"))
    other = {**recipe, "lora": {"rank": 4}, "data": [{**recipe["data"][0], "lamp": 0.9, "rows": 7}]}
    again = forms_base(other, 2, tmp_path, 0.5)
    assert [trial.hash for trial in again] == [trial.hash for trial in pieces]
    assert weights[1:] == [(model / "model.safetensors").read_bytes() for model in models]
    # One that knows them all goes on no further.
    (pieces[0].folder / "forms-3-0.5.json").write_text(json.dumps(known))
    assert len(forms_base(recipe, 2, tmp_path, 0.5)) == 1


def scripted(base: str, style: str) -> Any:
    parts = LEARNED[style.partition("-")[2] or "full"]
    return (lambda requests: ["no"] * len(requests)), len, parts


@pytest.fixture
def learner(base: Path) -> Iterator[Any]:
    yield as_learner(load_backbone(base, attention="eager"))


def test_r_reflect_is_eq_11_one_trace_after_the_other(learner: Any) -> None:
    questions, table = world_questions(9, 1), learner.model.get_input_embeddings().weight
    tokenizer, settings, each = learner.processor.tokenizer, ReflectionConfig(), []
    for question in questions:
        trace = _right(question)
        answer = tokenizer(trace + "<|im_end|>", add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = torch.tensor(answer["input_ids"]), answer["offset_mapping"]
        inputs = encode(learner.processor, [learner.chat(question.request())], [trace + "<|im_end|>"])
        with torch.no_grad():
            probs = learner.model(**inputs).logits[0, -len(ids) - 1 : -1].softmax(-1)

        def within(part: str, trace: str = trace, offsets: Any = offsets) -> list[int]:
            start, end = trace.index(f"<{part}>") + len(part) + 2, trace.index(f"</{part}>")
            return [n for n, (a, b) in enumerate(offsets) if a < end and b > start and a >= start]

        said, first = within("reflection"), within("intermediate")
        reward, _ = reflection_reward(
            probs[said][None], torch.ones(1, len(said), dtype=torch.bool),
            probs[first][None], torch.ones(1, len(first), dtype=torch.bool),
            ids[said[-1] + 1], table,
            mean_embedding(ids[None], torch.ones(1, len(ids), dtype=torch.bool), table), settings,
        )  # fmt: skip
        each.append(float(reward))
    assert reflection_of(learner, questions) == pytest.approx(sum(each) / len(each), abs=1e-3)
    assert reflection_of(learner, []) is None
