"""Which question is asked about which pictures, so that categories and edit types are the paper's, exactly.

planned = make_plan(recipe, items)
planned.questions    # in the order of the dataset's rows
planned.missing      # {(category, edit type): how many questions the sources cannot give}
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from evlm.errors import ConfigError

from .quota import categories, edit_types, reference_counts
from .recipe import Recipe
from .sources.item import Item, Media
from .split import split_of
from .words import WORDS, shortened

UNKNOWN = "unknown"  # edit type of somebody's question of which the source says none


@dataclass(frozen=True)
class Question:
    """What will be asked: an item, the pictures that go with it in the order in which they are seen, and the
    words of the text references. lenders: the items that the references are of, in the item's own split.
    prompt: what somebody said, "" where the references say it all."""

    id: str
    item: Item
    category: str
    edit_type: str
    references: tuple[Media, ...]
    words: tuple[str, ...]
    lenders: tuple[Item, ...] = ()
    prompt: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """Of the references."""
        return tuple(item.group for item in self.lenders)


@dataclass(frozen=True)
class Planned:
    """questions: in the order of the rows. missing: (category, edit type) -> how many there are too few of.
    found: what the sources gave, in numbers."""

    questions: tuple[Question, ...]
    missing: dict[tuple[str, str], int]
    found: dict[str, int] = field(default_factory=dict)


def make_plan(recipe: Recipe, items: Iterable[Item]) -> Planned:
    """Fills each category's quota from the items that can be asked about so; where they are too few, the rest
    is `missing`, and no other category takes its place. The same recipe and items give the same plan."""
    pool = _Pool(items, recipe)
    if recipe.plan == "asked":
        return _as_asked(pool, recipe.rows)
    questions: list[Question] = []
    missing: Counter[tuple[str, str]] = Counter()
    for category, slots in _slots(recipe).items():
        given = _Given(pool, category, recipe.reuse)
        for edit_type, count in slots:
            item = given.take(edit_type)
            if item is None:
                missing[category, edit_type] += 1
            else:
                questions.append(_question(pool, item, category, edit_type, count, given.uses(item)))
    return Planned(tuple(questions), dict(missing), pool.found)


def _as_asked(pool: _Pool, rows: int) -> Planned:
    """The sources' own questions, at most so many. Raises ConfigError where there is none."""
    asked = [item for item in pool.items if item.asked is not None]
    if not asked:
        raise ConfigError(
            "plan: asked needs sources whose items have a prompt or references of their own "
            "(pairs.jsonl, or a column `prompt`); plan: paper makes questions of pictures"
        )
    return Planned(
        tuple(_own_question(item, item.edit_type or UNKNOWN) for item in asked[:rows]), {}, pool.found
    )


def first(questions: Sequence[Question], count: int | None) -> tuple[Question, ...]:
    """`count` of a plan's questions, in its order: one of each category in turn, so that a few show all
    kinds. The same plan and a larger count give those and more."""
    if count is None:
        return tuple(questions)
    turns: Counter[str] = Counter()
    ranks = []
    for at, question in enumerate(questions):
        ranks.append((turns[question.category], at))
        turns[question.category] += 1
    chosen = {at for _, at in sorted(ranks)[:count]}
    return tuple(question for at, question in enumerate(questions) if at in chosen)


def _slots(recipe: Recipe) -> dict[str, list[tuple[str, int]]]:
    """category -> (edit type, number of references) of each of its questions."""
    types = [name for name, count in edit_types(recipe.rows).items() for _ in range(count)]
    counts = [number for number, count in reference_counts(recipe.rows).items() for _ in range(count)]
    random.Random(f"types {recipe.seed}").shuffle(types)
    random.Random(f"references {recipe.seed}").shuffle(counts)
    every = iter(zip(types, counts, strict=True))
    return {name: [next(every) for _ in range(count)] for name, count in categories(recipe.rows).items()}


_Shown = tuple[Media, Item]  # and the item that it is of


