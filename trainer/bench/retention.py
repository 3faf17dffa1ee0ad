"""`python -m trainer retention RUN`: what a model still knows after training (EVLM, Table 2), through
lmms-eval.

The harness is not installed here: it wants an environment of its own. The command writes a script that
merges the adapter and asks both models, and reads what the harness wrote once it has run."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evlm.errors import ConfigError, RecordError

from ..protocol.draws import Draws, interval
from ..protocol.table import NONE, Table, markdown
from ..statistics import Interval

SCRIPT, RESULTS, MERGED = "retention.sh", "results", "merged"
WORST = -2.0  # percent points; a line whose whole interval lies below is marked
MODELS = ("base", "tuned")
ADAPTERS = ("adapter.safetensors", "adapter_config.json")
PIXELS = "min_pixels=200704,max_pixels=1003520"  # the harness's own limit costs DocVQA points


@dataclass(frozen=True)
class Line:
    """One line of the table. metric: the harness's name. scale: what makes it percent. paper: the paper's
    base
    and EVLM, nan where it has none. note: how the paper's differs."""

    title: str
    task: str
    metric: str
    scale: float
    paper: tuple[float, float]
    note: str = ""


_NAN = float("nan")
LINES = (
    Line("MMMU val", "mmmu_val", "mmmu_acc", 100, (54.1, 53.0), "the paper asks with CoT, this task without"),
    Line("MMMU-Pro vision", "mmmu_pro_vision", "mmmu_acc", 100, (43.5, 43.8)),
    Line(
        "MathVista testmini", "mathvista_testmini_cot", "llm_as_judge_eval", 1, (58.2, 59.1), "needs a judge"
    ),
    Line("ChartQA test", "chartqa", "relaxed_overall", 100, (83.0, 82.8)),
    Line("AI2D test", "ai2d", "exact_match", 100, (83.0, 83.0)),
    Line("DocVQA val", "docvqa_val", "anls", 100, (94.5, 93.1), "the paper's is of the test set"),
    Line("VQAv2 val", "vqav2_val", "exact_match", 100, (_NAN, 77.4), "the paper's is of the test set"),
)


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or its adapter")
    parser.add_argument(
        "--base", required=True, metavar="MODEL", help="what it was trained from: folder or hub id"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="script, results, table")
    parser.add_argument("--model", default="qwen2_vl", help="the harness's name of the family (%(default)s)")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="of each task N questions; the paper's sets are large"
    )


def run(options: argparse.Namespace) -> int:
    """Writes the script, and the table of what is there. Raises EVLMError."""
    from ..config.arguments import check_folder, check_whole
    from ..evaluation.results import write

    check_whole("--limit", options.limit)
    check_folder("--out", options.out)
    for name in ("run", "base", "model"):
        if not str(getattr(options, name)).strip() or "\n" in str(getattr(options, name)):
            raise ConfigError(f"{name}: expected a name")
    if not (options.run.is_file() or any((options.run / name).is_file() for name in ADAPTERS)):
        raise ConfigError(f"{str(options.run)!r:.120}: no adapter there: expected {' or '.join(ADAPTERS)}")
    text = script(options.run, options.base, options.out, options.model, options.limit)
    write(options.out, {SCRIPT: text})
    table = retained(options.out / RESULTS)
    if not table.rows:
        print(f"{options.out / SCRIPT}: run it where lmms-eval is installed, then this command again")
        return 0
    write(options.out, {f"tables/{name}": content for name, content in table.files().items()})
    print(markdown(table))
    return 0


def script(run: Path, base: str, out: Path, model: str, limit: int | None) -> str:
    """What asks both models, the tuned one merged. What is there already is not made again."""
    merged, results = out / MERGED, out / RESULTS
    quoted = [shlex.quote(str(each)) for each in (run, merged, base, results)]
    tasks = ",".join(line.task for line in LINES)
    few = f" --limit {limit}" if limit else ""
    lines = [
        "#!/bin/sh",
        "# Written by `python -m trainer retention`. Needs lmms-eval (pip install lmms-eval, in an",
        "# environment of its own), and MathVista's judge: API_TYPE and OPENAI_API_KEY, or a local endpoint.",
        "set -e",
        f"[ -e {quoted[1]} ] || python -m trainer export {quoted[0]} {quoted[1]} --to merged",
    ]
    for name, source in zip(MODELS, (quoted[2], quoted[1]), strict=True):
        lines.append(
            f"[ -n \"$(find {quoted[3]}/{name} -name '*_results.json' 2>/dev/null)\" ] || "
            f"python -m lmms_eval --model {shlex.quote(model)} --model_args pretrained={source},{PIXELS} "
            f"--tasks {tasks} --batch_size 1 --seed 0 --log_samples{few} --output_path {quoted[3]}/{name}"
        )
    return "\n".join(lines) + "\n"


