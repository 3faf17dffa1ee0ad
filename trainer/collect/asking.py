"""One service asked about all tasks of a stage: one by one, or by batches, round after round until no
question waits; its answers and what they cost lie in a file of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evlm.errors import EndpointError

from .answers import Answers
from .batch import Batches
from .batch_api import BatchApi
from .services import Service
from .stages import Result, Stage
from .teacher import Asked, BatchAsked
from .web import Web, key_hosts

Report = Callable[[int], object]
Do = Callable[[Asked, dict[str, Any]], Result]


class Asking:
    """called: the service's place in the recipe. store: of its answers; folder: of its batches. batches:
    files that wait for their answers."""

    def __init__(self, service: Service, called: str, store: Path, folder: Path) -> None:
        self.service, self.called, self.folder = service, called, folder
        self.answers = Answers(store)
        self.batches: list[Path] = []

    def run(self, file: Path, work: Sequence[tuple[str, dict[str, Any]]], do: Do) -> Stage:
        """The stage in `file`, with a result of each task, "passing" where its answer is waited for. Raises
        EndpointError, ConfigError, RecordError."""
        for _ in range(self.service.tries):
            stage, asked = Stage(file), self._asked()
            with bar(file.stem, len(work), lambda asked=asked: asked.spent) as report:  # type: ignore[misc]
                task = lambda each, asked=asked: do(asked, each)  # noqa: E731
                stage.run(work, task, self.service.workers, report, asked.stop)
            self.batches = asked.files.close() if isinstance(asked, BatchAsked) else []
            if not self.batches or not self._fetched():
                return stage
        raise EndpointError(
            f"{self.called}: {self.service.tries} batches one after the other left questions without an "
            f"answer; {self.folder} has what was said"
        )

    def _asked(self) -> Asked:
        batches = Batches(self.folder)
        if self.service.batch != "none":
            return BatchAsked(self.service, self.answers, batches, self.called)
        return Asked(self.service, self.answers, key_hosts(), self.called, batches)

    def _fetched(self) -> bool:
        """Whether the answers to all batches have come."""
        if self.service.batch != "openai":
            return False
        service = self.service
        web = Web(service.endpoint, service.timeout, service.tries, service.pause)
        api = BatchApi(web, service.poll, lambda said: print(said, file=sys.stderr, flush=True))
        return api.fetch(self.batches)

    def close(self) -> None:
        self.answers.close()


@contextmanager
def bar(name: str, total: int, cost: Callable[[], float] | None = None) -> Iterator[Report]:
    """A bar with rate and time left; cost: shown behind it."""
    from tqdm import tqdm

    with tqdm(total=total, desc=name, disable=None, file=sys.stderr) as shown:

        def report(count: int) -> None:
            if cost is not None and not shown.disable and shown.n % 20 == 0:
                shown.set_postfix_str(f"cost {cost():.4g}", refresh=False)
            shown.update(count)

        yield report
