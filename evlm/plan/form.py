"""The trace's exact form: its types, how they are written, and how exactly that is read back.

    <thinking> ... </thinking>            what is in the pictures, and what is meant
    <intermediate> ... </intermediate>    a first instruction
    <reflection> ... </reflection>        checks it against the reference, keeps or mends it
    <output>                              the plan, one field a line
    instruction: make the red circle blue
    targets: red circle; small star
    scope: local
    mask: box 120 80 430 390 rows 2-5 1-6 0-7 0-7 0-7 0-7 1-6 2-5
    </output>

A plan of several edits has these lines once for each of them, one step behind the other.

`parse(render(trace)) == trace` for every trace. Text that would break the grammar is escaped with `\\`: the
backslash itself, the `<` of anything that looks like a tag, line ends in a field, and in labels and masks
also what other models write between or around them: `;` `,` `|`, a full stop behind a word, a leading
bracket or quote. The exact form holds none of these bare, apart from `;` between labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..errors import TraceError
from .answers import asks_for_no_change

TRACE_VERSION = 1
PROSE = ("thinking", "intermediate", "reflection")
PARTS = (*PROSE, "output")
LEARNED = {
    "full": PARTS,
    "unreflected": ("thinking", "intermediate", "output"),
    "two_step": ("think", "output"),
    "direct": ("output",),
}
"""Which parts of a trace a model may be tuned on."""
FIELDS = ("instruction", "targets", "scope", "mask")
MOST_STEPS = 4
COMPOUND = " ; then "
"""Between the steps' instructions, in the sentence that stands for all of them."""

Scope = Literal["local", "global"]
Trust = Literal["tuned", "base"]


def render(trace: Trace, parts: Sequence[str] = PARTS) -> str:
    """The exact text of a trace: what the reasoner is trained to write, and all that strict parsing takes.
    parts: those that are written, `output` last; "think" is the thinking."""
    prose = {part: getattr(trace, "thinking" if part == "think" else part) for part in parts[:-1]}
    blocks = [f"<{part}>\n{_escape(text, _PROSE)}\n</{part}>" for part, text in prose.items()]
    return "\n".join([*blocks, "<output>", *plan_lines(trace.plan), "</output>"])


def plan_lines(plan: Plan) -> list[str]:
    """What stands inside <output>, a field a line, step after step."""
    return [line for step in plan.steps for line in _lines_of(step)]


def _lines_of(step: Plan) -> list[str]:
    lines = [f"instruction: {_escape(step.instruction, _FIELD)}", f"targets: {_render_targets(step.targets)}"]
    lines.append(f"scope: {step.scope}")
    if step.mask_text is not None:
        lines.append(f"mask: {_escape(step.mask_text, _MASK)}")
    return lines


def parse_exact(text: str, parts: Sequence[str] = PARTS) -> Trace:
    """Reads the exact form, in linear time. parts: those that it has, `output` last; "think" is read as
    <thinking>. Raises TraceError, and nothing else."""
    if not isinstance(text, str):
        raise TraceError("trace", 0, f"expected text, got {type(text).__name__}")
    tags, contents, end = _tags(text, parts), {}, 0
    for part in parts:
        opening = _expect(f"<{part}>", next(tags, None), part, text)
        if text[end : opening.start()].strip():
            raise TraceError(part, end, f"text before <{part}>, outside the parts")
        closing = _expect(f"</{part}>", next(tags, None), part, text)
        contents[part] = (opening.end(), closing.start())
        end = closing.end()
    if text[end:].strip():
        raise TraceError("trace", end, "text after </output>")
    prose = dict.fromkeys(PROSE, "")
    for part, (start, stop) in contents.items():
        if part != "output":
            prose["thinking" if part == "think" else part] = unescape(text[start:stop].strip())
    return Trace(**prose, plan=_parse_plan(text, *contents["output"]))


