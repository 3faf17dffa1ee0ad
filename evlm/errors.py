"""Every error this engine raises on purpose. A message names the value, what was expected, and the remedy."""

from __future__ import annotations


class EVLMError(ValueError):
    """Base of all errors that mean: what you gave does not fit, and here is why."""


class RequestError(EVLMError):
    """A request that asks for nothing, or whose pieces do not fit together."""


class PictureError(EVLMError):
    """A picture, video or frame tensor that cannot be read, written or used."""


class TraceError(EVLMError):
    """A text that is not a trace.

    part: where: "thinking", ..., "output", "instruction", "targets", "scope", "mask", "trace" or "json".
    offset: character offset into the text, where the trouble was seen.
    reason: what was wrong there.
    """

    def __init__(self, part: str, offset: int, reason: str) -> None:
        super().__init__(f"{part} at character {offset}: {reason}")
        self.part = part
        self.offset = offset
        self.reason = reason

    def __reduce__(self) -> tuple[type[TraceError], tuple[str, int, str]]:
        return type(self), (self.part, self.offset, self.reason)


class RefusalError(TraceError):
    """A model's answer that is no plan because the model says that it will not or cannot make one."""


class MaskTextError(EVLMError):
    """A mask text that does not follow the codec's grammar, or a mask that cannot be put into text."""


class RecordError(EVLMError):
    """A dataset row, or a path in it, that cannot be accepted."""


class CheckpointError(EVLMError):
    """A checkpoint file that is damaged, of another kind, or made for another model."""


class ModelError(EVLMError):
    """A model that is missing, incomplete, or not of the kind that was asked for."""


class ConfigError(EVLMError):
    """A training recipe with an unknown key or an impossible value."""


class TrainingError(EVLMError):
    """A training that cannot begin, or that ended before its last step."""


class EndpointError(EVLMError):
    """A remote endpoint that cannot be reached, or answered with something unusable."""


class Cancelled(Exception):
    """Raised by a callback to stop the work at once. Not an error: never caught by the engine."""
