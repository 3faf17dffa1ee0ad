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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evlm.errors import ConfigError, RecordError
from evlm.files.pictures import write_atomically
from evlm.reason.remote import HOSTS_VARIABLE
from evlm.records import ROWS_FILE

from ..config.arguments import check_folder
from ..config.settings import write_yaml
from ..run.lock import locked
from .answers import Answers
from .batch import FOLDER, Batches
from .filters import TextFilter
from .masks import MASKS_VERSION
from .near import PHASH_VERSION, clusters, repeated
from .pairs import pair_problem
from .pictures import Pictures, stamp
from .plan import Question
from .ray import RayEngine
from .recipe import Recipe, Teacher
from .rows import mask_task, row_of, task_of
from .sources.item import Media
from .split import split_of
from .stages import Result, Stage, key_of
from .teach import PROMPT_VERSION, taught
from .teacher import Asked, BatchAsked
from .work import Masking, comparing, hashing

STAGES = ("pictures", "pairs", "teach", "masks")
RECIPE = "recipe.yaml"  # as it was made, beside the rows
_NOT_ASKED = ("workers", "requests_a_minute", "tries", "pause", "timeout", "prices", "max_cost", "samples",
              "terms", "send_pictures", "local", "batch")  # fmt: skip


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
    """A sample of a question: what was asked, what came of it, and the mask that was found."""

    question: Question
    task: dict[str, Any]
    result: dict[str, Any]
    mask: dict[str, Any] = {"by": "plan"}  # noqa: RUF012 - never changed


