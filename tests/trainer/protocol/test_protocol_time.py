"""Two hundred questions, the bundled model and another, an exact judge, three raters who err: how long it
takes, and whether people agree as their rates make them."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from scripted_panel import Panel, vote_all

from evlm.errors import TraceError
from evlm.plan.trace import parse_exact
from trainer.__main__ import main
from trainer.evaluation.questions import world_questions
from trainer.raters.items import load_items
from trainer.raters.store import FILE, Store

ROWS = int(os.environ.get("EVLM_PROTOCOL_ROWS", "200"))
ERRS = {"ann": 0.05, "bo": 0.1, "cy": 0.2}
PROTOCOL = """
questions: {{world: true, rows: {rows}, seed: 1, lamp: 0.5}}
models: [{{name: bundled, base: bundled}}, {other}]
judges: [{{endpoint: "{url}", model: exact}}]
humans: {{wanted: 3}}
out: {out}
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_models_a_judge_and_three_raters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EVLM_ADAPTER: of the second model, as runs/tiny/adapter.safetensors; without one a server answers."""
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)
    questions = world_questions(ROWS, 1, lamp=0.5)
    start, cpu = time.monotonic(), time.process_time()
    with closing(Panel(questions)) as server:
        adapter = os.environ.get("EVLM_ADAPTER")
        other = f'{{name: tuned, base: bundled, adapter: "{adapter}"}}' if adapter else (
            f'{{name: half, endpoint: "{server.url}", model: half, trust: tuned}}')  # fmt: skip
        file, out = tmp_path / "p.yaml", tmp_path / "out"
        file.write_text(PROTOCOL.format(rows=ROWS, other=other, url=server.url, out=out))
        assert main(["protocol", str(file)]) == 0
        with closing(Store(out / "humans" / FILE)) as store:
            load_items(store, out / "humans", 3, 0, lambda problem: None)
            votes = sum(vote_all(store, name, errs) for name, errs in ERRS.items())
        assert main(["protocol", str(file)]) == 0
        assert max(server.asked.values()) == 1
    spent = time.process_time() - cpu
    print(f"{ROWS} questions, {votes} votes: {time.monotonic() - start:.0f} s, {spent:.0f} s of CPU")
    with open(out / "tables" / "agreement.csv", newline="") as table:
        rows = {row["who"]: row for row in csv.DictReader(table)}
    raters = dict(zip(("r01", "r02", "r03"), ERRS.values(), strict=True))
    for one, two in combinations(raters, 2):
        alike = raters[one] * raters[two] + (1 - raters[one]) * (1 - raters[two])
        share = float(rows[f"{one}, {two}"]["equal"].split(" ")[0]) / 100
        kappa = float(rows[f"{one}, {two}"]["Cohen's kappa"].split(" ")[0])
        print(f"{one}, {two}: {share:.3f} alike, {alike:.3f} by their rates; kappa {kappa:.3f}")
        assert share == pytest.approx(alike, abs=0.05)
    # The scripted judge reads the instruction alone; exact is a plan with its targets right, too.
    equal = [judged_alike(json.loads(line)["result"], questions) for line in answers(out)]
    known = [each for each in equal if each is not None]
    assert float(rows["exact, exact"]["equal"].split(" ")[0]) == round(100 * sum(known) / len(known), 1)
    assert spent < 240


def answers(out: Path) -> list[str]:
    return [
        line for file in sorted((out / "answers").glob("*.jsonl")) for line in file.read_text().splitlines()
    ]


def judged_alike(answer: dict[str, Any], questions: Sequence[Any]) -> bool | None:
    """Whether instruction and targets of a plan are right or wrong together; None of a malformed answer."""
    try:
        plan = parse_exact(answer["text"]).plan
    except TraceError:
        return None
    question = questions[int(answer["id"].rsplit(" ", 1)[1])]
    return plan.instruction != question.instruction or plan.targets == question.targets
