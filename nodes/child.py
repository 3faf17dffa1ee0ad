"""The trainer as a child process: started without a shell, read line by line, asked to stop and save."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parent.parent
POLL = 0.2  # seconds between two looks at whether the user has cancelled
GRACE = 60.0  # seconds for the step in hand and for saving the state, then the child is killed
TOLD = 8, 1500  # lines and characters, at most, of what a failed child wrote that the error repeats
# For a Python that looks for modules only where it is told, as Windows portable's does. It runs in the child
# alone: ComfyUI's own path is never touched.
ISOLATED = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('trainer', run_name='__main__', alter_sys=True)"
)


class Trainer:
    """`python -m trainer ARGUMENTS`, from its start to the end of the `with` block, which stops it.

    log: file to which its errors and warnings are added.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._command, self._log = [*_python(), *arguments], log
        self._lines: queue.Queue[str | None] = queue.Queue()

    def __enter__(self) -> Trainer:
        """Raises TrainingError where it cannot be started."""
        from ..evlm.errors import TrainingError

        kept = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH")
        }
        # On Windows, so that Ctrl-Break is its own.
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        try:
            with open(self._log, "ab", opener=_open_in_place) as log:
                self._begin = log.tell()
                self._process = subprocess.Popen(
                    self._command,
                    cwd=PACK,
                    env={**kept, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    creationflags=group,
                )
        except OSError as error:
            raise TrainingError(f"the trainer cannot be started ({error}): {self._command[0]}") from error
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._ask()
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def events(self) -> Iterator[dict[str, Any] | None]:
        """What it reports, as it comes; None where nothing came for POLL seconds. Ends when it ends; raises
        TrainingError when it failed."""
        while True:
            try:
                line = self._lines.get(timeout=POLL)
            except queue.Empty:
                yield None
                continue
            if line is None:
                break
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a library's word
            if isinstance(event, dict):
                yield event
        while self._process.poll() is None:
            time.sleep(POLL / 4)
            yield None
        if self._process.returncode:
            self._raise(self._process.returncode)

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._lines.put(line.decode("utf-8", "replace"))
        except ValueError:  # closed by the end of the block
            pass
        self._lines.put(None)

    def _ask(self) -> None:
        if sys.platform == "win32":
            self._process.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            self._process.terminate()

    def _raise(self, code: int) -> None:
        from ..evlm.errors import TrainingError

        with open(self._log, "rb") as log:
            log.seek(max(self._begin, os.fstat(log.fileno()).st_size - 64 * 1024))
            output = log.read().decode("utf-8", "replace").strip()
        why = output.rpartition("\nerror: ")[2] if "error: " in output else output
        why = "\n".join(why.removeprefix("error: ").splitlines()[-TOLD[0] :])[-TOLD[1] :] or "it said nothing"
        how = f"signal {-code} ended it; was memory short?" if code < 0 else f"exit code {code}"
        raise TrainingError(f"the training failed ({how}): {why}\nAll that it said is in {self._log}")


def _open_in_place(path: str, flags: int) -> int:
    from ..evlm.files.append import open_in_place

    return open_in_place(Path(path), flags)


def _python() -> list[str]:
    """How this Python is asked to run the trainer."""
    if sys.flags.isolated or getattr(sys.flags, "safe_path", False):
        return [sys.executable, "-c", ISOLATED, str(PACK)]
    return [sys.executable, "-m", "trainer"]
