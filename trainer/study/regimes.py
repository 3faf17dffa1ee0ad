"""Regimes in which learning from ratings may pay, and the arms that are compared in each.

- `data`: the same rows, labelled by three raters who err; each arm goes on until validation gets no better.
- `ratings`: nobody wrote an answer: the model's own samples, rated by the three.
- `verifier`: prompts alone; the exact reader says what a sample's plan is worth.
- `rounds`: three times: the model answers new prompts, the three rate, it learns.

An arm is a composition of terms (`objectives`) as settings of a phase; a baseline comes first.
"""

from __future__ import annotations

from typing import Any

RATES = (5e-4, 1e-3, 2e-3)  # for every arm alike; one is chosen on validation
ROUNDS = 3

Arm = dict[str, Any]

_NLL = {"lambda_sft": 0.1}
_DRAWS = {"samples": 4, "similarity": "slots"}
_EXACT = {"samples": 4, "similarity": "exact"}
_SFT: Arm = {"kind": "sft"}
_TRUST: Arm = {"kind": "sft", "data": {"trust": "raters"}}
_KTO: Arm = {"kind": "kto", "eta0": {"over": "shifts", "shifts": 2}}
_KTO_NLL: Arm = {**_KTO, "kto": _NLL}
_KTO_ALONE: Arm = {"kind": "kto", "eta0": {"over": "none"}, "kto": _NLL}
_DPO: Arm = {"kind": "dpo", "batch": 8, "dpo": _NLL}
_RKTO: Arm = {
    "kind": "rkto",
    "rewards": {"samples": 3, "similarity": "slots"},
    "eta0": {"over": "shifts", "shifts": 2},
}


def _group(rewards: Arm | None = None, **settings: Any) -> Arm:
    return {"kind": "group", "rewards": dict(rewards or _DRAWS), "group": settings}


def _verified(**settings: Any) -> Arm:
    """Of prompts alone. The mask has no share: the reader reads the plan."""
    return _group(_EXACT, **{"against": "truth", "alpha": 1.0, **settings})


_RATED: dict[str, Arm] = {
    "SFT on the liked": _SFT,
    "SFT, raters weighed": _TRUST,
    "KTO": _KTO,
    "KTO + NLL": _KTO_NLL,
    "KTO without pairs + NLL": _KTO_ALONE,
    "KTO + NLL, raters weighed": {**_KTO_NLL, "data": {"trust": "raters"}},
    "DPO + NLL": _DPO,
    "RKTO": _RKTO,
}
REGIMES: dict[str, dict[str, Arm]] = {
    "data": {
        "SFT": _SFT,
        **{name: arm for name, arm in _RATED.items() if name != "SFT on the liked"},
        "credit + NLL": _group(lambda_sft=1.0),
        "credit + NLL, mending paid": _group(lambda_sft=1.0, mend=0.5),
    },
    "ratings": _RATED,
    "verifier": {
        "rejection sampling": _verified(lambda_policy=0.0, lambda_accepted=1.0),
        "credit": _verified(),
        "credit + accepted": _verified(lambda_accepted=0.3),
        "credit + accepted, mending paid": _verified(lambda_accepted=0.3, mend=0.5),
        "credit, a draw used twice": _verified(reuse=2),
        "credit, silent prompts passed over": _verified(skip=0.3),
        "credit by part": _verified(mend=0.5, by_part=True),
    },
    "rounds": {name: _RATED[name] for name in ("SFT on the liked", "KTO + NLL", "DPO + NLL")},
}
