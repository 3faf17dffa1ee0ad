"""`python -m trainer eval`: exact accuracy of a reasoner on questions whose answer is known, and what judges
say."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evlm.errors import ConfigError

from ..world.mix import Mix
from ..world.scene import SPLITS

if TYPE_CHECKING:
    from .judges import Panel
    from .questions import Question

ROWS = 500  # of the world, which has no end


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "base",
        nargs="?",
        default="bundled",
        help="a name that `python -m evlm models` lists, or a folder (default: %(default)s)",
    )
    parser.add_argument("--adapter", type=Path, metavar="FILE", help="LoRA that a training wrote")
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help=f"questions, stratified by edit type and input category (default: {ROWS}; of a dataset all)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the questions and the intervals")
    parser.add_argument(
        "--split", default="test", help=f"of the world ({', '.join(SPLITS)}) or the dataset (default: test)"
    )
    parser.add_argument(
        "--lamp",
        type=float,
        default=0.0,
        metavar="L",
        help="the world's pictures under a warm lamp, 0 to 1: 0.5 is what the recipe tiny learns",
    )
    parser.add_argument(
        "--whatif",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the world's questions that name a cause, 0 to 1: by scenario, rule, wording, premise",
    )
    parser.add_argument(
        "--paint",
        nargs="*",
        metavar="MODEL",
        help="carry the plans out (bundled, or models as `evlm edit --models` takes them) and read the "
        "pictures: right where they were to change, and everywhere",
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="a dataset's questions, not the world's")
    parser.add_argument(
        "--tokens", type=int, default=768, metavar="N", help="longest answer (default: %(default)s)"
    )
    parser.add_argument(
        "--judge",
        nargs=2,
        action="append",
        default=[],
        metavar=("URL", "MODEL"),
        help="ask a model at an OpenAI-compatible endpoint for YES or NO; may be given several times",
    )
    parser.add_argument(
        "--verdicts",
        type=Path,
        metavar="FILE",
        help="where the judges' answers are kept between runs (default: OUT/verdicts.jsonl)",
    )
    parser.add_argument(
        "--forced",
        action="store_true",
        help="begin each answer again with the right and with a wrong <intermediate>, and count what "
        "<output> does: mended, spoilt; three answers a question",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write results.md, results.csv and answers.jsonl there"
    )


def run(options: argparse.Namespace) -> int:
    """Asks, prints the table, writes the files. Raises EVLMError."""
    from ..config.arguments import SEEDS, check_folder, check_whole
    from ..model.sampling import SampleConfig
    from . import accuracy, results

    SampleConfig(0.0, options.tokens)  # which says what is wrong before a model is loaded
    check_whole("--seed", options.seed, *SEEDS)
    if options.out is not None:
        check_folder("--out", options.out)
    if options.forced and options.paint is not None:
        raise ConfigError("--forced paints nothing; leave out --paint, or paint in another run")
    questions = _questions(options)
    if options.forced:
        return _forced(options, questions)
    panel = _panel(options)
    painter = _painter(options)
    answer, tokens, parts = accuracy.load(options.base, options.adapter, options.tokens)
    with _bar(len(questions), "answers") as bar:
        outcomes = accuracy.evaluate(answer, questions, tokens, bar.update, parts=parts)
    if painter is not None:
        from .painted import paint

        with _bar(len(questions), "pictures") as bar:
            outcomes = paint(painter, questions, outcomes, bar.update, parts)
    lines = accuracy.summary(outcomes, options.seed)
    text = f"{_title(options, len(questions))}\n\n{results.table(lines)}\n"
    print(text, end="")
    files = {
        "results.md": text,
        "results.csv": results.csv_text(lines),
        "answers.jsonl": results.answer_lines(questions, outcomes),
    }
    if options.out is not None:
        results.write(options.out, files)
    if panel is None:
        return 0
    with _bar(sum(not each.malformed for each in outcomes) * len(panel.judges), "verdicts") as bar:
        verdicts = panel.judge(questions, outcomes, bar.update)
    judgements = [results.judged(name, outcomes, each, options.seed) for name, each in verdicts.items()]
    table = f"\n{results.judges_table(judgements, list(verdicts.values()))}\n"
    print(table, end="")
    if options.out is not None:
        files["results.md"] += table
        files["answers.jsonl"] = results.answer_lines(questions, outcomes, verdicts)
        results.write(options.out, files)
    return 0


def _forced(options: argparse.Namespace, questions: list[Question]) -> int:
    """Answers by themselves, and with an intermediate that was put there."""
    import json

    from evlm.models.zoo import resolve
    from evlm.reason.backbone import load_backbone

    from . import accuracy, forced, results

    if options.judge:
        raise ConfigError("--forced counts exact answers; leave out --judge, or ask judges in another run")
    learner = accuracy.as_learner(load_backbone(resolve(options.base, "reasoner"), options.adapter))
    with _bar(len(questions), "questions") as bar:
        answer, parts = forced.begun(learner, options.tokens), learner.style.parts
        found = forced.force(answer, questions, bar.update, parts=parts)
    lines = accuracy.summary(found.own, options.seed)
    title = _title(options, len(questions))
    text = f"{title}\n\n{results.table(lines)}\n\nWith a forced intermediate:\n\n{forced.table(found)}\n"
    print(text, end="")
    if options.out is not None:
        said = "".join(json.dumps(row) + "\n" for row in forced.rows(found))
        results.write(
            options.out,
            {"results.md": text, "results.csv": results.csv_text(lines), "forced.jsonl": said},
        )
    return 0


def _questions(options: argparse.Namespace) -> list[Question]:
    from .questions import dataset_questions, world_questions

    if not 0 <= options.lamp <= 1 or (options.lamp and options.data is not None):
        raise ConfigError(f"--lamp {options.lamp:g}: expected 0 to 1, and 0 for a dataset")
    if options.whatif and options.data is not None:
        raise ConfigError(f"--whatif {options.whatif:g}: of the world alone; a dataset is taken as it is")
    if options.paint is not None and options.data is not None:
        raise ConfigError("--paint: the reader knows the world's pictures alone; leave out --data")
    if options.data is not None:
        return dataset_questions(options.data, options.rows, options.seed, options.split)
    rows = ROWS if options.rows is None else options.rows
    mix = Mix(whatif=options.whatif) if options.whatif else None
    return world_questions(rows, options.seed, options.split, options.lamp, mix)


def _painter(options: argparse.Namespace) -> Any:
    """What carries plans out; None where nothing is painted. Raises ModelError."""
    if options.paint is None:
        return None
    from .painted import load

    return load(options.paint or ["bundled"])


def _panel(options: argparse.Namespace) -> Panel | None:
    """The judges, checked before the model is asked anything. Raises ConfigError, EndpointError."""
    if not options.judge:
        return None
    from ..statistics import check_packages
    from .judges import Judge, Panel

    check_packages()
    file = options.verdicts or (options.out and options.out / "verdicts.jsonl")
    if not file:
        raise ConfigError("--judge needs --out or --verdicts: a place where the judges' answers are kept")
    return Panel([Judge(url, model) for url, model in options.judge], file)


def _title(options: argparse.Namespace, count: int) -> str:
    model = str(options.base) + (f" with {options.adapter}" if options.adapter else "")
    lamp = f" under a lamp of {options.lamp:g}" if options.lamp else ""
    causes = f", {options.whatif:.0%} of them causes" if options.whatif else ""
    where = f"dataset {options.data}" if options.data else f"world{lamp}{causes}"
    return (
        f"{model}: {count:,} questions of the {where}, split {options.split}, seed {options.seed}; each mean "
        "with its 95 % interval"
    )


def _bar(total: int, what: str) -> Any:
    """A bar on stderr where a person is watching."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit="", file=sys.stderr, disable=None)
