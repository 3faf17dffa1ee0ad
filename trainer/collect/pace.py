"""How fast a host is asked: a bucket of requests that fills steadily, slower once it is busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_GROWTH = 1.05  # a minute
_BURST = 1.0  # seconds' worth of requests that may go at once
_LEAST = 1.0  # requests a minute


class Pace:
    """At most `per_minute` requests a minute, 0 for any number. clock, sleep: of tests."""

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.most = self.rate = per_minute
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._held = max(1.0, per_minute / 60 * _BURST)
        self._last = clock()
        self._not_before = 0.0

    def wait(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Returns when one more request may be sent, or nobody wants to."""
        while not ended() and (seconds := self._take()) > 0:
            self._sleep(seconds)

    def busy(self, after: float | None) -> None:
        """The host has too much to do: half as many from now on, and none for `after` seconds."""
        with self._lock:
            self.rate = max(min(_LEAST, self.most), self.rate / 2)
            self._not_before = max(self._not_before, self._clock() + (after or 0))

    def _take(self) -> float:
        with self._lock:
            now = self._clock()
            if now < self._not_before:
                return self._not_before - now
            if not self.most:
                return 0
            passed, self._last = now - self._last, now
            self.rate = min(self.most, self.rate * _GROWTH ** (passed / 60))
            self._held = min(max(1.0, self.rate / 60 * _BURST), self._held + passed * self.rate / 60)
            if self._held >= 1 - 1e-6:  # what rounding leaves is not worth a wait
                self._held -= 1
                return 0
            return (1 - self._held) * 60 / self.rate