@dataclass(frozen=True)
class Plan:
    """What to do to the picture.

    instruction: one sentence for the editor. Not empty.
    targets: labels of the things to change, for the detector; empty when the whole picture is meant.
    mask_text: the region in the mask codec's text (see `mask_codec`), unchecked; None: not given.
    scope: "local" (inside a mask) or "global" (the whole frame).
    repairs: what the parser had to mend, in order; not part of the plan's identity.
    trust: whether the place decides: "tuned", it comes from a model that was trained on masks, or from a
        person; "base", what a detector finds decides (`segment.base_region`). Not part of the identity.
    several: the edits of a plan that has two to four of them, in their order, each a plan of one (see
        `of_steps`); the other fields then speak of all together: the instructions as one sentence, all
        targets, no mask, "global" where one of them is.
    confidence: how sure the model was of it, 0..1; None: not known, or a person's. Not part of the identity.

    White space around a text carries no meaning and is taken off; empty labels are dropped. Where the
    instruction says that nothing is to change (`changes_nothing`), the original is the answer.
    Raises TraceError where a value is of the wrong type or unknown, or the instruction is empty.
    """

    instruction: str
    targets: tuple[str, ...] = ()
    mask_text: str | None = None
    scope: Scope = "local"
    repairs: tuple[str, ...] = field(default=(), compare=False)
    trust: Trust = field(default="tuned", compare=False)
    several: tuple[Plan, ...] = ()
    confidence: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        instruction = _text(self.instruction, "instruction")
        if not instruction:
            raise TraceError("instruction", 0, "it is empty; the editor needs a sentence")
        if isinstance(self.targets, str) or not isinstance(self.targets, (tuple, list)):
            raise TraceError("targets", 0, f"expected a tuple of labels, got {self.targets!r:.80}")
        labels = (_text(label, "targets") for label in self.targets)
        mask_text = None if self.mask_text is None else _text(self.mask_text, "mask")
        if self.scope not in ("local", "global"):
            raise TraceError("scope", 0, f"expected 'local' or 'global', got {self.scope!r:.80}")
        if self.trust not in ("tuned", "base"):
            raise TraceError("trust", 0, f"expected 'tuned' or 'base', got {self.trust!r:.80}")
        sure = self.confidence
        if sure is not None and (
            isinstance(sure, bool) or not isinstance(sure, (int, float)) or not 0 <= sure <= 1
        ):
            raise TraceError("confidence", 0, f"expected None or 0 to 1, got {sure!r:.80}")
        object.__setattr__(self, "instruction", instruction)
        object.__setattr__(self, "targets", tuple(label for label in labels if label))
        object.__setattr__(self, "mask_text", mask_text or None)
        object.__setattr__(self, "repairs", tuple(_text(note, "trace") for note in self.repairs))
        several = tuple(replace(step, trust=self.trust) for step in _checked(self.several))
        object.__setattr__(self, "several", several)
        if self.several and not self._speaks_for(self.several):
            raise TraceError("output", 0, "a plan of several steps says something else than they do")

    def _speaks_for(self, steps: tuple[Plan, ...]) -> bool:
        said = (self.instruction, self.targets, self.mask_text, self.scope)
        return len(steps) > 1 and said == _together(steps)

    @classmethod
    def of_steps(cls, steps: Sequence[Plan], repairs: Sequence[str] = ()) -> Plan:
        """The plan of one to four edits. Raises TraceError for more, for none, and for a step that has steps
        itself."""
        several = _checked(steps)
        if not several:
            raise TraceError("output", 0, "a plan has at least one step")
        if len(several) == 1:
            return replace(several[0], repairs=(*several[0].repairs, *repairs))
        return cls(*_together(several), repairs=tuple(repairs), trust=several[0].trust, several=several)

    @property
    def steps(self) -> tuple[Plan, ...]:
        """The edits in their order, each a plan of one: this plan itself, or `several`."""
        return self.several or (self,)

    def as_one(self, **changes: Any) -> Plan:
        """This plan with other values in some of its fields, as a plan of one edit."""
        return replace(self, several=(), **changes)

    @property
    def changes_nothing(self) -> bool:
        """Whether the instruction is that there is nothing to do: "no change needed"; of several, whether
        each says so."""
        if self.several:
            return all(step.changes_nothing for step in self.several)
        return asks_for_no_change(self.instruction)


def _checked(steps: Sequence[Plan]) -> tuple[Plan, ...]:
    if len(steps) > MOST_STEPS:
        raise TraceError("output", 0, f"{len(steps)} steps: a plan has 1 to {MOST_STEPS}")
    if not all(isinstance(step, Plan) and not step.several for step in steps):
        raise TraceError("output", 0, "a step is a plan of one edit")
    return tuple(steps)


