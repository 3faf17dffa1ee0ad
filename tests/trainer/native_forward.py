"""Every objective's gradient by the native way: transformers' own processor, positions and forward, one row
at a time. Not a test file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evlm.plan.trace import render
from evlm.reason.messages import Chat, encode
from evlm.request import Reference, Request
from trainer.config.recipe import Config, load_config
from trainer.estimators.eta0 import Eta0Config, pair_indices
from trainer.estimators.rewards import RewardConfig
from trainer.learner.learner import Learner, load_learner
from trainer.learner.rows import Example
from trainer.model.logprobs import base_of
from trainer.model.ranks import Ranks
from trainer.model.reference import ReferencePolicy, using
from trainer.model.token_logprobs import token_logps
from trainer.objectives.dpo import DPOConfig, dpo_loss
from trainer.objectives.group import GroupConfig
from trainer.objectives.kto import KTOConfig, eta0, kto_loss
from trainer.objectives.rkto import RKTOConfig
from trainer.steps import group as group_steps
from trainer.steps import rkto as rkto_steps
from trainer.steps.draws import Draws
from trainer.steps.group import group_step
from trainer.steps.rkto import draw, rkto_step
from trainer.world.questions import ask
from trainer.world.traces import write_trace

SETTINGS = ["model.device=cpu", "lora.rank=4", "lora.alpha=8", "phases.1.batch=4", "phases.1.micro_batch=2"]


def config_of(folder: Path, *more: str) -> Config:
    return load_config("tiny", [*SETTINGS, f"model.base={folder}", *more])


def learner_of(folder: Path, *more: str) -> Learner:
    """With a policy and a reference that do something."""
    learner = load_learner(config_of(folder, *more))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in learner.model.named_parameters():
            if "lora_B" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return learner


def requests() -> list[Request]:
    """Pictures of several sizes, videos of even and odd frames and of several rates, and both together."""
    rng = torch.Generator().manual_seed(2)

    def frames(count: int, height: int, width: int) -> torch.Tensor:
        return torch.rand(count, height, width, 3, generator=rng)

    return [
        Request(frames(1, 64, 64), "brighter", ()),
        Request(frames(5, 48, 48), "slower", (), fps=3.0),
        Request(frames(1, 40, 90), "like these", (
            Reference("image", frames(1, 64, 64)), Reference("video", frames(8, 33, 47), fps=25.0)
        )),
        Request(frames(30, 64, 48), "redder", (Reference("image", frames(1, 50, 50)),)),
    ]  # fmt: skip


EXAMPLES: dict[str, list[Example]] = {}


def examples(learner: Learner) -> list[Example]:
    """The same objects for every learner of a family."""
    family = type(learner.processor).__name__
    if family not in EXAMPLES:
        EXAMPLES[family] = made_examples(learner)
    return list(EXAMPLES[family])


def made_examples(learner: Learner) -> list[Example]:
    import random

    rng = random.Random(4)
    trace = render(write_trace(rng, ask(rng, "train", category="picture-change")))
    texts = ["dark red", trace, "left, 5 %", "none"]
    mask = torch.zeros(64, 64)
    mask[:20, :30] = 1
    return [
        Example(learner.chat(request), text, number != 3, mask if number == 1 else None, f"row {number}")
        for number, (request, text) in enumerate(zip(requests(), texts, strict=True))
    ]


# --- the native way: transformers' processor, positions and forward, one row at a time ---

ENCODED: dict[int, tuple[Chat, Any]] = {}


def native_states(learner: Learner, chat: Chat, tokens: torch.Tensor) -> torch.Tensor:
    """Last hidden states that predict the tokens behind the chat."""
    if id(chat) not in ENCODED:  # the chat is kept with it, so that no other gets its number
        ENCODED[id(chat)] = chat, encode(learner.processor, [chat])
    inputs = dict(ENCODED[id(chat)][1])
    asked = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens[None]], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    kinds = inputs["mm_token_type_ids"]
    inputs["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros(1, len(tokens))], 1)
    out = base_of(learner.model).model(**inputs)
    return out.last_hidden_state[0, asked - 1 : -1]


def native_logps(learner: Learner, chat: Chat, tokens: torch.Tensor) -> torch.Tensor:
    logits = base_of(learner.model).lm_head(native_states(learner, chat, tokens))
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def tokens_of(learner: Learner, example: Example) -> torch.Tensor:
    text = example.answer + learner.processor.tokenizer.eos_token
    return torch.tensor(learner.processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def gradient(learner: Learner) -> torch.Tensor:
    taken = torch.cat([p.grad.flatten() for p in learner.trainable() if p.grad is not None])
    learner.model.zero_grad()
    return taken.double()


def off(got: torch.Tensor, want: torch.Tensor) -> float:
    assert float(want.norm()) > 0
    return float((got - want).norm() / want.norm())


def phases(config: Config) -> dict[str, Any]:
    kto = replace(
        config.phases[1], kind="kto", eta0=Eta0Config("pairs"), micro_batch=3, kto=KTOConfig(lambda_sft=0.1)
    )
    rkto = replace(
        config.phases[1],
        micro_batch=2,
        eta0=Eta0Config("pairs"),
        rkto=RKTOConfig(reinforce="all", lambda_ref=0.2, lambda_u=0.3),
        rewards=RewardConfig(samples=2, temperature=1.2, max_new_tokens=12),
    )
    group = replace(
        config.phases[1],
        kind="group",
        micro_batch=3,
        group=GroupConfig(
            accept=0.0, alpha=1.0, lambda_accepted=0.3, lambda_sft=0.2, lambda_kl=0.1, mend=0.5
        ),
        rewards=RewardConfig(samples=3, temperature=1.2, max_new_tokens=8, similarity="slots"),
    )
    dpo = replace(config.phases[1], kind="dpo", micro_batch=1, dpo=DPOConfig(0.2, "sum", 0.1, 0.3))
    return {
        "sft": replace(config.phases[0], micro_batch=3),
        "kto": kto,
        "rkto": rkto,
        "dpo": dpo,
        "group": group,
    }


def pairs(rows: list[Example]) -> list[Example]:
    """A desired and an undesired answer to the questions of all rows, one after the other."""
    other = [rows[-1], *rows[:-1]]
    return [
        example
        for row, wrong in zip(rows, other, strict=True)
        for example in (
            replace(row, desired=True, weight=0.8),
            replace(row, answer=wrong.answer, desired=False),
        )
    ]


def native_gradient(
    learner: Learner,
    rows: list[Example],
    kind: str,
    phase: Any,
    monkeypatch: Any,
    frozen: Learner | None = None,
) -> torch.Tensor:
    """frozen: a whole model of its own that is kto's and dpo's reference; else the learner's."""
    chats, tokens = [e.chat for e in rows], [tokens_of(learner, e) for e in rows]

    def scores(pairs: list[tuple[int, int]], by: Learner = learner) -> torch.Tensor:
        return torch.stack([native_logps(by, chats[i], tokens[j]).double().sum() for i, j in pairs])

    def reference_scores(pairs: list[tuple[int, int]]) -> torch.Tensor:
        if frozen is not None:
            return scores(pairs, frozen)
        with using(learner.model, "reference"):
            return scores(pairs)

    if kind == "sft":
        loss = -sum(native_logps(learner, c, t).sum() for c, t in zip(chats, tokens, strict=True))
        (loss / sum(map(len, tokens))).backward()
        return gradient(learner)
    own, others = [(i, i) for i in range(len(rows))], pair_indices(len(rows))
    if kind == "dpo":
        with torch.no_grad():
            theirs = reference_scores(own)
        weights = torch.tensor([each.weight for each in rows]).view(-1, 2).prod(1)
        lengths = torch.tensor([len(t) for t in tokens]).view(-1, 2)
        loss, _ = dpo_loss(scores(own).view(-1, 2), theirs.view(-1, 2), lengths, phase.dpo, weights)
        loss.backward()
        return gradient(learner)
    if kind == "kto":
        with torch.no_grad():
            mismatched = scores(others)
            reference, theirs = reference_scores(own), reference_scores(others)
        loss, _ = kto_loss(
            scores(own),
            reference,
            torch.tensor([len(t) for t in tokens]),
            torch.tensor([e.desired for e in rows]),
            eta0(mismatched - theirs),
            phase.kto,
        )
        loss.backward()
        return gradient(learner)
    # RKTO's own step, every state and score of which comes from the native forward.
    rows = sorted(rows, key=lambda e: not e.desired)

    asked = [(e.chat, learner.collate([e.chat], [""]).input_ids[0, :-1].tolist()) for e in rows]

    def states(model: Any, prompts: Any, responses: Any, owner: Any, how: Any = "") -> torch.Tensor:
        found = []
        for response, row in zip(responses, owner, strict=True):
            shown = prompts.batch.input_ids[row][prompts.batch.attention_mask[row]].tolist()
            (chat,) = (chat for chat, tokens in asked if tokens == shown)
            found.append(native_states(learner, chat, response))
        return torch.cat(found)

    def logps(model: Any, prompts: Any, responses: Any, owner: Any, *_: Any) -> torch.Tensor:
        flat = token_logps(
            states(model, prompts, responses, owner), torch.cat(list(responses)), base_of(model).lm_head
        )
        return torch.stack([each.double().sum() for each in flat.split([len(r) for r in responses])])

    from trainer.estimators import eta0 as eta0_module
    from trainer.model import reference as reference_module

    for module in (rkto_steps, eta0_module, reference_module):
        monkeypatch.setattr(module, "sequence_logps", logps)
    monkeypatch.setattr(rkto_steps, "response_states", states)
    monkeypatch.setattr(group_steps, "response_states", states)
    if kind == "group":
        group_step(
            learner, ReferencePolicy(learner.model), rows, phase, words(learner, rows, phase), 0, no_draws()
        )
        return gradient(learner)
    rkto_step(learner, ReferencePolicy(learner.model), rows, phase, 7, 0)
    return gradient(learner)


def words(learner: Learner, rows: list[Example], phase: Any) -> int:
    """A step whose samples spell no placeholder of a picture, which the native forward would want one for."""
    config = base_of(learner.model).config
    pictures = torch.tensor([config.image_token_id, config.video_token_id])
    some = [replace(row, desired=True) for row in rows]
    steps = (at for at in range(7, 60) if not pictured(learner, some, phase, at, pictures))
    return next(steps)


def pictured(learner: Learner, rows: list[Example], phase: Any, at: int, pictures: torch.Tensor) -> bool:
    samples = draw(learner, rows, phase.rewards, at, 0).samples
    return bool(torch.isin(torch.cat(samples), pictures).any())


def no_draws() -> Draws:
    return Draws(Path("nowhere"), Ranks())
