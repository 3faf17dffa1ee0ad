"""From a plan to rows: pictures are copied, questions taught, rows split and written last.

    make(recipe, planned.questions)      # OUT/rows.jsonl; killed anywhere, the same call goes on

In OUT/work each stage keeps its results by the hash of what they are made of. What differs from run to run,
dates and what was spent, is in ledger.json alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evlm.errors import ConfigError, RecordError
from evlm.files.pictures import write_atomically
from evlm.reason.remote import HOSTS_VARIABLE
from evlm.records import ROWS_FILE

from ..config.arguments import check_folder
from ..run.lock import locked
from .answers import Answers
from .filters import TextFilter
from .near import clusters, phash
from .pictures import Pictures
from .plan import Question
from .recipe import Recipe, Teacher
from .rows import row_of, task_of
from .sources.item import Media
from .split import split_of
from .stages import Stage, key_of
from .teach import PROMPT_VERSION, taught
from .teacher import Asked

STAGES = ("pictures", "teach")
_NOT_ASKED = ("workers", "requests_a_minute", "tries", "pause", "timeout", "prices", "max_cost", "samples",
              "terms", "send_pictures", "local")  # fmt: skip


@dataclass(frozen=True)
class Made:
    """rows: written. dropped: how many questions or answers, by the reason's name. spent: in all runs."""

    rows: int
    dropped: dict[str, int]
    spent: float


def make(recipe: Recipe, questions: Sequence[Question], only: str | None = None) -> Made:
    """Does what is not done yet. Raises ConfigError, RecordError, EndpointError, TrainingError."""
    out = Path(recipe.out)
    check_folder("out", out)
    if recipe.teacher is None and only != "pictures":
        raise ConfigError(
            "teacher: expected who writes the traces (bundled, or endpoint, model, terms); or --only pictures"
        )
    with locked(out, "making a dataset"):
        return _Making(recipe, questions, out).run(only)