def _together(steps: tuple[Plan, ...]) -> tuple[str, tuple[str, ...], None, Scope]:
    """(instruction, targets, mask text, scope) of all steps together."""
    targets = dict.fromkeys(label for step in steps for label in step.targets)
    scope: Scope = "global" if any(step.scope == "global" for step in steps) else "local"
    return COMPOUND.join(step.instruction for step in steps), tuple(targets), None, scope


@dataclass(frozen=True)
class Trace:
    """A whole trace. White space around the prose carries no meaning and is taken off; prose may be empty.

    planned_for: (frames of the picture, pictures) where each of several pictures has got a trace of its own:
        it fits that picture alone. It is no part of what the trace says.
    """

    thinking: str
    intermediate: str
    reflection: str
    plan: Plan
    planned_for: tuple[int, int] | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for part in PROSE:
            object.__setattr__(self, part, _text(getattr(self, part), part))
        if not isinstance(self.plan, Plan):
            raise TraceError("output", 0, f"expected a Plan, got {type(self.plan).__name__}")

    def for_picture(self, frames: int, pictures: int) -> Trace:
        """The same trace, which says for what it is; see `planned_for`."""
        trace = replace(self)
        object.__setattr__(trace, "planned_for", (frames, pictures))
        return trace


# --- escaping ---

# All that the repair path would take for a tag is escaped, not only the exact form. Bounded, so linear.
TAG = r"<[ \t]{0,3}(/?)[ \t]{0,3}(thinking|think|intermediate|reflection|output)[ \t]{0,3}>"
_LOOKS_LIKE_TAG = rf"<(?={TAG[1:]})"
_PROSE = re.compile(rf"\\|{_LOOKS_LIKE_TAG}", re.IGNORECASE)
_FIELD = re.compile(rf"[\\\n\r]|{_LOOKS_LIKE_TAG}", re.IGNORECASE)
_SEPARATORS = ";,\uff1b\uff0c\u3001|"
_BRACKETS = "[({\"'\u201c`"
_LABEL = re.compile(
    rf"[\\\n\r{_SEPARATORS}]|\.(?=\s|\Z)|\A[{re.escape(_BRACKETS)}]|{_LOOKS_LIKE_TAG}", re.IGNORECASE
)
_MASK = re.compile(rf"[\\\n\r,]|\A[{re.escape(_BRACKETS)}]|{_LOOKS_LIKE_TAG}", re.IGNORECASE)
_LETTERS = {"\n": "n", "\r": "r"}
_ESCAPED = re.compile(r"\\([\\nr;<])")
_ESCAPED_IN_LIST = re.compile(rf"\\([\\nr<.{re.escape(_SEPARATORS + _BRACKETS)}])")
_MEANINGS = {"n": "\n", "r": "\r"}


def unescape(text: str) -> str:
    """Undoes the escapes; a backslash before any other character stays as it is."""
    return _ESCAPED.sub(lambda match: _MEANINGS.get(match[1], match[1]), text)


def unescape_list(text: str) -> str:
    """As `unescape`, for a label or a mask, where more is escaped."""
    return _ESCAPED_IN_LIST.sub(lambda match: _MEANINGS.get(match[1], match[1]), text)


NO_LABEL = frozenset(("none", "null", "nil", "n/a", "na", "-", "--", "nothing", "no target", "no targets"))
# A full stop parts labels where it stands alone, or behind three letters: "cat . dog", "cat. dog.", not
# "St. Bernard".
_LIST_TOKEN = re.compile(rf"\\.|[{_SEPARATORS}]|(?:(?<!\S)|(?<=\w{{3}}))\.(?=\s|\Z)", re.DOTALL)


def split_labels(text: str) -> tuple[str, ...]:
    """ "a; b" -> ("a", "b"), parted also by "," "|" " . " and their full-width kin. "none" alone, or a word
    like it, means no label ("none;" is the label "none")."""
    if text.strip().lower() in NO_LABEL:
        return ()
    labels = (unescape_list(label.strip()) for label in _raw_labels(text))
    return tuple(label for label in labels if label)


def _raw_labels(text: str) -> Iterator[str]:
    start = 0
    for match in _LIST_TOKEN.finditer(text):
        if match[0][0] != "\\":
            yield text[start : match.start()]
            start = match.end()
    yield text[start:]


