"""A plan that is there already, in place of a reasoner: no model is asked."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EVLMError, RequestError, TraceError
from ..plan.form import PROSE, TRACE_VERSION, Plan, Trace
from ..plan.trace import plan_from_json
from .reasoner import Reasoned

if TYPE_CHECKING:
    from ..request import Request

_MOST = 4_000_000  # bytes of a trace; the boxes of a long clip's lie in it, too


class GivenPlan:
    """A reasoner that has made its plan: it gives the same to every request. text: as it was written.
    prompt: what it was made for."""

    def __init__(self, trace: Trace, text: str = "", prompt: str = "") -> None:
        self.trace, self.text, self.prompt = trace, text, prompt or trace.plan.instruction

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> GivenPlan:
        """A `trace.json` of `python -m evlm edit`, also one that was changed by hand, or the JSON of a plan
        (`plan_to_json`). Raises RequestError where the file is neither."""
        path = Path(path).expanduser()
        try:
            if path.stat().st_size > _MOST:
                raise RequestError(f"{path}: {path.stat().st_size:,} bytes; a trace has at most {_MOST:,}")
            text = path.read_text(encoding="utf-8")
            data = json.loads(text)
        except OSError as error:
            raise RequestError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{path}: no trace; it is no JSON ({error})") from error
        try:
            if isinstance(data, dict) and "trace" not in data and "instruction" in data:
                return cls(Trace("", "", "", plan_from_json(text)))
            return cls(_trace_of(data), str(data.get("text", "")), str(data.get("prompt", "")))
        except EVLMError as error:
            raise RequestError(
                f"{path}: no plan that can be read ({error}); give the trace.json of an earlier edit"
            ) from error

    def reason(self, request: Request, *_: Any, **__: Any) -> Reasoned:
        """The plan, whatever is asked."""
        return Reasoned(self.text, 0, 0.0, trace=replace(self.trace))


def _trace_of(data: Any) -> Trace:
    """Of what `edit` writes. Raises TraceError."""
    if not isinstance(data, dict) or not isinstance(data.get("trace"), dict):
        raise TraceError("json", 0, "expected an object with a `trace`")
    version = data.get("trace_version", TRACE_VERSION)
    if version != TRACE_VERSION:
        raise TraceError("json", 0, f"version {version!r:.40}, this evlm reads version {TRACE_VERSION}")
    trace = data["trace"]
    if not isinstance(trace.get("plan"), dict):
        raise TraceError("json", 0, "the trace has no plan")
    prose = {part: trace.get(part, "") for part in PROSE}
    return Trace(**prose, plan=_plan_of(trace["plan"]))


def _plan_of(data: dict[str, Any]) -> Plan:
    """A plan as `asdict` gives it. Of several steps these count, not what stands for all of them."""
    steps = data.get("several") or []
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise TraceError("json", 0, "each step must be an object")
    trust, sure = data.get("trust", "tuned"), data.get("confidence")
    if steps:
        return replace(
            Plan.of_steps([_plan_of({**s, "several": []}) for s in steps]), trust=trust, confidence=sure
        )
    targets = data.get("targets", [])
    if not isinstance(targets, list):
        raise TraceError("targets", 0, "they must be a list")
    return Plan(
        data.get("instruction", ""),
        tuple(targets),
        data.get("mask_text"),
        data.get("scope", "local"),
        trust=trust,
        confidence=sure,
    )
