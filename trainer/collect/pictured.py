"""The pictures of a plan: copied or drawn, compared, hashed; and which questions they leave."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evlm.errors import RecordError
from evlm.files.pictures import write_atomically

from .asking import bar
from .drawing import Drawing, undrawn
from .hooks import Safe, Shown
from .near import PHASH_VERSION, clusters, repeated
from .pairs import pair_problem
from .pictures import Pictures, stamp
from .plan import Question
from .ray import RayEngine
from .recipe import Recipe
from .similar import Pair, Similar, captions, lowest
from .sources.item import Item, Media, Order
from .split import split_of
from .stages import Result, Stage, key_of
from .work import comparing, cores, hashing

Copies = dict[str, dict[str, Any]]
"""media id -> what `Pictures.copy` gave."""


class Pictured:
    """dropped: questions and answers that are no rows, each with its reason. clusters: of near originals,
    group -> its cluster's name. differs: where each pair of paths does, as far as that was looked at.
    similar: what CLIP measured, by the original's id. drawn: what a maker was sent and what it cost. engine:
    None works in this process."""

    def __init__(
        self, recipe: Recipe, questions: Sequence[Question], out: Path, engine: RayEngine | None = None
    ) -> None:
        self.recipe, self.questions, self.out, self.engine = recipe, questions, out, engine
        self.work = out / "work"
        self.dropped: list[dict[str, Any]] = []
        self.clusters: dict[str, str] = {}
        self.differs: dict[tuple[str, str], str] = {}
        self.similar: dict[str, Result] = {}
        self.drawn: dict[str, Any] = {}

    def usable(self, copies: Copies) -> list[Question]:
        """The questions that can be asked."""
        return self._of_one_split(self._safe(self._sound(copies), copies), copies)

    def copied(self) -> Copies:
        """In the order of the sources, whose tables are read once; what a maker has to draw is drawn
        first."""
        drawn = self._drawn()
        pictures = Pictures(self.out, self.recipe.frames)
        stage = Stage(self.work / "pictures.jsonl", pictures.flush)
        shown = {media.id: drawn.get(media.id, media) for media in self._shown()}
        identity = [asdict(source) for source in self.recipe.sources]
        stamps = {file: stamp(file) for file in {media.file for media in shown.values()}}
        keys = {
            name: key_of(identity[_number(name)], self.recipe.frames, name, stamps[media.file])
            for name, media in shown.items()
        }
        order = sorted(shown, key=lambda name: (_number(name), str(shown[name].file), shown[name].row, name))
        work = [(keys[name], shown[name]) for name in order]
        with bar("pictures", len(work)) as report:
            stage.run(work, pictures.copy, report=report)
        return {name: stage[key] for name, key in keys.items()}

    def _shown(self) -> list[Media]:
        """All pictures of the plan, each once."""
        return list({media.id: media for question in self.questions for media in _media(question)}.values())

    def _drawn(self) -> dict[str, Media]:
        """Those that a maker draws, as the files that it drew. Raises EndpointError, ConfigError."""
        wanted = [media for media in self._shown() if media.order is not None]
        if not wanted or self.recipe.maker is None:
            return {}
        unsafe = self._unsafe({media.id: _sent(media.order) for media in wanted if media.order is not None})
        drawing = Drawing(self.recipe.maker, self.work)
        try:
            drawn = drawing.run([media for media in wanted if media.id not in unsafe])
            return drawn | {media.id: undrawn(media, f"safe: {unsafe[media.id]}") for media in wanted
                            if media.id in unsafe}  # fmt: skip
        finally:
            self.drawn = drawing.answers.sums()
            drawing.answers.close()

    def _sound(self, copies: Copies) -> list[Question]:
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
        kept_items = {q.item.original.id: q.item for q in whole if q.item.original.id not in bad}
        bad |= self._unlike(kept_items, shown)
        for question in whole:
            if question.item.original.id in bad:
                self._drop(question, *bad[question.item.original.id])
        return [question for question in whole if question.item.original.id not in bad]

    def _safe(self, questions: list[Question], copies: Copies) -> list[Question]:
        """Those that may be sent away."""
        shown = {}
        for question in questions:
            pictures = [path for media in _media(question) for path in copies[media.id]["paths"]]
            item = question.item
            texts = [*filter(None, (item.instruction, item.region, question.prompt)), *question.words]
            shown[question.id] = Shown([str(self.out / path) for path in pictures], texts)
        unsafe = self._unsafe(shown)
        for question in questions:
            if question.id in unsafe:
                self._drop(question, "safe", unsafe[question.id])
        return [question for question in questions if question.id not in unsafe]

    def _unsafe(self, shown: dict[str, Shown]) -> dict[str, str]:
        """{id: why it is not sent away}."""
        limits = self.recipe.filters
        if not limits.safe:
            return {}
        return Safe(limits.safe, limits.safe_version, self.work / "safe.jsonl").problems(shown)

    def _bad_pairs(self, shown: dict[str, list[list[str]]]) -> dict[str, tuple[str, str]]:
        """{original's id: (filter, reason)} of pictures whose before and after are no pair."""
        pairs = {name: (paths[0][0], paths[1][0]) for name, paths in shown.items()
                 if len(paths) == 2 and len(paths[0]) == len(paths[1]) == 1}  # fmt: skip
        work = [(key_of(*each), each) for each in sorted(set(pairs.values()))]
        stage = self._stage("pairs", work, comparing, str(self.out))
        found = {each: stage[key] for key, each in work}
        self.differs = {each: result["where"] for each, result in found.items() if "where" in result}
        problems = {name: pair_problem(found[each]) for name, each in pairs.items()}
        return {name: ("pair", reason) for name, reason in problems.items() if reason}

    def _unlike(
        self, items: dict[str, Item], shown: dict[str, list[list[str]]]
    ) -> dict[str, tuple[str, str]]:
        """{original's id: (filter, reason)} of pairs that CLIP finds least of what they should be."""
        limits = self.recipe.filters
        if not limits.clip:
            return {}
        similar = Similar(Path(limits.clip), self.out)
        pairs = {}
        for name, item in items.items():
            before, *after = shown[name]
            if after and len(before) == len(after[0]) == 1:
                pairs[name] = Pair(before[0], after[0][0], captions(item))
        work = [(similar.key(pair), pair) for pair in pairs.values()]
        stage = Stage(self.work / "similar.jsonl")
        with bar("similar", len(work)) as report:
            stage.run(work, similar, report=report)
        self.similar = {name: stage[similar.key(pair)] for name, pair in pairs.items()}
        found = lowest(self.similar, limits.clip_lowest)
        return {name: ("similar", reason) for name, reason in found.items()}

    def _of_one_split(self, questions: Sequence[Question], copies: Copies) -> list[Question]:
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

    def _clustered(self, questions: Sequence[Question], copies: Copies) -> dict[str, str]:
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
        with bar(name, len(work)) as report:
            if do is not None:
                stage.run(work, do, workers or cores(), report)
            elif self.engine is not None:
                self.engine.run(stage, work, maker, arguments, report)
        return stage

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


def _sent(order: Order) -> Shown:
    return Shown([str(order.original)] if order.original else [], [order.prompt], stamp(order.original))


def _own(question: Question) -> list[Media]:
    """Before, and after where it is known."""
    item = question.item
    return [item.original, *([item.edited] if item.edited is not None else [])]


def _number(name: str) -> int:
    """Of the source that a picture is from."""
    return int(name.split("/")[0])


def _media(question: Question) -> list[Media]:
    return [*_own(question), *question.references]