def _escape(text: str, special: re.Pattern[str]) -> str:
    return special.sub(lambda match: "\\" + _LETTERS.get(match[0], match[0]), text)


def _render_targets(targets: tuple[str, ...]) -> str:
    if not targets:
        return "none"
    text = "; ".join(_escape(label, _LABEL) for label in targets)
    return text + ";" if text.lower() in NO_LABEL else text


def _text(value: Any, part: str) -> str:
    if not isinstance(value, str):
        raise TraceError(part, 0, f"expected text, got {type(value).__name__}")
    return value.strip()


# --- reading the exact form ---

_TOKEN = re.compile(rf"\\.|<(/?)({'|'.join(PARTS)})>", re.DOTALL)
_TOKEN_OR_THINK = re.compile(rf"\\.|<(/?)(think|{'|'.join(PARTS)})>", re.DOTALL)
_NEEDED = frozenset(FIELDS[:3])


def _tags(text: str, parts: Sequence[str]) -> Iterator[re.Match[str]]:
    token = _TOKEN_OR_THINK if "think" in parts else _TOKEN
    return (match for match in token.finditer(text) if match[2])


def _expect(wanted: str, tag: re.Match[str] | None, part: str, text: str) -> re.Match[str]:
    if tag is None:
        raise TraceError(part, len(text), f"{wanted} is missing")
    if tag[0] != wanted:
        raise TraceError(part, tag.start(), f"expected {wanted}, found {tag[0]}")
    return tag


def _parse_plan(text: str, start: int, end: int) -> Plan:
    steps: list[dict[str, str]] = []
    offset = start
    for line in text[start:end].split("\n"):
        if line.strip():
            name, colon, value = line.partition(":")
            name = name.strip()
            if not colon or name not in FIELDS:
                expected = f"expected a line of {', '.join(FIELDS)}"
                raise TraceError("output", offset, f"{expected}, got {line.strip()!r:.80}")
            if name == FIELDS[0] and (not steps or steps[-1].keys() >= _NEEDED):
                if len(steps) == MOST_STEPS:
                    raise TraceError("output", offset, f"a plan has at most {MOST_STEPS} steps")
                steps.append({})
            _check_field(name, value, steps[-1] if steps else {}, offset)
            if not steps:
                steps.append({})
            steps[-1][name] = value.strip()
        offset += len(line) + 1
    for name in FIELDS[:3]:
        if not steps or name not in steps[-1]:
            raise TraceError(name, end, f"the line '{name}: ...' is missing")
    return Plan.of_steps([_step(values) for values in steps])


def _check_field(name: str, value: str, seen: dict[str, str], offset: int) -> None:
    if name in seen or any(FIELDS.index(name) < FIELDS.index(other) for other in seen):
        raise TraceError(name, offset, f"fields come once each, in the order {', '.join(FIELDS)}")
    if name == "scope" and value.strip() not in ("local", "global"):
        raise TraceError("scope", offset, f"expected 'local' or 'global', got {value.strip()!r:.80}")
    if name in ("targets", "mask") and not is_exact_list(name, value):
        expected = "labels parted by ';', or none" if name == "targets" else "a mask without , ( ["
        raise TraceError(name, offset, f"expected {expected}, got {value.strip()!r:.80}")
    if name == "instruction" and not unescape(value).strip():
        raise TraceError("instruction", offset, "it is empty; the editor needs a sentence")


def _step(values: dict[str, str]) -> Plan:
    mask = unescape_list(values["mask"]) if "mask" in values else None
    scope: Scope = "global" if values["scope"] == "global" else "local"
    return Plan(unescape(values["instruction"]), split_labels(values["targets"]), mask, scope)


def is_exact_list(name: str, value: str) -> bool:
    """Whether labels ("targets") or a mask ("mask") are written as the exact form writes them."""
    token = _LIST_TOKEN if name == "targets" else _MASK_TOKEN
    items = _raw_labels(value) if name == "targets" else (value,)
    return (
        all(match[0][0] in "\\;" for match in token.finditer(value))
        and not any(item.strip()[:1] in _WRAPPERS for item in items)
        and not (name == "targets" and value.strip().lower() in NO_LABEL - {"none"})
    )


_MASK_TOKEN = re.compile(r"\\.|,", re.DOTALL)
_WRAPPERS = frozenset(_BRACKETS)
