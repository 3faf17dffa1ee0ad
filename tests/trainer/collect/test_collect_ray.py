"""`--engine ray`: two workers on this machine make the same dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_collect_make import make, private, recipe, rows  # noqa: F401 (private is a fixture)

from benchmarks.scripted_teacher import teaching
from trainer.collect.cli import first, load_recipe, make_plan
from trainer.collect.make import make as make_rows
from trainer.collect.sources.kinds import items

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'ray[data]'")


@pytest.mark.timeout(600)
def test_two_workers_make_the_same_rows(tmp_path: Path) -> None:
    from trainer.collect.ray import RayEngine

    engine = RayEngine(2)
    try:
        with teaching() as calm:
            make(recipe(tmp_path, calm, "calm"))
        with teaching() as teacher:
            chosen = load_recipe(recipe(tmp_path, teacher))
            planned = make_plan(chosen, items(0, chosen.sources[0]))
            made = make_rows(chosen, first(planned.questions, None), engine=engine)
    finally:
        ray.shutdown()
    assert made.rows == len(rows(tmp_path).splitlines()) > 10
    assert rows(tmp_path) == rows(tmp_path, "calm")
    stages = ("pairs", "hashes", "masks")
    assert [(tmp_path / f"out/work/{name}.jsonl").read_bytes() for name in stages] == [
        (tmp_path / f"calm/work/{name}.jsonl").read_bytes() for name in stages
    ]
