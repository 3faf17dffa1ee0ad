"""`python -m trainer protocol PROTOCOL.yaml`: answers, verdicts, people's items, and the paper's tables.

Every stage goes on where it was stopped, and what did not change is asked once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evlm.errors import ConfigError

if TYPE_CHECKING:
    from ..evaluation.accuracy import Outcome
    from ..evaluation.questions import Question
    from .answers import Asked
    from .recipe import Protocol, Questions
    from .verdicts import Planted, Said

STAGES = ("answers", "judges", "humans", "tables")


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("protocol", type=Path, metavar="PROTOCOL.yaml", help="docs/protocol.md")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that replace the file's")
    parser.add_argument(
        "--only", choices=STAGES, help="this stage alone, with what those before it have left"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be asked and what it may cost; ask nothing"
    )


def run(options: argparse.Namespace) -> int:
    """Asks what is missing, writes the tables, prints the first one. Raises EVLMError."""
    from ..config.arguments import check_folder
    from .recipe import load_protocol

    protocol = load_protocol(options.protocol, options.settings)
    check_folder("out", protocol.folder)
    questions = questions_of(protocol.questions)
    if options.dry_run:
        from .dry_run import shown

        print(shown(protocol, questions))
        return 0
    return Run(protocol, questions, options.only).run()


class Run:
    """only: of STAGES, or None for all of them."""

    def __init__(self, protocol: Protocol, questions: list[Question], only: str | None) -> None:
        from .answers import asked
        from .verdicts import planted

        self.protocol, self.only = protocol, only
        self.plain = questions
        self.questions: list[Asked] = asked(questions)
        self.refused: dict[str, int] = {}  # of a model, questions that its endpoint refuses
        self.known: list[Planted] = planted(questions, protocol.planted, protocol.seed)

    def run(self) -> int:
        outcomes = self._answers()
        if self.only == "answers":
            return 0
        said = self._verdicts(outcomes)
        if self.only == "judges":
            return 0
        if self._does("humans"):
            self._items(outcomes)
            if self.only == "humans":
                return 0
        self._tables(outcomes, said)
        return 0

    def _does(self, stage: str) -> bool:
        return self.only in (None, stage)

    def _answers(self) -> dict[str, list[Outcome]]:
        from .answers import answer_keys, answers, outcome

        found: dict[str, list[Outcome]] = {}
        for model in self.protocol.models:
            file = self.protocol.folder / "answers" / f"{model.file}.jsonl"
            if not self._does("answers"):
                self._need(file, answer_keys(model, self.questions), model.name)
            with bar(len(self.questions), model.name) as report:
                given = answers(model, self.questions, file, report)
            self.refused[model.name] = sum(bool(each.get("refused")) for each in given)
            found[model.name] = [
                outcome(each.question, answer) for each, answer in zip(self.questions, given, strict=True)
            ]
        return found

    def _need(self, file: Path, keys: list[str], name: str) -> None:
        from ..collect.stages import Stage

        stage = Stage(file)
        missing = sum(key not in stage for key in keys)
        if missing:
            raise ConfigError(
                f"{name}: {missing:,} of {len(keys):,} answers are not there yet; run the protocol without "
                "--only, or with --only answers first"
            )

    def _verdicts(self, outcomes: dict[str, list[Outcome]]) -> list[Said]:
        from .verdicts import count_open, judged, panel

        if not self.protocol.judges or self.only == "humans":
            return []
        modes, judges = self.protocol.modes, panel(self.protocol)
        if not self._does("judges"):
            return judged(judges, modes, self.plain, outcomes, self.known, ask=False)
        total = count_open(self.protocol, self.plain, outcomes, self.known)
        with bar(total, "verdicts") as report:
            return judged(judges, modes, self.plain, outcomes, self.known, report)

    def _items(self, outcomes: dict[str, list[Outcome]]) -> None:
        from .humans import write_items

        if self.protocol.humans is None:
            if self.only == "humans":
                raise ConfigError("humans: the protocol has none; say `humans: {wanted: 3}`")
            return
        count = write_items(self.protocol, self.questions, outcomes, self.known)
        print(f"{self.protocol.rated}: {count:,} items for people; to have them judged: python -m trainer "
              f"data rate {self.protocol.rated} --wanted {self.protocol.humans.wanted}")  # fmt: skip

    def _tables(self, outcomes: dict[str, list[Outcome]], said: list[Said]) -> None:
        from ..evaluation.results import write
        from .humans import Votes
        from .page import page
        from .table import markdown
        from .tables import Board, tables

        votes = None if self.protocol.humans is None else Votes(self.protocol)
        board = Board(self.protocol, self.questions, outcomes, self.known, said, votes, self.refused)
        made = tables(board)
        files = {f"tables/{name}": text for table in made for name, text in table.files().items()}
        write(self.protocol.folder, {**files, "protocol.html": page(board, made)})
        print(markdown(made[0]))
        print(f"{self.protocol.folder / 'protocol.html'}; {len(made)} tables in "
              f"{self.protocol.folder / 'tables'}")  # fmt: skip


def questions_of(asked: Questions) -> list[Question]:
    """Those of a protocol. Raises ConfigError, RecordError."""
    from ..evaluation.questions import dataset_questions, world_questions
    from .strata import dataset_strata, world_strata

    paper = asked.strata == "paper"
    if asked.world:
        make = world_strata if paper else world_questions
        return make(asked.rows, asked.seed, asked.split, asked.lamp)
    folder = Path(asked.data)
    if paper:
        return dataset_strata(folder, asked.rows, asked.seed, asked.split, asked.balanced)
    return dataset_questions(folder, asked.rows or None, asked.seed, asked.split)


def bar(total: int, what: str) -> AbstractContextManager[Callable[[int], None]]:
    """A bar on stderr where a person is watching, and how it is moved."""
    from contextlib import contextmanager

    from tqdm import tqdm

    @contextmanager
    def shown() -> Any:
        with tqdm(total=total, desc=what, unit="", file=sys.stderr, disable=None) as bar:
            yield lambda count: bar.update(count)

    return shown()