def retained(results: Path, seed: int = 0) -> Table:
    """The table of what both models have. Raises RecordError for a file that is not the harness's."""
    both = [_aggregates(results / name) for name in MODELS]
    rows, notes = [], []
    for line in LINES:
        values = [_of(each, line) for each in both]
        if None in values:
            continue
        base, tuned = (float(value or 0.0) * line.scale for value in values)
        change = difference(results, line, seed)
        worse = change is not None and change.high < WORST
        shown = f"{tuned - base:+.1f}"
        if change is not None:
            shown += f" [{change.low:+.1f}, {change.high:+.1f}]"
        rows.append(
            [
                line.title,
                f"{base:.1f}",
                f"{tuned:.1f}",
                shown + (" (!)" if worse else ""),
                *(f"{each:.1f}" if each == each else NONE for each in line.paper),
            ]
        )
        if line.note:
            notes.append(f"{line.title}: {line.note}.")
    notes = [
        "Percent. Differences are paired by question, with 95 % intervals of 10,000 draws of the questions; "
        "without one where the harness kept no sample that both have. (!): the whole interval lies below -2 "
        "points.",
        *notes,
    ]
    head = ["task", "base", "tuned", "difference", "paper: base", "paper: EVLM"]
    return Table("table2", "Table 2: what is retained", head, rows, notes=notes if rows else ())


def difference(results: Path, line: Line, seed: int = 0) -> Interval | None:
    """Tuned less base in percent, of the questions that both were asked; None where they cannot be
    compared."""
    base, tuned = (_samples(results / name, line) for name in MODELS)
    shared = sorted(set(base) & set(tuned), key=str)
    if len(shared) < 2:
        return None
    values = np.array([[tuned[each] - base[each]] for each in shared]) * 100
    return interval(Draws(len(shared), seed).means(values)[:, 0])


def _aggregates(folder: Path) -> dict[str, dict[str, Any]]:
    """task -> the harness's figures, of the newest file of each task."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.rglob("*_results.json"), key=lambda each: each.name):
        try:
            results = json.loads(file.read_text(encoding="utf-8"))["results"]
            found |= {str(task): dict(figures) for task, figures in results.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(f"{file}: not what lmms-eval writes ({type(error).__name__})") from None
    return found


def _of(figures: dict[str, dict[str, Any]], line: Line) -> float | None:
    """A figure, whichever filter it went through ("mmmu_acc,none")."""
    for name, value in figures.get(line.task, {}).items():
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        if plain and name.partition(",")[0] == line.metric:
            return float(value)
    return None


def _samples(folder: Path, line: Line) -> dict[Any, float]:
    """doc_id -> 0..1 of the newest file; empty where one of them cannot be read as a number."""
    files = sorted(folder.rglob(f"*_samples_{line.task}.jsonl"), key=lambda each: each.name)
    found: dict[Any, float] = {}
    for number, data in _lines(files[-1]) if files else ():
        value = _score(data.get(line.metric))
        if value is None or "doc_id" not in data:
            return {}
        if data["doc_id"] in found:
            raise RecordError(f"{files[-1]}, line {number}: question {data['doc_id']!r:.40} is there twice")
        found[data["doc_id"]] = value
    return found


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise RecordError(f"{file}, line {number}: not a sample of lmms-eval")
        yield number, data


def _score(value: Any) -> float | None:
    """0..1 of what the harness keeps of one question: a number, MathVista's {true_false}, MMMU's {answer,
    parsed_pred, question_type}."""
    if isinstance(value, (bool, int, float)):
        return float(value)
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("true_false"), bool):
        return float(value["true_false"])
    if "answer" not in value or "parsed_pred" not in value:
        return None
    answers = value["answer"] if isinstance(value["answer"], list) else [value["answer"]]
    said = value["parsed_pred"]
    if value.get("question_type", "multiple-choice") == "multiple-choice":
        return float(said in answers)
    wanted = [each for answer in answers for each in _open(str(answer))]
    given = said if isinstance(said, list) else [said]
    return float(
        any(
            any(isinstance(want, str) and want in one for want in wanted)
            if isinstance(one, str)
            else one in wanted
            for one in given
        )
    )


def _open(answer: str) -> list[Any]:
    """An open answer of MMMU as its own script compares it: a number to two places, or words in small
    letters."""
    plain = answer.strip().replace(",", "")
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", plain, re.I):
        return [round(float(plain), 2)]
    words = answer.strip().lower()
    return [f" {words}", f"{words} "] if len(words) == 1 else [words]