class _Making:
    def __init__(self, recipe: Recipe, questions: Sequence[Question], out: Path) -> None:
        self.recipe, self.questions, self.out = recipe, questions, out
        self.work = out / "work"
        self.dropped: list[dict[str, Any]] = []

    def run(self, only: str | None) -> Made:
        copies = self._copied()
        if only == "pictures" or self.recipe.teacher is None:
            return Made(0, {}, 0.0)
        answers = Answers(self.work / "answers.sqlite")
        try:
            taught = self._taught(self.recipe.teacher, answers, copies)
        finally:
            spent = self._ledger(answers)
            answers.close()
        if only == "teach":
            return Made(0, self._counted(), spent)
        count = self._write(taught)
        return Made(count, self._counted(), spent)

    def _copied(self) -> dict[str, dict[str, Any]]:
        """{media id: what `Pictures.copy` gave}, in the order of the sources, whose tables are read once."""
        stage, pictures = Stage(self.work / "pictures.jsonl"), Pictures(self.out, self.recipe.frames)
        shown = {media.id: media for question in self.questions for media in _media(question)}
        identity = [asdict(source) for source in self.recipe.sources]
        keys = {name: key_of(identity[int(name.split("/")[0])], self.recipe.frames, name) for name in shown}
        work = [(keys[name], shown[name]) for name in sorted(shown)]
        with _bar("pictures", len(work)) as report:
            stage.run(work, pictures.copy, report=report)
        return {name: stage[key] for name, key in keys.items()}

    def _taught(
        self, teacher: Teacher, answers: Answers, copies: dict[str, dict[str, Any]]
    ) -> list[tuple[Question, dict[str, Any], dict[str, Any]]]:
        """(question, task, result) of each sample, in the plan's order, without what was dropped."""
        hosts = tuple(os.environ.get(HOSTS_VARIABLE, "").split(","))
        asked, stage = Asked(teacher, answers, hosts), Stage(self.work / "teach.jsonl")
        settings = {name: value for name, value in asdict(teacher).items() if name not in _NOT_ASKED}
        tasks = []
        for question in self.questions:
            broken = [copies[m.id]["dropped"] for m in _media(question) if "dropped" in copies[m.id]]
            if broken:
                self._drop(question, "picture", broken[0])
                continue
            for sample in range(teacher.samples):
                task = task_of(question, copies, sample)
                tasks.append((key_of(PROMPT_VERSION, settings, task), question, task))
        with _bar("teach", len(tasks), lambda: answers.sums()["cost"]) as report:
            work = ((key, task) for key, _, task in tasks)
            stage.run(work, lambda task: taught(asked, self.out, task), teacher.workers, report)
        good = []
        for key, question, task in tasks:
            result = stage[key]
            if "dropped" in result:
                self._drop(question, result["dropped"], result["reason"])
            else:
                good.append((question, task, result))
        return good

    def _write(self, taught: list[tuple[Question, dict[str, Any], dict[str, Any]]]) -> int:
        lines, texts, names = [], TextFilter(self.recipe.filters), self._clusters(taught)
        for question, task, result in taught:
            cluster = names[question.item.group]
            splits = {split_of(names.get(group, group), self.recipe.seed, self.recipe.split)
                      for group in (question.item.group, *question.groups)}  # fmt: skip
            if len(splits) > 1:  # near originals moved one of them
                self._drop(question, "split", f"its references are in {', '.join(sorted(splits))}")
                continue
            found = texts.problem(question.edit_type, result["trace"])
            if found is not None:
                self._drop(question, *found)
                continue
            data, problems = row_of(self.recipe, question, task, result, self.out, cluster)
            if problems:
                self._drop(question, "schema", "; ".join(problems)[:400])
            else:
                lines.append(json.dumps(data, allow_nan=False) + "\n")
        self._put(self.work / "dropped.jsonl", "".join(json.dumps(each) + "\n" for each in self.dropped))
        self._put(self.out / ROWS_FILE, "".join(lines))
        return len(lines)

    def _clusters(self, taught: list[tuple[Question, dict[str, Any], dict[str, Any]]]) -> dict[str, str]:
        """The cluster of near-duplicate originals that each group is in, by its name."""
        shown: dict[str, set[str]] = defaultdict(set)
        for question, task, _ in taught:
            shown[task["original"][0]].add(question.item.group)
        stage = Stage(self.work / "hashes.jsonl")
        work = [(key_of(path), path) for path in sorted(shown)]
        with _bar("hashes", len(work)) as report:
            stage.run(work, lambda path: {"phash": phash(self.out / path)}, report=report)
        hashes: dict[str, list[int]] = {question.item.group: [] for question, _, _ in taught}
        for key, path in work:
            value = stage[key]["phash"]
            if value is None:  # flat: near to none but itself
                value = int(Path(path).stem[:16], 16)
            for group in sorted(shown[path]):
                hashes[group].append(value)
        return clusters(hashes)

    def _ledger(self, answers: Answers) -> float:
        sums = answers.sums()
        self._put(self.out / "ledger.json", json.dumps(sums, indent=2) + "\n")
        return float(sums["cost"])

    def _drop(self, question: Question, name: str, reason: str) -> None:
        self.dropped.append({"question": question.id, "name": name, "reason": reason})

    def _counted(self) -> dict[str, int]:
        return dict(Counter(each["name"] for each in self.dropped))

    def _put(self, path: Path, text: str) -> None:
        try:
            write_atomically(path, lambda file: file.write(text.encode()))
        except OSError as error:
            raise RecordError(
                f"{path}: cannot be written ({error.strerror or error}); make room and run it again"
            ) from error


def _media(question: Question) -> list[Media]:
    edited = [question.item.edited] if question.item.edited is not None else []
    return [question.item.original, *edited, *question.references]


@contextmanager
def _bar(name: str, total: int, cost: Callable[[], float] | None = None) -> Iterator[Callable[[int], object]]:
    """A bar with rate and time left; cost: shown behind it."""
    from tqdm import tqdm

    with tqdm(total=total, desc=name, disable=None, file=sys.stderr) as bar:

        def report(count: int) -> None:
            if cost is not None and not bar.disable and bar.n % 20 == 0:
                bar.set_postfix_str(f"cost {cost():.4g}", refresh=False)
            bar.update(count)

        yield report
