"""Finds the plan in what a model wrote that was never tuned on the form. Each repair is named in the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import RefusalError, TraceError
from .answers import is_refusal
from .boxes_text import boxes_text, mend_mask_text
from .fields import FIELD_OF, Fields, fields_from_lines, labels_of
from .form import MOST_STEPS, PARTS, PROSE, Plan, Scope, Trace, unescape
from .loose_json import boxes_in, find_json, find_strict_json, labels_and_boxes
from .parts import Cleaned, Part, Thoughts, blank_wrappers, find_parts, split_thoughts

_LONGEST_SENTENCE = 300  # characters of an <output> that may be an instruction and nothing else
_QUOTED = 160  # characters of an answer that an error repeats


def parse_loosely(text: str, finished: bool = True, asked: Sequence[str] = PARTS) -> Trace:
    """A trace from any text that holds a plan in some form. finished: False where the model was cut off.
    asked: the parts that it was asked for.

    Raises RefusalError where the model says that it will not, TraceError where there is no plan.
    """
    notes: list[str] = []
    cleaned = Cleaned(text, notes)
    try:
        return _trace(cleaned.text, finished, notes, asked)
    except TraceError as error:
        raise type(error)(error.part, cleaned.offset(error.offset), error.reason) from None


def _trace(text: str, finished: bool, notes: list[str], asked: Sequence[str]) -> Trace:
    thoughts = split_thoughts(text)
    if thoughts.open is not None and not finished:
        raise TraceError("thinking", len(text), "the answer was cut off inside its thoughts")
    answer = blank_wrappers(thoughts.answer, notes)
    parts = find_parts(answer, notes, lambda part: finished and bool(_instruction_in(part)))
    if thoughts.texts and not answer.strip():  # everything was thought, and the answer left out
        inside = max(thoughts.texts, key=len)
        parts = find_parts(inside, notes)
        plan = _plan_in_thoughts(parts, inside, text.find(inside), notes)
    else:
        plan = _plan(parts, answer, finished, thoughts, notes)
        _add_thoughts(parts, thoughts, notes, "think" in asked)
    if is_refusal(plan.instruction):
        raise RefusalError("instruction", 0, f"the model refuses: {_quote(plan.instruction)}")
    wanted = ("thinking" if part == "think" else part for part in asked if part != "output")
    notes += [f"<{part}> is missing: taken as empty" for part in wanted if part not in parts]
    prose = {part: unescape(parts[part].text.strip()) if part in parts else "" for part in PROSE}
    return Trace(**prose, plan=replace(plan, repairs=tuple(dict.fromkeys(notes))))


def _add_thoughts(parts: dict[str, Part], thoughts: Thoughts, notes: list[str], asked: bool) -> None:
    """What was thought before the answer is its <thinking>, where the answer has none of its own. asked: for
    <think>."""
    if not thoughts.texts:
        return
    if "thinking" in parts and parts["thinking"].text.strip():
        notes.append("what was thought before the answer left out")
        return
    if not asked:
        notes.append("tag spelling mended")
    parts["thinking"] = Part("\n".join(thought.strip() for thought in thoughts.texts).strip(), 0, closed=True)


# --- the plan ---


def _plan_in_thoughts(parts: dict[str, Part], text: str, offset: int, notes: list[str]) -> Plan:
    """The plan of an answer that stands among the thoughts: only a whole one, for drafts stand there too."""
    notes.append("the answer stands among the thoughts")
    values = fields_from_lines(parts["output"].text if "output" in parts else text, []).values
    whole = "output" in parts and parts["output"].closed
    if not whole and not (
        {"instruction", "targets"} <= values.keys() or find_strict_json(text, _has_instruction)
    ):
        raise TraceError("output", offset + len(text), "the model thought and gave no answer")
    return _plan(parts, text, True, None, notes)


def _plan(
    parts: dict[str, Part], text: str, finished: bool, thoughts: Thoughts | None, notes: list[str]
) -> Plan:
    source = parts.get("output")
    if source is None:
        source = Part(text, 0, last=True)
        notes.append("<output> was missing")
    values, whole = _values(source, parts, thoughts, notes)
    if not finished and source.last and not whole:
        where = "inside <output>" if "output" in parts else "before its <output> was done"
        raise TraceError("output", source.offset + len(source.text), f"the answer was cut off {where}")
    if not values and "output" in parts and _is_sentence(source.text):
        notes.append("the whole <output> read as the instruction")
        values = {"instruction": " ".join(unescape(source.text).split())}
    if not values:
        raise _no_plan(parts, source, text)
    if "output" in parts and source.last and values.keys() == {"instruction"}:
        raise TraceError("output", source.offset + len(source.text), "the answer stops inside <output>")
    return _build(values, parts, source, notes)


def _values(
    source: Part, parts: dict[str, Part], thoughts: Thoughts | None, notes: list[str]
) -> tuple[dict[str, Any], bool]:
    """(the plan's values by field, whether nothing of them can be missing behind the end of the text)."""
    data = find_json(source.text, _has_instruction)
    if data is not None:
        notes.append("JSON read as the plan")
        if "output" not in parts:
            _prose_from_json(data, parts)
        return _values_from_json(data, notes), find_strict_json(source.text, _has_instruction) is not None
    line_notes: list[str] = []
    fields = Fields()
    if thoughts is None or thoughts.open is None or "output" in parts:  # else it is all thought
        fields = fields_from_lines(source.text, line_notes)
        if fields.weak and "output" not in parts:
            fields, line_notes = Fields(), []
    if "instruction" in fields.values or "targets" in fields.values:
        notes += line_notes
        return _with_steps([fields.values, *fields.more]), fields.ended
    data = find_json(source.text, _has_targets)  # [{"bbox_2d": [...], "label": "hat"}]
    if data is not None:
        notes.append("JSON read as the plan")
        return _values_from_json(data, notes) | fields.values, False
    notes += line_notes
    return fields.values, fields.ended


def _with_steps(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The values of one plan; those of several steps under "steps"."""
    return {"steps": steps} if len(steps) > 1 else steps[0]


def _instruction_in(text: str) -> Any:
    data = find_json(text, _has_instruction)
    return data if data is not None else fields_from_lines(text, []).values.get("instruction")


def _is_sentence(text: str) -> bool:
    """Whether a text may be an instruction alone, rather than fields that nobody understood."""
    lines = [line for line in text.split("\n") if line.strip()]
    return len(lines) in (1, 2) and len(text.strip()) <= _LONGEST_SENTENCE and not set(text) & set("{}[]")


def _no_plan(parts: dict[str, Part], source: Part, text: str) -> TraceError:
    spoken = source.text.strip() if "output" in parts else text.strip()
    end = source.offset + len(source.text)
    if is_refusal(spoken):
        return RefusalError("output", end, f"the model refuses: {_quote(spoken)}")
    saying = f"; the answer is {_quote(spoken)}" if spoken else ""
    return TraceError("output", end, f"no plan found: no <output>, no fields, no JSON{saying}")


def _quote(text: str) -> str:
    words = " ".join(text[: 2 * _QUOTED].split())
    return repr(words if len(words) <= _QUOTED else f"{words[:_QUOTED]} ...")


def _build(values: dict[str, Any], parts: dict[str, Part], source: Part, notes: list[str]) -> Plan:
    if "steps" in values:
        return Plan.of_steps([_build(step, parts, source, notes) for step in values["steps"]])
    instruction = values.get("instruction", "")
    if not instruction.strip():
        intermediate = unescape(parts["intermediate"].text).split() if "intermediate" in parts else []
        if not intermediate:
            reason = "it is missing, and there is no <intermediate> to take it from"
            raise TraceError("instruction", source.offset, reason)
        notes.append("instruction was missing: taken from <intermediate>")
        instruction = " ".join(intermediate)
    if "targets" not in values:
        notes.append("targets were missing: none")
    targets: tuple[str, ...] = values.get("targets", ())
    mask_text: str | None = values.get("mask")
    return Plan(instruction, targets, mask_text, _scope(values.get("scope", ""), targets, mask_text, notes))


def _scope(value: str, targets: tuple[str, ...], mask_text: str | None, notes: list[str]) -> Scope:
    spelled = value.strip().strip("*`'\".").lower()
    if spelled in ("local", "global"):
        if spelled != value:
            notes.append("scope spelling mended")
        return "global" if spelled == "global" else "local"
    for scope, hints in (("global", ("global", "whole", "entire")), ("local", ("local", "object", "region"))):
        if any(hint in spelled for hint in hints):
            notes.append(f"scope {spelled[:40]!r} read as {scope}")
            return "global" if scope == "global" else "local"
    inferred: Scope = "local" if targets or mask_text else "global"
    notes.append(f"scope was {'not understood' if spelled else 'missing'}: {inferred}")
    return inferred


# --- JSON ---


def _has_instruction(value: Any) -> bool:
    return any(FIELD_OF.get(_key(key)) == "instruction" for key in _plan_object(value))


def _has_targets(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(each, dict) and labels_and_boxes(each)[0] for each in value)
    return any(_key(key) in FIELD_OF for key in _plan_object(value))


def _plan_object(value: Any) -> dict[str, Any]:
    """The object that holds the plan: itself, under "output" or "plan", or the first of a list; or empty."""
    if isinstance(value, list):
        return next(
            (plan for each in value[:64] if isinstance(each, dict) and (plan := _plan_object(each))), {}
        )
    if not isinstance(value, dict):
        return {}
    steps = _steps_in(value)
    if steps:
        return steps[0]
    inner = next((each for name in _PLANS if isinstance(each := _get(value, name), dict)), None)
    plan = value if inner is None else inner
    return plan if any(_key(key) in FIELD_OF for key in plan) else {}


def _steps_in(value: Any) -> list[dict[str, Any]]:
    """The objects of several steps: a list of plans, alone or under "steps" and its kin; else empty."""
    if isinstance(value, dict):
        inner = next((each for name in _PLANS if isinstance(each := _get(value, name), dict)), value)
        value = next((each for name in _STEPS if isinstance(each := _get(inner, name), list)), None)
    if not isinstance(value, list):
        return []
    plans = [each for each in value[:64] if isinstance(each, dict)]
    return [plan for plan in plans if any(FIELD_OF.get(_key(key)) == "instruction" for key in plan)]


_PLANS = ("output", "plan", "answer")
_STEPS = ("steps", "edits", "plans")


def _get(value: dict[str, Any], name: str) -> Any:
    return next((each for key, each in value.items() if _key(key) == name), None)


def _key(key: Any) -> str:
    return str(key).strip().lower().replace(" ", "_")


def _prose_from_json(value: Any, parts: dict[str, Part]) -> None:
    """Takes the prose from an object that holds the whole trace."""
    if not isinstance(value, dict):
        return
    for part in PROSE:
        prose = _get(value, part)
        if isinstance(prose, str) and part not in parts:
            parts[part] = Part(prose.replace("\\", "\\\\"), 0, closed=True)


def _values_from_json(value: Any, notes: list[str]) -> dict[str, Any]:
    steps = _steps_in(value)
    if len(steps) > MOST_STEPS:
        notes.append(f"more than {MOST_STEPS} steps: the first ones count")
    if len(steps) > 1:
        return {"steps": [_step_from_json(step, step, notes) for step in steps[:MOST_STEPS]]}
    return _step_from_json(value, _plan_object(value), notes)


def _step_from_json(value: Any, plan: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    if isinstance(value, list) and not any(FIELD_OF.get(_key(key)) == "instruction" for key in plan):
        plan = {"targets": value}
    values: dict[str, Any] = {}
    boxes: list[Any] = []
    for key, each in plan.items():
        name = FIELD_OF.get(_key(key))
        if name is None or name in values or each is None:
            continue
        if name == "targets":
            if isinstance(each, (list, dict)):
                values[name], boxes = labels_and_boxes(each)
            else:
                values[name] = labels_of(str(each), notes)
        elif name == "mask":
            values[name] = _mask_from_json(each, notes)
        elif isinstance(each, str):
            values[name] = each
        elif isinstance(each, list) and each and all(isinstance(step, str) for step in each):
            values[name] = "; ".join(each)
    if boxes and not values.get("mask"):
        notes.append("the targets' boxes read as the mask")
        values["mask"] = boxes_text(boxes)
    return values


def _mask_from_json(value: Any, notes: list[str]) -> str | None:
    """A mask text as it is; boxes as mask text; anything else as text, for decoding to refuse."""
    if isinstance(value, str):
        return mend_mask_text(value, notes) if value.strip() else None
    boxes = boxes_in(value)
    if boxes:
        notes.append("four numbers read as a box" if len(boxes) == 1 else "boxes read as a mask")
        return boxes_text(boxes)
    return repr(value)[:200] if value else None
