"""Finds a trace's four parts in a text of any kind, apart from what the model thought before its answer.

Everything that is no part of the answer (thoughts, fences, wrappers) becomes blanks of the same length, so
that offsets stay true.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .form import PARTS, PROSE, TAG

_NAMES = "thinking|think|intermediate|reflection|output"
_TOKEN = re.compile(rf"\\.|{TAG}", re.IGNORECASE | re.DOTALL)
_ESCAPED_TAG = re.compile(
    rf"&lt;([ \t]{{0,3}}/?[ \t]{{0,3}}(?:{_NAMES}|answer)[ \t]{{0,3}})&gt;", re.IGNORECASE
)
_OTHER_BRACKETS = re.compile(
    rf"[\uff1c\u3008\u300a\u2039\[]([ \t]{{0,3}}/?[ \t]{{0,3}}(?:{_NAMES})[ \t]{{0,3}})"
    r"[\uff1e\u3009\u300b\u203a\]]",
    re.IGNORECASE,
)
_HEADING = re.compile(
    rf"^(?P<lead>[ \t>#*\-_]{{0,8}}(?:\d[.)][ \t*_]{{0,4}})?)(?P<name>{_NAMES})[ \t*_]{{0,4}}"
    r"(?:(?P<colon>[:\uff1a])[ \t*_]{0,4}|\r?$)",
    re.IGNORECASE | re.MULTILINE,
)
_LINE_REST_BLANK = re.compile(r"[ \t\r]{0,8}(?:\n|\Z)")
_FENCE = re.compile(r"^[ \t]{0,8}(?:```|~~~)[\w+-]{0,20}[ \t]{0,8}\r?$", re.MULTILINE)
# What models write around the answer itself.
_WRAPPER = re.compile(
    r"<[ \t]?/?[ \t]?(?:answer|response|final|solution)[ \t]?>|<\|(?:begin|end)_of_(?:solution|box|answer)\|>"
    r"|<\|(?:START|END)_(?:RESPONSE|TEXT)\|>|<\|(?:im_end|endoftext|eot_id|end|return)\|>",
    re.IGNORECASE,
)
THOUGHTS = (
    *(
        (f"<{name}>", f"</{name}>")
        for name in ("think", "thought", "thoughts", "reasoning", "analysis", "scratchpad")
    ),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""What models write around what they think before they answer, in any case: DeepSeek R1 and its kin, Seed,
Magistral, Kimi, Sky-T1, Command A, gpt-oss."""

THOUGHT_BEGIN = "|".join(re.escape(begin) for begin, _ in THOUGHTS)
THOUGHT_END = "|".join(re.escape(end) for _, end in THOUGHTS)
_THOUGHT = re.compile(rf"\\.|(?P<begin>{THOUGHT_BEGIN})|(?P<end>{THOUGHT_END})", re.IGNORECASE | re.DOTALL)
_LEADING_TAG = re.compile(rf"\s*{TAG}", re.IGNORECASE)


@dataclass
class Part:
    """text: between the tags. offset: where it begins. closed: its own end tag follows; last: nothing
    does."""

    text: str
    offset: int
    closed: bool = False
    last: bool = False


@dataclass
class Thoughts:
    """answer: the text with its thoughts blanked. texts: what was thought. open: where a thought begins that
    does not end, else None; it is still in the answer."""

    answer: str
    texts: list[str]
    open: int | None = None