class _Making:
    def __init__(
        self,
        recipe: Recipe,
        questions: Sequence[Question],
        out: Path,
        whole: bool,
        engine: RayEngine | None = None,
    ) -> None:
        self.engine = engine
        self.recipe, self.questions, self.out, self.whole = recipe, questions, out, whole
        self.work = out / "work"
        self.dropped: list[dict[str, Any]] = []
        self.clusters: dict[str, str] = {}  # group -> its cluster's name
        self.batches: list[Path] = []  # that wait for their answers

    def run(self, only: str | None) -> Made:
        if only is None and self.recipe.teacher is not None:  # before anybody is asked
            self._spare(len(self.questions) * self.recipe.teacher.samples)
        copies = self._copied()
        if only == "pictures":
            return Made(0, {}, 0.0)
        asked = self._of_one_split(self._sound(copies), copies)
        if only == "pairs" or self.recipe.teacher is None:
            return Made(0, self._counted(), 0.0)
        answers = Answers(self.work / "answers.sqlite")
        try:
            taught = self._taught(self.recipe.teacher, answers, copies, asked)
        finally:
            spent = self._ledger(answers)
            answers.close()
        if only == "teach" or self.batches:
            return Made(0, self._counted(), spent, tuple(self.batches))
        masked = self._masked(taught)
        if only == "masks":
            return Made(0, self._counted(), spent)
        count = self._write(masked)
        return Made(count, self._counted(), spent)

    def _copied(self) -> dict[str, dict[str, Any]]:
        """{media id: what `Pictures.copy` gave}, in the order of the sources, whose tables are read once."""
        pictures = Pictures(self.out, self.recipe.frames)
        stage = Stage(self.work / "pictures.jsonl", pictures.flush)
        shown = {media.id: media for question in self.questions for media in _media(question)}
        identity = [asdict(source) for source in self.recipe.sources]
        stamps = {file: stamp(file) for file in {media.file for media in shown.values()}}
        keys = {
            name: key_of(identity[_number(name)], self.recipe.frames, name, stamps[media.file])
            for name, media in shown.items()
        }
        order = sorted(shown, key=lambda name: (_number(name), str(shown[name].file), shown[name].row, name))
        work = [(keys[name], shown[name]) for name in order]
        with _bar("pictures", len(work)) as report:
            stage.run(work, pictures.copy, report=report)
        return {name: stage[key] for name, key in keys.items()}

    def _sound(self, copies: dict[str, dict[str, Any]]) -> list[Question]:
        """The questions whose pictures can be used, whose pairs are pairs, and that repeat none before."""
        whole = []
        for question in self.questions:
            broken = [copies[m.id]["dropped"] for m in _media(question) if "dropped" in copies[m.id]]
            if broken:
                self._drop(question, "picture", broken[0])
            else:
                whole.append(question)
        shown = {q.item.original.id: [copies[m.id]["paths"] for m in _own(q)] for q in whole}
        bad = self._bad_pairs(shown) if self.recipe.filters.pairs else {}
        if self.recipe.filters.duplicates:
            kept = [name for name in shown if name not in bad]
            hashes = self._hashes(path[0] for name in kept for path in shown[name])
            near = repeated([[hashes[path[0]] for path in shown[name]] for name in kept])
            bad |= {kept[j]: ("duplicate", f"nearly the same as {kept[i]}") for j, i in near.items()}
        for question in whole:
            if question.item.original.id in bad:
                self._drop(question, *bad[question.item.original.id])
        return [question for question in whole if question.item.original.id not in bad]

    def _bad_pairs(self, shown: dict[str, list[list[str]]]) -> dict[str, tuple[str, str]]:
        """{original's id: (filter, reason)} of pictures whose before and after are no pair."""
        pairs = {name: (paths[0][0], paths[1][0]) for name, paths in shown.items()
                 if len(paths) == 2 and len(paths[0]) == len(paths[1]) == 1}  # fmt: skip
        work = [(key_of(*each), each) for each in sorted(set(pairs.values()))]
        stage = self._stage("pairs", work, comparing, str(self.out))
        found = {name: pair_problem(stage[key_of(*each)]) for name, each in pairs.items()}
        return {name: ("pair", reason) for name, reason in found.items() if reason}

    def _taught(
        self,
        teacher: Teacher,
        answers: Answers,
        copies: dict[str, dict[str, Any]],
        questions: Sequence[Question],
    ) -> list[Taught]:
        """Of each sample, in the plan's order, without what was dropped."""
        asked, stage = self._asked(teacher, answers), Stage(self.work / "teach.jsonl")
        settings = {name: value for name, value in asdict(teacher).items() if name not in _NOT_ASKED}
        tasks = []
        for question in questions:
            for sample in range(teacher.samples):
                task = task_of(question, copies, sample)
                tasks.append((key_of(PROMPT_VERSION, settings, task), question, task))
        with _bar("teach", len(tasks), lambda: asked.spent) as report:
            work = ((key, task) for key, _, task in tasks)
            stage.run(work, lambda task: taught(asked, self.out, task), teacher.workers, report, asked.stop)
        if isinstance(asked, BatchAsked):
            self.batches = asked.batches.close()
        good = []
        for key, question, task in tasks:
            result = stage[key]
            if "dropped" in result:
                self._drop(question, result["dropped"], result["reason"])
            else:
                good.append(Taught(question, task, result))
        return good

    def _asked(self, teacher: Teacher, answers: Answers) -> Asked:
        if teacher.batch == "file":
            return BatchAsked(teacher, answers, Batches(self.work / FOLDER))
        return Asked(teacher, answers, tuple(os.environ.get(HOSTS_VARIABLE, "").split(",")))

    def _masked(self, taught: list[Taught]) -> list[Taught]:
        """With the mask that was found for each, which may give its words another form."""
        settings = self.recipe.masks
        if not settings.find:
            return taught
        tasks = [mask_task(each.question, each.task, each.result) for each in taught]
        work = [(key_of(MASKS_VERSION, asdict(settings), task), task) for task in tasks]
        alone = bool(settings.segmenter)  # a model is held once
        arguments = (str(self.out), asdict(settings), self.recipe.frames)
        stage = self._stage("masks", work, Masking, *arguments, workers=1 if alone else _cores())
        good = []
        for each, (key, _) in zip(taught, work, strict=True):
            found = stage[key]
            if "dropped" in found:
                self._drop(each.question, found["dropped"], found["reason"])
            else:
                good.append(each._replace(mask=found))
        return good

    def _write(self, taught: list[Taught]) -> int:
        lines, texts = [], TextFilter(self.recipe.filters)
        for question, task, result, mask in taught:
            cluster = self.clusters[question.item.group]
            found = texts.problem(question.edit_type, result["trace"])
            if found is not None:
                self._drop(question, *found)
                continue
            data, problems = row_of(self.recipe, question, task, result, self.out, cluster, mask)
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

    def _of_one_split(
        self, questions: Sequence[Question], copies: dict[str, dict[str, Any]]
    ) -> list[Question]:
        """Those whose references are in the split of their original: near originals may have moved one."""
        self.clusters = names = self._clustered(questions, copies)
        kept = []
        for question in questions:
            splits = {split_of(names.get(group, group), self.recipe.seed, self.recipe.split)
                      for group in (question.item.group, *question.groups)}  # fmt: skip
            if len(splits) > 1:
                self._drop(question, "split", f"its references are in {', '.join(sorted(splits))}")
            else:
                kept.append(question)
        return kept

    def _clustered(self, questions: Sequence[Question], copies: dict[str, dict[str, Any]]) -> dict[str, str]:
        """The cluster of near-duplicate originals that each group is in, by its name."""
        shown: dict[str, set[str]] = defaultdict(set)
        for question in questions:
            shown[copies[question.item.original.id]["paths"][0]].add(question.item.group)
        hashes: dict[str, list[int]] = {question.item.group: [] for question in questions}
        found = self._hashes(shown)
        for path in sorted(shown):
            for group in sorted(shown[path]):
                hashes[group].append(found[path])
        return clusters(hashes)

    def _hashes(self, paths: Iterable[str]) -> dict[str, int]:
        """The perceptual hash of each picture; of a flat one, near to none but itself, its name's."""
        work = [(key_of(PHASH_VERSION, path), path) for path in sorted(set(paths))]
        stage = self._stage("hashes", work, hashing, str(self.out))
        values = {path: stage[key]["phash"] for key, path in work}
        return {
            path: int(Path(path).stem[:16], 16) if value is None else value for path, value in values.items()
        }

    def _stage(
        self,
        name: str,
        work: Sequence[tuple[str, Any]],
        maker: Callable[..., Callable[[Any], Result]],
        *arguments: Any,
        workers: int = 0,
    ) -> Stage:
        """A stage whose work is done here, or by the engine. maker, arguments: `RayEngine.run` has them."""
        do = maker(*arguments) if self.engine is None else None
        stage = Stage(self.work / f"{name}.jsonl", getattr(do, "flush", lambda: None))
        with _bar(name, len(work)) as report:
            if do is not None:
                stage.run(work, do, workers or _cores(), report)
            elif self.engine is not None:
                self.engine.run(stage, work, maker, arguments, report)
        return stage

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


def _cores() -> int:
    """How many pictures are worked on at once: numpy and the decoders leave the lock to others."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _own(question: Question) -> list[Media]:
    """Before, and after where it is known."""
    item = question.item
    return [item.original, *([item.edited] if item.edited is not None else [])]


def _number(name: str) -> int:
    """Of the source that a picture is from."""
    return int(name.split("/")[0])


def _media(question: Question) -> list[Media]:
    return [*_own(question), *question.references]


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
