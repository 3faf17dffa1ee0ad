"""Pictures that a maker draws: asked for as answers of a teacher are, at a pace, again after faults, never
twice, not beyond what may be spent. They lie in OUT/work/pictures; work/drawn.sqlite says which is whose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evlm.errors import EVLMError, RecordError

from .answers import Answers
from .asking import bar
from .makers import maker_of, sent
from .pictures import Pictures, stamp
from .services import Maker
from .sources.diptychs import half
from .sources.item import Media, Order
from .stages import Stage, key_of
from .teacher import Refused, Sending

_DRAWING_VERSION = 1  # of what is asked; another number draws everything again


class Drawing:
    """work: the dataset's folder of work. Raises RecordError."""

    def __init__(self, maker: Maker, work: Path) -> None:
        self.maker, self.work = maker, work
        self.answers = Answers(work / "drawn.sqlite")
        self._pictures = Pictures(work, 1)

    def run(self, wanted: Sequence[Media]) -> dict[str, Media]:
        """{media id: what was drawn for it}. Raises EndpointError, ConfigError, ModelError, RecordError."""
        stage = Stage(self.work / "drawn.jsonl", self._pictures.flush)
        sending = Sending(self.maker, self.answers, maker_of(self.maker, self._pictures), "maker")
        orders = {media.id: media.order for media in wanted if media.order is not None}
        keys = {name: self._key(order) for name, order in orders.items()}
        with bar("drawn", len(keys), lambda: sending.spent) as report:
            work = ((keys[name], order) for name, order in orders.items())
            stage.run(work, lambda order: self._one(sending, order), self.maker.workers, report, sending.stop)
        return {media.id: self._as_file(media, stage[keys[media.id]]) for media in wanted}

    def _key(self, order: Order) -> str:
        """Of what is drawn; both halves of a diptych have one."""
        maker = self.maker
        return key_of(
            _DRAWING_VERSION, maker.endpoint, maker.model, maker.local, list(maker.command), maker.size,
            order.prompt, str(order.original or ""), stamp(order.original),
        )  # fmt: skip

    def _one(self, sending: Sending, order: Order) -> dict[str, Any]:
        try:
            original = None if order.original is None else sent(order.original, self.maker.max_pixels)
        except (EVLMError, OSError) as error:
            return {"dropped": str(error)[:400], "passing": True}
        there = lambda kept: (self.work / kept.text).is_file()  # noqa: E731
        try:
            return {"picture": sending.once(self._key(order), order.prompt, original, good=there).text}
        except Refused as error:
            return {"dropped": str(error)[:400], "passing": True}

    def _as_file(self, media: Media, result: dict[str, Any]) -> Media:
        order = media.order
        assert order is not None
        if "dropped" in result:
            return undrawn(media, result["dropped"])
        file = self.work / result["picture"]
        load: Callable[[], bytes | Path] = half(file, order.side) if order.original is None else lambda: file
        return replace(media, load=load, file=file)


def undrawn(media: Media, reason: str) -> Media:
    """A picture that there will not be."""

    def load() -> bytes:
        raise RecordError(f"not drawn: {reason}")

    return replace(media, load=load, file=None)
