"""Every error this engine raises on purpose. A message names the value, what was expected, and the remedy."""

from __future__ import annotations

import re


class EVLMError(ValueError):
    """Base of all errors that mean: what you gave does not fit, and here is why."""


class RequestError(EVLMError):
    """A request that asks for nothing, or whose pieces do not fit together."""


class PictureError(EVLMError):
    """A picture, video or frame tensor that cannot be read, written or used."""


class SceneError(EVLMError):
    """A 3D scene, a camera, or a file of either, that cannot be read, written or used."""


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
    """A remote endpoint that cannot be reached, or answered with something unusable.

    status: of the HTTP answer, where it was not 200. broken: a connection that failed or an answer that was
    not whole, so that asking again may help. after: seconds that it asks to wait, where it says so.
    """

    def __init__(
        self, message: str, status: int | None = None, broken: bool = False, after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.broken, self.after = status, broken, after


class AnswerError(EndpointError):
    """An answer to one question that holds none: refused, filtered, used up in thought, unreadable."""


class UnreachableError(EndpointError):
    """An endpoint to which nothing was sent, for there is no way there now."""


class BusyError(EndpointError):
    """An endpoint that has too much to do."""


class Cancelled(Exception):
    """Raised by a callback to stop the work at once. Not an error: never caught by the engine."""


# Where the package that is installed has another name than the one that is imported.
_INSTALLED_AS = {"PIL": "pillow", "yaml": "pyyaml", "skimage": "scikit-image", "torch": "torch torchvision"}


def explained(error: BaseException) -> str:
    """An error that is not ours, in one line: what happened and what to do. For the end of a command."""
    text = one_line(str(error)) or type(error).__name__
    if isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and name:
            what = f"the Python package {name} is missing: pip install {_INSTALLED_AS.get(name, name)}"
        else:
            what = f"a Python package cannot be loaded: {text}"
        return f"{what}; `python -m evlm doctor` says what else there is"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{one_line(str(error.filename))}: {error.strerror}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"memory ran out ({text}); take a smaller picture, fewer frames, or a smaller model"
    if isinstance(error, OSError):
        return text
    if isinstance(error, (RuntimeError, UnicodeError)):
        return f"{type(error).__name__}: {text}"
    return (
        f"a fault of EVLM itself ({type(error).__name__}: {text}); "
        "EVLM_TRACEBACK=1 before the command shows where, please report it"
    )


def one_line(text: str, most: int = 4000) -> str:
    """The text on one line: line ends become blanks, what cannot be printed becomes an escape. At most `most`
    characters."""
    text = re.sub(r"\s+", " ", text).strip()
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )
    return text if len(text) <= most else text[:most] + " ..."


# Where a class comes from is shown to people: in ComfyUI it would be the path of the pack's folder.
for _each in list(globals().values()):
    if isinstance(_each, type) and _each.__module__ == __name__:
        _each.__module__ = "evlm.errors"
