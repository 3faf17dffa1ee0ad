"""Every forward's tokens are counted, whichever way they were computed."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from trainer.config.recipe import load_config
from trainer.estimators.rewards import embed
from trainer.learner.learner import load_learner
from trainer.model import lean
from trainer.model.logprobs import sequence_logps
from trainer.model.merged_lora import merged
from trainer.model.prompts import split
from trainer.model.sampling import SampleConfig, sample
from trainer.model.token_count import pop_count
from trainer.run.loop import run


@pytest.fixture()
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that go into the language model, padding included, forward by forward."""
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel

    sizes: list[int] = []
    inner = Qwen2VLTextModel.forward

    @wraps(inner)  # what the model takes by which name is read from its signature
    def forward(self: Any, *args: Any, **more: Any) -> Any:
        sizes.append(more["inputs_embeds"].shape[:2].numel())
        return inner(self, *args, **more)

    monkeypatch.setattr(Qwen2VLTextModel, "forward", forward)
    ours = lean.last_states

    def last_states(core: Any, embeds: Tensor, *args: Any) -> Tensor:
        sizes.append(len(embeds))
        return ours(core, embeds, *args)

    monkeypatch.setattr(lean, "last_states", last_states)
    return sizes


def test_a_lone_row_has_no_padding_and_counts_whole(tmp_path: Path, seen: list[int]) -> None:
    config = load_config("tiny", [f"out={tmp_path}", "phases.0.batch=1"])
    learner = load_learner(config)
    batch = learner.batch(learner.rows(config, config.phases[0]).batch(0))
    prompts, responses = split(batch, learner.merge)
    pop_count()
    with merged(learner.model):
        for how in ("naive", "packed", "cached"):
            sequence_logps(learner.model, prompts, responses, [0], how)  # type: ignore[arg-type]
            assert pop_count() == sum(seen) > 0
            seen.clear()
        embed(learner.model, responses)
        assert pop_count() == sum(seen) == len(responses[0])
        seen.clear()
        sampled = sample(learner.model, prompts, [0], SampleConfig(0.0, 5), [0])
        assert pop_count() == sum(seen) == int(prompts.lengths[0]) + len(sampled[0]) - 1


def test_each_step_says_what_it_fed(tmp_path: Path, seen: list[int]) -> None:
    more = ["phases.0.steps=2", "phases.1.steps=2", "phases.0.batch=2", "phases.1.batch=2"]
    more.append("phases.1.rewards.max_new_tokens=60")
    config = load_config("tiny", [f"out={tmp_path}", "log_every=1", "phases.1.micro_batch=1", *more])
    events: list[dict[str, Any]] = []
    run(config, events.append)
    steps = [event for event in events if event["event"] == "step"]
    assert [event["steps"] for event in steps] == [4, 4, 4, 4]
    assert min(event["tokens"] for event in steps) > 200
    assert min(event["tokens_per_second"] for event in steps) > 0
    assert 0.8 * sum(seen) < sum(event["tokens"] for event in steps) <= sum(seen)
    assert steps[0]["lr"] == pytest.approx(config.phases[0].lr / config.phases[0].warmup)