class Cleaned:
    """A text without invisible characters, with brackets and escapes that stand for tags made tags."""

    def __init__(self, text: str, notes: list[str]) -> None:
        self._removed = [match.start() for match in _INVISIBLE.finditer(text)]
        if self._removed:
            text = _INVISIBLE.sub("", text)
            notes.append("invisible characters taken out")
        count = 0
        if not any(match[2] for match in _TOKEN.finditer(text)):  # else they are talked about, or shown
            text, count = _ESCAPED_TAG.subn(lambda match: f"<{match[1]}>" + " " * 6, text)
            if not count:
                text, count = _OTHER_BRACKETS.subn(lambda match: f"<{match[1]}>", text)
        if count:
            notes.append("tag spelling mended")
        self.text, fences = _FENCE.subn(lambda fence: " " * len(fence[0]), text)
        if fences:
            notes.append("code fence removed")

    def offset(self, offset: int) -> int:
        """Where an offset of the cleaned text lies in the text that was given."""
        for position in self._removed:
            if position > offset:
                break
            offset += 1
        return offset


_INVISIBLE = re.compile("[\ufeff\u200b\u2060]")


def split_thoughts(text: str) -> Thoughts:
    """The answer apart from what was thought before it. A thought whose beginning stands in the prompt
    reaches from the start of the text to the first end."""
    thoughts: list[str] = []
    kept: list[str] = []  # of the answer
    done = begin = 0  # text[:done] is dealt with; text[begin:] is a thought while `inside`
    inside = False
    for match in _THOUGHT.finditer(text):
        if match["begin"] and not inside:
            kept.append(text[done : match.start()])
            done, begin, inside = match.start(), match.end(), True
        elif match["end"] and (inside or not (thoughts or kept)):
            thoughts.append(_without_leading_tag(text[begin : match.start()]))
            kept.append(_blank(text[done : match.end()]))
            done, inside = match.end(), False
    answer = "".join(kept)
    is_open = inside and not answer.strip()  # else it is a word in the answer
    return Thoughts(answer + text[done:], thoughts, done if is_open else None)


def find_parts(
    text: str, notes: list[str], holds_plan: Callable[[str], bool] = lambda text: False
) -> dict[str, Part]:
    """The parts as far as they are there, by tags in any case and order, or else by headings.

    holds_plan: whether the text of an <output> without an end is a plan all the same.
    """
    parts = _Parts(text, notes, holds_plan)
    marks = parts.marks()
    last_begin = {mark.name: mark.start for mark in marks if not mark.slash}
    for mark in marks:
        parts.take(mark, {name for name, start in last_begin.items() if start > mark.start})
    return parts.finish()


@dataclass
class _Mark:
    start: int
    end: int
    slash: str
    name: str


@dataclass
class _Nest:
    """How things stood when a part of prose ended without its end tag: what follows may yet lie inside it."""

    start: int
    parts: dict[str, Part]
    outputs: list[Part]
    notes: int


