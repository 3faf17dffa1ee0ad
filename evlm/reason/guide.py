"""What may be written next, so that a text becomes a trace of the exact form (`evlm.plan.form`).

The engine writes tags and field names itself and lets the model fill what stands between them. A token is
judged by its text alone, so that a vocabulary need not be looked through:

    KEEP    it belongs to what is being filled
    CLOSE   it does, and brings the line's end
    END     the model wants to go on to what comes next; the token is left out, for the form writes that
    NO      nothing of the form goes on like this

A part that has spent its budget is closed. `<output>` is filled field by field: one line of instruction,
labels parted by ";", the scope, and where the edit is local its place (`place_grammar`). Behind it the model
may begin the next edit, as long as the budget has room for one.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum

from ..errors import TraceError
from ..plan.form import MOST_STEPS, NO_LABEL, PARTS, PROSE, is_exact_list, parse_exact
from .budgets import LEAST_OUTPUT, Budgets
from .place_grammar import PlaceGrammar


class Verdict(Enum):
    KEEP, CLOSE, END, NO = range(4)


# The shares that an edit's words may take of what <output> has left for it, so that its place has room.
_INSTRUCTION, _TARGETS = 0.4, 0.15
_SCOPES = (" local", " global")


@dataclass(frozen=True)
class Step:
    """What follows a token.

    form: text that the engine writes next. held: more of it, the beginning of what is held. says: whether
    what was held is said now, before `form`; instead: and in which words, where the form does not take the
    model's.
    """

    form: str = ""
    held: str = ""
    says: bool = False
    instead: str | None = None


class Guide:
    """One text on its way through the form: write `opening`, then judge and take token after token and write
    each step's `form`, until `done`. parts: of the form, `output` last."""

    def __init__(self, budgets: Budgets, place: PlaceGrammar, parts: Sequence[str] = PARTS) -> None:
        budgets.check()
        self.budgets, self.place = budgets, place
        self._parts, self._limits = tuple(parts), [budgets.of(part) for part in parts]
        self.done = False
        self.notes: list[str] = []  # what was closed because its budget was used up
        self._part = -1
        self._field = ""  # of <output>: "instruction", "targets", "scope", "next", "mask", "more"
        self._value = ""
        self._used = self._used_in_field = 0
        self._edits, self._before = 1, 0  # begun so far; tokens that those before this one have used
        self._said: str | None = None  # what is said for what is held, once the choice behind it is made
        self._labels = ""  # those of the targets, as they are written
        self._options: tuple[str, ...] = ()
        self.opening = self._open("")

    @classmethod
    def resume(cls, text: str, output: int, place: PlaceGrammar) -> tuple[Guide, Step] | None:
        """A guide for a text that was cut off in free writing, and what the form writes behind it.

        What is under way is closed, the prose that is missing stays empty, `<output>` has `output` tokens.
        None where the text is not the beginning of the form, or all but its place is there.
        """
        guide = cls(Budgets(0, 0, 0, output), place)
        tags = list(_TAG.finditer(text))
        expected = [f"<{end}{part}>" for part in PARTS for end in ("", "/")]
        if not tags or [tag[0] for tag in tags] != expected[: len(tags)] or text[: tags[0].start()].strip():
            return None
        part, inside = divmod(len(tags) - 1, 2)
        guide._part, rest = part, text[tags[-1].end() :]
        guide._begin("")
        if inside:  # between two parts
            behind = not rest.strip() and PARTS[part] in PROSE
            return (guide, Step(guide._open("" if text.endswith("\n") else "\n"))) if behind else None
        if PARTS[part] in PROSE:
            guide._value = rest
            return guide, guide._close()
        step = guide._resume_output(rest)
        return None if step is None else (guide, step)

    def _resume_output(self, text: str) -> Step | None:
        """Behind what there is of `<output>`."""
        lines = text.removeprefix("\n").split("\n")
        edit = max((at for at, line in enumerate(lines) if line.startswith("instruction:")), default=0)
        if edit:
            try:
                before = parse_exact("\n".join(["<output>", *lines[:edit], "</output>"]), PARTS[-1:])
            except TraceError:
                return None
            self._edits += len(before.plan.steps)
            if self._edits > MOST_STEPS:
                return None
        *done, last = lines[edit:]
        leads = ("instruction:", "targets:", "scope:")
        if len(done) >= len(leads) or any(
            not line.startswith(lead) or not line[len(lead) :].strip()
            for line, lead in zip(done, leads, strict=False)
        ):
            return None
        lead = leads[len(done)]
        field, labels = lead[:-1], done[1].removeprefix(leads[1]) if len(done) > 1 else "none"
        self._begin(field)
        self._labels = "" if labels.strip().lower() in NO_LABEL else labels.strip()
        self._options = _SCOPES
        if not last.startswith(lead):
            start = "" if text.startswith("\n") or done else "\n"
            return Step(start + lead[len(last) :]) if lead.startswith(last) else None
        self._value = last[len(lead) :]
        if field == "scope":
            left = [each for each in _SCOPES if each.startswith(self._value)]
            return Step() if len(left) > 1 else self._chosen(left[0]) if left else None
        if not self._begun():
            return Step()
        if field == "targets" and not is_exact_list("targets", self._value):
            return None
        step = self._close()
        return None if step.instead is not None else step

    @property
    def holds(self) -> bool:
        """Whether what is written now is said only when it is whole, because the form may leave it out."""
        return self._field in ("targets", "next", "mask", "more")

    @property
    def state(self) -> Hashable | None:
        """Tokens are judged alike in equal states; None where each token makes another."""
        if self._field in ("scope", "next", "mask", "more"):
            return None
        return self._field, self._begun(), self._field == "targets" and self._at_label()

    @property
    def alphabet(self) -> str | None:
        """The characters of all that is kept here, and of what ends it; None: any."""
        if self._field == "mask":
            return self.place.alphabet + self.place.ends
        return "".join(self._options) if self.state is None else None

    def judge(self, text: str, stop: bool = False) -> Verdict:
        """text: of one token. stop: whether it is one that ends an answer."""
        if not self._field:
            return self._judge_prose(text, stop)
        if self._field in ("scope", "next", "more"):
            return self._judge_choice(text, stop)
        return self._judge_place(text, stop) if self._field == "mask" else self._judge_line(text, stop)

    def take(self, text: str, verdict: Verdict) -> Step:
        """The token that was judged so, which must not be NO. Gives what follows it."""
        if verdict is not Verdict.END:
            self._used += 1
            self._used_in_field += 1
            self._value += text
        if verdict is not Verdict.KEEP:
            return self._close()
        if self._field in ("scope", "next", "more"):
            left = [each for each in self._options if each.startswith(self._value)]
            return self._chosen(left[0]) if len(left) == 1 else self._go_on()
        return self._go_on()

    # --- what may stand where ---

    def _judge_prose(self, text: str, stop: bool) -> Verdict:
        if stop or begins_tag(text):
            closes = stop or "</" in text or self._begun()
            return Verdict.END if closes else Verdict.NO  # not at once into another part, or into <think>
        return Verdict.KEEP

    def _judge_line(self, text: str, stop: bool) -> Verdict:
        """A field of one line, which holds a letter or a digit from its first token on."""
        if stop or begins_tag(text):
            return Verdict.END if self._begun() else Verdict.NO
        line, end, rest = text.partition("\n")
        if "\\" in line or not all(each.isprintable() or each == "\t" for each in line):
            return Verdict.NO
        if self._field == "targets" and not self._fits_labels(line):
            return Verdict.NO
        if not self._begun() and not any(each.isalnum() for each in line):
            return Verdict.NO
        if not end:
            return Verdict.KEEP
        if line.strip() and not rest.strip():
            return Verdict.CLOSE
        return Verdict.END if self._begun() else Verdict.NO

    def _fits_labels(self, line: str) -> bool:
        """Whether the exact form takes it for labels parted by ";" alone. A full stop is taken within a word
        only, and half a character not at all: the other half might make it a comma."""
        if any(each in _NOT_IN_LABELS for each in line):
            return False
        if any(dot == len(line) - 1 or line[dot + 1].isspace() for dot, c in enumerate(line) if c == "."):
            return False
        at_label = self._at_label()
        for number, item in enumerate(line.split(";")):
            if number and at_label:
                return False  # an empty label
            bare = item.lstrip()
            if at_label or number:
                if bare and not bare[0].isalnum():
                    return False
                at_label = not bare
        return True

    def _judge_choice(self, text: str, stop: bool) -> Verdict:
        if stop:
            return Verdict.END if self._field != "scope" and not self._value else Verdict.NO
        wanted = self._value + text
        return Verdict.KEEP if any(each.startswith(wanted) for each in self._options) else Verdict.NO

    def _judge_place(self, text: str, stop: bool) -> Verdict:
        if not stop and self.place.may_begin(self._value + text):
            return Verdict.KEEP
        ends = stop or text[:1] in self.place.ends
        return Verdict.END if ends and self.place.is_whole(self._value) else Verdict.NO

    def _begun(self) -> bool:
        return any(each.isalnum() for each in self._value)

    def _at_label(self) -> bool:
        """Whether a label begins here."""
        return not self._value.rpartition(";")[2].strip()

    # --- how it goes on ---

    def _go_on(self) -> Step:
        budget = self._limits[self._part]
        room = budget - self._before
        if self._field == "instruction":
            budget = self._before + int(room * _INSTRUCTION)
        elif self._field == "targets":
            if self._used_in_field < int(room * _TARGETS):
                return Step()
            budget = 0
        if self._used < budget:
            return Step()
        if self._field == "scope":
            return self._chosen(_SCOPES[self._labels == ""], place=False)
        if self._field in ("next", "mask"):
            self.notes.append(f"mask left out: <output> has used up its {self.budgets.output} tokens")
            self.done = True
            return Step(_CLOSING, says=True, instead="")
        name = self._field or f"<{self._parts[self._part]}>"
        self.notes.append(f"{name} closed after {self._used_in_field} tokens")
        return self._close()

    def _close(self) -> Step:
        """Ends what is being filled, and begins what comes next."""
        end = "" if self._value.endswith("\n") else "\n"
        if not self._field:
            return Step(self._open(f"{end}</{self._parts[self._part]}>\n"))
        if self._field == "instruction":
            self._begin("targets")
            return Step(f"{end}targets:")
        if self._field == "targets":
            labels = (each.strip().lower() for each in self._value.split(";"))
            none = all(each in NO_LABEL for each in labels if each)  # the exact form knows one word for it
            self._labels, self._options = "" if none else self._value.strip(), _SCOPES
            self._begin("scope")
            words = " none" if end else " none\n"
            return Step(f"{end}scope:", says=True, instead=words if none else None)
        return self._behind_place() if self._field == "mask" else self._chosen(self._options[-1])

    def _open(self, form: str) -> str:
        """The next part, or the one behind it where that has no budget."""
        while True:
            self._part, self._used, self._before = self._part + 1, 0, 0
            part = self._parts[self._part]
            self._begin("instruction" if part == "output" else "")
            form += f"<{part}>\n"
            if self._field:
                return f"{form}instruction:"
            if self._limits[self._part]:
                return form
            form += f"</{part}>\n"

    def _begin(self, name: str) -> None:
        self._field, self._value, self._used_in_field = name, "", 0

    def _chosen(self, option: str, place: bool = True) -> Step:
        """Writes the rest of the only option that is left, and what it leads to. place: whether there is room
        for one."""
        rest = option[len(self._value) :]
        if self._field in ("next", "more"):
            said, self._said = self._said, None
            instead = None if said is None else said + self._value
            if option.endswith(_CLOSING[1:]):
                self.done = True
            elif option.endswith(_AGAIN[1:]):
                self._edits, self._before = self._edits + 1, self._used
                self._begin("instruction")
            else:
                self._begin("mask")
                return Step(held=rest)
            return Step(rest, says=True, instead=instead)
        if place and self.place.optional:
            again = [_AGAIN] * self._has_room()
            self._options = (self.place.lead(self._labels), *again, _CLOSING)
            self._begin("next")
            return Step(rest)
        if place and option == _SCOPES[0]:
            self._begin("mask")
            return Step(rest, self.place.lead(self._labels or "object"))
        return self._more(rest)

    def _behind_place(self) -> Step:
        said = self.place.said(self._value)
        if said is not None:  # written in the model's own form, said in ours
            note = self.place.note(self._value)
            self.notes += [note] if note else []
        return self._more(self.place.ending, says=True, said=said)

    def _more(self, form: str, says: bool = False, said: str | None = None) -> Step:
        """Behind an edit: the choice between the next one and the end, or the end where there is no room.
        form: what closes the edit; says: whether something is held, and said: in which words it is said."""
        if not self._has_room():
            self.done = True
            return Step((form if said is None else "") + _CLOSING, says=says, instead=said)
        # A line's end is written for a model that was never tuned: it costs no forward. One that was may know
        # a token for the end and the tag behind it.
        lead = "" if self.place.optional else "\n"
        self._options = (_AGAIN.removeprefix(lead), _CLOSING.removeprefix(lead))
        self._begin("more")
        if said is None:
            return Step(form + lead, says=says)
        self._said = said + lead
        return Step(held=form + lead)

    def _has_room(self) -> bool:
        """Whether another edit may follow."""
        return self._edits < MOST_STEPS and self._limits[self._part] - self._used >= LEAST_OUTPUT


def begins_tag(text: str) -> bool:
    """Whether one of the form's tags, or a special token, could be written by going on from this text."""
    for at in (at for at, each in enumerate(text) if each == "<"):
        name = text[at + 1 :].removeprefix("/")
        if name[:1] == "|" or any(f"{tag}>".startswith(name) or name.startswith(f"{tag}>") for tag in _TAGS):
            return True
    return False


_CLOSING = "\n</output>"
_AGAIN = "\ninstruction:"
WHOLE_FORM = (
    "".join(f"<{part}>\n\n</{part}>\n" for part in PARTS)
    + "instruction:\ntargets: none\nscope: local\nmask: box full\n" * MOST_STEPS
)
"""All that the form writes at most, to count its tokens."""

_TAGS = (*PARTS, "think")
_TAG = re.compile(rf"</?(?:{'|'.join(PARTS)})>")
_NOT_IN_LABELS = frozenset(",|\uff1b\uff0c\u3001\ufffd")
