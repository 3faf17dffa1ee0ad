"""From a plan to rows: pictures are copied, questions taught, rows split and written last.

    make(recipe, planned.questions)      # OUT/rows.jsonl; killed anywhere, the same call goes on

In OUT/work each stage keeps its results by the hash of what they are made of. What differs from run to run,
dates and what was spent, is in ledger.json alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evlm.errors import ConfigError, RecordError
from evlm.files.safe_paths import Inside
from evlm.records import ROWS_FILE

from ..config.arguments import check_folder
from ..config.settings import write_yaml
from ..run.lock import locked
from .asking import Asking, bar
from .batch import FOLDER, as_dict
from .cost import ledger
from .filters import TextFilter
from .hooks import load_function
from .judging import JUDGING_VERSION, judged, judging_task, verdict
from .masks import MASKS_VERSION
from .pictured import Copies, Pictured
from .plan import Question
from .ray import RayEngine
from .recipe import Recipe
from .rows import mask_task, row_of, task_of
from .services import Judge, Teacher, titles
from .stages import Result, Stage, key_of
from .teach import PROMPT_VERSION, taught
from .work import Masking, cores

STAGES = ("pictures", "pairs", "teach", "masks", "judge")
RECIPE = "recipe.yaml"  # as it was made, beside the rows
_NOT_ASKED = ("workers", "requests_a_minute", "tries", "pause", "timeout", "prices", "max_cost", "samples",
              "terms", "send_pictures", "local", "batch", "poll")  # fmt: skip


@dataclass(frozen=True)
class Made:
    """rows: written. dropped: how many questions or answers, by the reason's name. spent: in all runs.
    batches: files whose answers are waited for."""

    rows: int
    dropped: dict[str, int]
    spent: float
    batches: tuple[Path, ...] = ()


def make(
    recipe: Recipe,
    questions: Sequence[Question],
    only: str | None = None,
    whole: bool = True,
    engine: RayEngine | None = None,
) -> Made:
    """Does what is not done yet. whole: whether these are all that is planned; a part takes the place of no
    more rows than it has itself. engine: None does all in this process. Raises ConfigError, RecordError,
    EndpointError, TrainingError."""
    out = Path(recipe.out)
    check_folder("out", out)
    if recipe.teacher is None and only not in ("pictures", "pairs"):
        raise ConfigError(
            "teacher: expected who writes the traces (bundled, or endpoint, model, terms); or --only pairs"
        )
    with locked(out, "making a dataset"):
        return _Making(recipe, questions, out, whole, engine).run(only)


class Taught(NamedTuple):
    """A sample of a question: what was asked, what came of it, the mask that was found, what judges say."""

    question: Question
    task: dict[str, Any]
    result: dict[str, Any]
    mask: dict[str, Any] = {"by": "plan"}  # noqa: RUF012 - never changed
    judged: dict[str, float] = {}  # noqa: RUF012 - never changed


class _Making(Pictured):
    def __init__(
        self,
        recipe: Recipe,
        questions: Sequence[Question],
        out: Path,
        whole: bool,
        engine: RayEngine | None = None,
    ) -> None:
        super().__init__(recipe, questions, out, engine)
        self.whole = whole
        self.batches: list[Path] = []  # that wait for their answers
        self.teacher: Asking | None = None
        self.judges: dict[str, Asking] = {}

    def run(self, only: str | None) -> Made:
        if only is None and self.recipe.teacher is not None:  # before anybody is asked
            self._spare(len(self.questions) * self.recipe.teacher.samples)
        copies = self.copied()
        if only == "pictures":
            return Made(0, {}, self._ledger())
        asked = self.usable(copies)
        if only == "pairs" or self.recipe.teacher is None:
            return Made(0, self._counted(), self._ledger())
        teacher = self.recipe.teacher
        asking = Asking(teacher, "teacher", self.work / "answers.sqlite", self.work / FOLDER)
        self.teacher = asking
        try:
            count = self._asked(teacher, asking, copies, asked, only)
        finally:
            spent = self._ledger()
            for each in self.judges.values():
                each.close()
            asking.close()
        return Made(count, self._counted(), spent, tuple(self.batches))

    def _asked(
        self, teacher: Teacher, asking: Asking, copies: Copies, asked: Sequence[Question], only: str | None
    ) -> int:
        """What is asked, and what is made of the answers; how many rows were written."""
        taught = self._taught(teacher, asking, copies, asked)
        self._ledger()
        if only == "teach" or self.batches:
            return 0
        masked = self._masked(taught)
        if only == "masks":
            return 0
        judged = self._judged(self._worded(masked))
        return 0 if only == "judge" or self.batches else self._write(judged)

    def _taught(
        self, teacher: Teacher, asking: Asking, copies: Copies, questions: Sequence[Question]
    ) -> list[Taught]:
        """Of each sample, in the plan's order, without what was dropped. What is asked about one original is
        asked together, for its pictures are then read and encoded once."""
        settings = {name: value for name, value in asdict(teacher).items() if name not in _NOT_ASKED}
        tasks = []
        for question in questions:
            for sample in range(teacher.samples):
                task = task_of(question, copies, sample)
                tasks.append((key_of(PROMPT_VERSION, settings, task), question, task))
        first = {id: at for at, id in reversed([*enumerate(each.item.original.id for each in questions)])}
        together = sorted(tasks, key=lambda each: first[each[1].item.original.id])
        stage = asking.run(
            self.work / "teach.jsonl", [(key, task) for key, _, task in together],
            lambda asked, task: taught(asked, self.out, task, teacher.hint),
        )  # fmt: skip
        self.batches = list(asking.batches)
        good = []
        for key, question, task in tasks:
            result = stage[key]
            if "dropped" in result:
                self._drop(question, result["dropped"], result["reason"])
            else:
                good.append(Taught(question, task, result))
        return good

    def _masked(self, taught: list[Taught]) -> list[Taught]:
        """With the mask that was found for each, which may give its words another form."""
        settings = self.recipe.masks
        if not settings.find:
            return taught
        tasks = [mask_task(each.question, each.task, each.result) for each in taught]
        work = [(key_of(MASKS_VERSION, asdict(settings), task), self._with_difference(task))
                for task in tasks]  # fmt: skip
        alone = bool(settings.segmenter)  # a model is held once
        arguments = (str(self.out), asdict(settings), self.recipe.frames)
        stage = self._stage("masks", work, Masking, *arguments, workers=1 if alone else cores())
        good = []
        for each, (key, _) in zip(taught, work, strict=True):
            found = stage[key]
            if "dropped" in found:
                self._drop(each.question, found["dropped"], found["reason"])
            else:
                good.append(each._replace(mask=found))
        return good

    def _with_difference(self, task: dict[str, Any]) -> dict[str, Any]:
        """What two pictures are, their names say: where they differ is no part of the question."""
        pair = task["original"][0], task["edited"][0] if task["edited"] else ""
        return {**task, "differs": self.differs[pair]} if pair in self.differs else task

    def _worded(self, taught: list[Taught]) -> list[Taught]:
        """Those whose words are a row's."""
        good, texts = [], TextFilter(self.recipe.filters)
        for each in taught:
            found = texts.problem(each.question.edit_type, each.result["trace"])
            if found is None:
                good.append(each)
            else:
                self._drop(each.question, *found)
        return good

    def _judged(self, taught: list[Taught]) -> list[Taught]:
        """Those that the judges find good enough, with what they say on average."""
        if not self.recipe.judges:
            return taught
        tasks = [judging_task(each.task, each.result["trace"]["instruction"]) for each in taught]
        said = [self._said(number, judge, tasks) for number, judge in enumerate(self.recipe.judges)]
        good = []
        for number, each in enumerate(taught):
            judged, problem = verdict([row[number] for row in said], self.recipe.filters.judged_least)
            if problem is None:
                good.append(each._replace(judged=judged))
            else:
                self._drop(each.question, *problem)
        return good

    def _said(self, number: int, judge: Judge, tasks: list[dict[str, Any]]) -> list[Result]:
        """By one judge."""
        settings = {name: value for name, value in asdict(judge).items() if name not in _NOT_ASKED}
        work = [(key_of(JUDGING_VERSION, settings, task), task) for task in tasks]
        file = self.work / "judge.jsonl"
        if judge.script:
            script, stage = load_function(judge.script, "script"), Stage(file)
            with bar("judge", len(work)) as report:
                stage.run(work, lambda task: judged(judge, script, self.out, task), 1, report)
        else:
            name = "judge-" + key_of(judge.endpoint, judge.model)[:8]
            title = titles(self.recipe.judges)[number]
            if title != judge.name:  # one of the same name has that store, and another sum to stop at
                name += "-" + key_of(settings)[:8]
            asking = Asking(judge, f"judges.{number}", self.work / f"{name}.sqlite", self.work / name)
            self.judges[title] = asking
            stage = asking.run(file, work, lambda asked, task: judged(judge, asked, self.out, task))
            self.batches += asking.batches
        return [stage[key] for key, _ in work]

    def _write(self, taught: list[Taught]) -> int:
        lines, folder = [], Inside(self.out)
        for question, task, result, mask, said in taught:
            cluster = self.clusters[question.item.group]
            alike = self.similar.get(question.item.original.id)
            data, problems = row_of(self.recipe, question, task, result, folder, cluster, mask, said, alike)
            if problems:
                self._drop(question, "schema", "; ".join(problems)[:400])
            else:
                lines.append(json.dumps(data, allow_nan=False) + "\n")
        if not self.whole:
            self._spare(len(lines))
        self._put(self.work / "dropped.jsonl", "".join(json.dumps(each) + "\n" for each in self.dropped))
        self._put(self.out / RECIPE, write_yaml(self.recipe))
        self._put(self.out / ROWS_FILE, "".join(lines))
        return len(lines)

    def _spare(self, count: int) -> None:
        """Raises ConfigError where `count` rows would take the place of more."""
        rows = self.out / ROWS_FILE
        try:
            with open(rows, "rb") as file:
                there = sum(1 for line in file)
        except FileNotFoundError:
            return
        except OSError as error:
            raise RecordError(f"{rows}: cannot be read ({error.strerror})") from None
        if there > count:
            raise ConfigError(
                f"{rows} has {there:,} rows, and at most {count:,} would take their place; give another "
                "out=, or move it away"
            )

    def _ledger(self) -> float:
        """Writes what was sent and spent in all runs; gives the sum of it."""
        before = ledger(self.out)  # of those that this run has not come to
        sums = before if self.teacher is None else self.teacher.answers.sums()
        judges = {**as_dict(before.get("judges"))}
        judges |= {title: each.answers.sums() for title, each in self.judges.items()}
        drawn = self.drawn or as_dict(before.get("maker"))
        more = {"judges": judges, "maker": drawn}
        data = {**sums, **{name: value for name, value in more.items() if value}}
        if data:
            self._put(self.out / "ledger.json", json.dumps(data, indent=2) + "\n")
        return float(sum(each.get("cost", 0.0) for each in (sums, drawn, *judges.values())))