class _Parts:
    """Walks over the tags of a text from left to right."""

    def __init__(self, text: str, notes: list[str], holds_plan: Callable[[str], bool]) -> None:
        self.text, self.notes, self.holds_plan = text, notes, holds_plan
        self.parts: dict[str, Part] = {}
        self.outputs: list[Part] = []
        self.nests: dict[str, _Nest] = {}
        self.current: str | None = None
        self.start = 0
        self.tagged = False

    def marks(self) -> list[_Mark]:
        text = self.text
        matches = [match for match in _TOKEN.finditer(text) if match[2]]
        if any(match[0] != f"<{match[1]}{match[2]}>" or match[2] not in PARTS for match in matches):
            self.notes.append("tag spelling mended")
        marks = [_Mark(match.start(), match.end(), match[1], _name(match[2])) for match in matches]
        if not marks:
            marks = self._headings()
        self.tagged = bool(marks)
        return marks

    def _headings(self) -> list[_Mark]:
        lines = list(_HEADING.finditer(self.text))
        if len({_name(line["name"]) for line in lines}) < 2:  # "Output: ..." alone may be any sentence
            lines = [line for line in lines if _LINE_REST_BLANK.match(self.text, line.end())]
        if lines:
            self.notes.append("headings read as tags")
        return [_Mark(line.start(), line.end(), "", _name(line["name"])) for line in lines]

    def take(self, mark: _Mark, to_come: set[str]) -> None:
        """One tag. to_come: the parts that begin behind it."""
        name, notes = mark.name, self.notes
        closed = bool(mark.slash) and name == self.current
        content = Part(self.text[self.start : mark.start], self.start, closed)
        if mark.slash and not closed and name in self.nests and to_come & self._inside(name):
            self._unnest(mark)
        elif self.current is not None:
            if closed:
                self.nests.pop(name, None)
            else:
                if self.current in PROSE and self.current not in self.nests:
                    state = (dict(self.parts), list(self.outputs), len(notes))
                    self.nests[self.current] = _Nest(self.start, *state)
                notes.append(f"</{self.current}> was missing")
            self._keep(self.current, content)
        elif mark.slash and name not in self.parts:
            notes.append(f"<{name}> was missing")
            content.closed = True
            self._keep(name, content)
        elif mark.slash:
            notes.append(f"a second </{name}> left out")
        else:
            self._left_out(content)
        self.current = None if mark.slash else name
        self.start = mark.end

    def finish(self) -> dict[str, Part]:
        rest = Part(self.text[self.start :], self.start, last=True)
        if self.current is not None:
            self.notes.append(f"</{self.current}> was missing")
            self._keep(self.current, rest)
        elif self.tagged:  # without any part the plan is looked for in the whole text
            self._left_out(rest)
        if self.outputs:
            self.parts["output"] = self._last_output()
        if list(self.parts) != [part for part in PARTS if part in self.parts]:
            self.notes.append("order of the parts mended")
        return self.parts

    def _last_output(self) -> Part:
        """The last one that has an end or holds a plan all the same; the first where there is none."""
        tries = 4
        for part in reversed(self.outputs):
            if not part.text.strip():
                continue
            if part.closed:
                return part
            tries -= 1
            if tries >= 0 and self.holds_plan(part.text):
                return part
        return self.outputs[0]

    def _keep(self, name: str, content: Part) -> None:
        """The first of several counts; of outputs the last: drafts come first."""
        if name in self.parts:
            self.notes.append(
                f"<{name}> came twice: the {'last' if name == 'output' else 'first'} one counts"
            )
        if name == "output":
            self.outputs.append(content)
        self.parts.setdefault(name, content)

    def _inside(self, name: str) -> set[str]:
        """The parts that began since the part `name` did, which did not end."""
        nest = self.nests[name]
        inside = set(self.parts) - set(nest.parts) - {name}
        inside |= {"output"} if len(self.outputs) > len(nest.outputs) else set()
        return inside | ({self.current} if self.current and self.current != name else set())

    def _unnest(self, mark: _Mark) -> None:
        """The end of a part whose tags inside were only talked about, as they come again: all of it is the
        part."""
        nest = self.nests.pop(mark.name)
        self.parts, self.outputs = nest.parts, nest.outputs
        del self.notes[nest.notes :]
        self.notes.append(f"tags inside <{mark.name}> taken as text")
        self._keep(mark.name, Part(self.text[nest.start : mark.start], nest.start, closed=True))

    def _left_out(self, content: Part) -> None:
        if content.text.strip():
            where = "before" if not self.parts else "after" if len(self.parts) == len(PARTS) else "between"
            self.notes.append(f"text {where} the parts left out")


def blank_wrappers(text: str, notes: list[str]) -> str:
    """A text whose <answer> tags and end tokens are blanks."""
    text, count = _WRAPPER.subn(lambda match: _blank(match[0]), text)
    if count:
        notes.append("tags around the answer taken off")
    return text


def _name(spelled: str) -> str:
    name = spelled.lower()
    return "thinking" if name == "think" else name  # what R1-like models write


def _without_leading_tag(thought: str) -> str:
    match = _LEADING_TAG.match(thought)
    return thought[match.end() :] if match and not match[1] and _name(match[2]) == "thinking" else thought


def _blank(text: str) -> str:
    return "".join("\n" if letter == "\n" else " " for letter in text)