class _Pool:
    """All items, and the pictures and clips of each split that may stand beside an original of that split: a
    picture that is tested with is nobody's reference in training."""

    def __init__(self, items: Iterable[Item], recipe: Recipe) -> None:
        self.items = sorted(items, key=lambda item: _hash(f"{recipe.seed} {item.source} {item.original.id}"))
        self._split = {item.group: split_of(item.group, recipe.seed, recipe.split) for item in self.items}
        self._shown: dict[tuple[str, str], list[_Shown]] = defaultdict(list)  # by kind and split
        for item in self.items:
            for media in (item.reference, item.original):
                if media is not None and media.kind == "video":
                    self._shown["video", self._split[item.group]].append((media, item))
            for media in (item.reference, item.edited):
                if media is not None and media.kind == "image":
                    self._shown["image", self._split[item.group]].append((media, item))
        stills = [item for item in self.items if item.original.kind == "image"]
        self.found = {
            "items": len(self.items),
            "pictures": len(stills),
            "pairs": sum(item.edited is not None for item in stills),
            "picture references": self._count("image"),
            "clips": self._count("video"),
        }
        if own := sum(item.asked is not None for item in self.items):
            self.found["questions of their own"] = own

    def _count(self, kind: str) -> int:
        return sum(len(shown) for (each, _), shown in self._shown.items() if each == kind)

    def _others(self, item: Item, kind: str) -> list[_Shown]:
        return self._shown[kind, self._split[item.group]]

    def can(self, item: Item, category: str) -> bool:
        """Whether a question of that category can be asked about the item."""
        if item.asked is not None:
            return item.asked.category(item.original.kind) == category
        still = item.original.kind == "image"
        if category == "image->video":
            return not still and bool(self._others(item, "image") or _own(item, "image"))
        if category.startswith("video"):
            return still and bool(self._others(item, "video"))
        if category.startswith("image"):
            return still and bool(_own(item, "image"))
        return still

    def beside(self, item: Item, kind: str, count: int, start: str) -> tuple[_Shown, ...]:
        """`count` references of that kind: the item's own first, then others' of its split, none twice; fewer
        where there are not so many."""
        chosen = [(media, item) for media in _own(item, kind)[:1]]
        others = self._others(item, kind)
        at = _hash(start) % max(1, len(others))
        taken = {item.original.id, *(each.id for each in _own(item, kind))}
        for step in range(len(others)):
            if len(chosen) >= count:
                break
            other = others[(at + step) % len(others)]
            if other[0].id not in taken:
                chosen.append(other)
                taken.add(other[0].id)
        return tuple(chosen)


class _Given:
    """The items of one category, each given out at most `reuse` times: one whose edit type is known where
    that is asked for, else one that fits any."""

    def __init__(self, pool: _Pool, category: str, reuse: int) -> None:
        self._waiting: dict[str | None, list[Item]] = defaultdict(list)
        self._uses: Counter[str] = Counter()
        able = [item for item in pool.items if pool.can(item, category)]
        for use in range(reuse):
            for item in able:
                if not use or item.asked is None:  # what somebody asked is asked once
                    self._waiting[item.edit_type].append(item)
        self._next: Counter[str | None] = Counter()

    def take(self, edit_type: str) -> Item | None:
        for name in (edit_type, None):
            at = self._next[name]
            if at < len(self._waiting[name]):
                self._next[name] += 1
                item = self._waiting[name][at]
                self._uses[item.original.id] += 1
                return item
        return None

    def uses(self, item: Item) -> int:
        """How often the item was given out, the last time included."""
        return self._uses[item.original.id]


def _own_question(item: Item, edit_type: str) -> Question:
    """What somebody asked about the item, and nothing beside it."""
    asked = item.asked
    assert asked is not None  # so it was chosen
    category = asked.category(item.original.kind)
    said = [item.source, item.original.id, category, edit_type, asked.prompt, *asked.texts]
    name = _digest("\n".join((*said, *(each.id for each in asked.references))))
    return Question(name, item, category, edit_type, asked.references, asked.texts, prompt=asked.prompt)


def _question(pool: _Pool, item: Item, category: str, edit_type: str, count: int, use: int) -> Question:
    if item.asked is not None:
        return _own_question(item, edit_type)
    name = f"{item.source}\n{item.original.id}\n{category}\n{edit_type}\n{use}"
    visual = category.removesuffix("+text")
    shown: tuple[_Shown, ...] = ()
    if visual != "text":
        shown = pool.beside(item, "video" if visual == "video" else "image", count, name)
    words: tuple[str, ...] = ()
    if category.endswith("text"):
        words = _words(item, edit_type, count if visual == "text" else 1, use, name)
    references, lenders = tuple(media for media, _ in shown), tuple(lender for _, lender in shown)
    seen = "\n".join((name, *(each.id for each in references), *words))
    return Question(_digest(seen), item, category, edit_type, references, words, lenders)


def _words(item: Item, edit_type: str, count: int, use: int, name: str) -> tuple[str, ...]:
    """What a text reference says: in the item's own words first, then of the list."""
    own = [text for text in (shortened(item.instruction), shortened(item.region)) if text]
    listed = WORDS[edit_type]
    start = _hash(name) % len(listed)
    every = [*own[use - 1 :], *(listed[(start + step) % len(listed)] for step in range(len(listed)))]
    return tuple(dict.fromkeys(every))[:count]


def _own(item: Item, kind: str) -> list[Media]:
    return [m for m in (item.reference, item.edited) if m is not None and m.kind == kind]


def _hash(text: str) -> int:
    return int(_digest(text), 16)


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def by_category(questions: Sequence[Question]) -> Counter[str]:
    """How many there are of each category."""
    return Counter(question.category for question in questions)
