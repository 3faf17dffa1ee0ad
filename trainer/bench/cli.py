"""`python -m trainer bench NAME --data FOLDER --out OUT`: a benchmark of reasoning edits over a local copy.

First the edited pictures, in the benchmark's own layout, so that its own script can judge them as well;
then the judge; then the table, in which two floors stand beside the models: `copy` edits nothing, `other`
shows another item's picture. Each part goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evlm.errors import ConfigError, RefusalError, TraceError

if TYPE_CHECKING:
    from ..evaluation.graded import Graders
    from .base import Bench, Item
    from .editors import Editor

BENCHES = {
    "rise": "rise Rise",
    "kris": "kris Kris",
    "gedit": "gedit GEdit",
    "imgedit": "imgedit ImgEdit",
    "complexedit": "complexedit ComplexEdit",
    "reasonedit": "pixels ReasonEdit",
    "pairs": "pixels Pairs",
}
OF_WORLD = {"rise": "world WorldRise", "pairs": "world WorldPairs"}
FLOORS = ("copy", "other")
WORK = "work"  # in OUT: what tables hold, and the judge's answers


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("bench", choices=BENCHES, help="which benchmark")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="its local copy")
    parser.add_argument(
        "--world",
        type=int,
        metavar="N",
        help="rise, pairs: in its place N items of the procedural world, made by --seed; its exact reader "
        "judges them where no --judge does",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="pictures, answers, table")
    parser.add_argument(
        "--edits",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a model whose pictures are there already; may be given several times",
    )
    parser.add_argument(
        "--chain",
        nargs="+",
        metavar="MODEL",
        help="this pack's chain, models as `evlm edit --models` takes them",
    )
    parser.add_argument("--comfyui", metavar="URL", help="a ComfyUI server that edits, by --workflow")
    parser.add_argument(
        "--workflow",
        type=Path,
        metavar="FILE",
        help="its workflow in API form, with {picture} and {instruction} where they belong",
    )
    parser.add_argument(
        "--judge", nargs=2, metavar=("URL", "MODEL"), help="a model at an OpenAI-compatible endpoint"
    )
    parser.add_argument(
        "--clip",
        type=Path,
        metavar="FOLDER",
        help="pairs, reasonedit: a CLIP on this disk, for what it says of pictures and captions",
    )
    parser.add_argument("--dino", type=Path, metavar="FOLDER", help="pairs: a DINO on this disk, likewise")
    parser.add_argument("--generate-only", action="store_true", help="the pictures alone")
    parser.add_argument("--judge-only", action="store_true", help="no pictures; those must be there")
    parser.add_argument("--limit", type=int, metavar="N", help="N items, stratified, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of that and of the intervals (0)")
    parser.add_argument(
        "--as-published", action="store_true", help="with the known faults of the benchmark's own script"
    )


def run(options: argparse.Namespace) -> int:
    """Makes pictures, asks, prints the table. Raises EVLMError."""
    from ..config.arguments import SEEDS, check_folder, check_whole
    from ..protocol.table import markdown
    from .made_by import claim

    check_whole("--limit", options.limit)
    check_whole("--seed", options.seed, *SEEDS)
    check_folder("--out", options.out)
    if bool(options.comfyui) != bool(options.workflow):
        raise ConfigError("--comfyui and --workflow: expected both or none")
    data = _data(options)
    bench: Any = bench_of(options.bench, options.as_published, options.world is not None)
    if options.clip is not None:
        if not hasattr(bench, "clip"):
            raise ConfigError(f"--clip: {bench.name} has no CLIP score; pairs and reasonedit have")
        from .clip_score import ClipScore

        bench.clip = ClipScore(options.clip)
    if options.dino is not None:
        if not hasattr(bench, "dino"):
            raise ConfigError(f"--dino: {bench.name} has no DINO score; pairs has")
        from .clip_score import DinoScore

        bench.dino = DinoScore(options.dino)
    items = bench.items(data, options.out / WORK / "originals")
    items = chosen(items, options.limit, options.seed)
    models = _models(options, bench)
    if not options.judge_only:
        for name, what in _makers(options).items():
            pictures = [options.out / bench.place(name, item) for item in items]
            claim(options.out / WORK / "made-by" / f"{name}.json", name, what, pictures)
        copied = models.keys() - {"chain", "comfyui", *FLOORS}
        for name, editor in models.items():
            generate(bench, name, editor, items, options.out, again=name in copied)
    if options.generate_only:
        return 0
    scores, unread = judged(bench, list(models), items, options.out, _graders(options, bench, items))
    table = table_of_models(bench, items, scores, unread, options.seed)
    from ..evaluation.results import write

    write(options.out, {f"tables/{name}": text for name, text in table.files().items()})
    print(markdown(table))
    return 0


def bench_of(name: str, as_published: bool = False, world: bool = False) -> Bench:
    """The benchmark of a name in BENCHES; world: made from the world, one of OF_WORLD."""
    module, kind = (OF_WORLD if world else BENCHES)[name].split()
    found: Bench = getattr(import_module(f".{module}", __package__), kind)(as_published)
    return found


def chosen(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """All items, or the first of `questions.stratified`'s order, in the benchmark's own."""
    from ..evaluation.questions import stratified

    if limit is None or limit >= len(items):
        return list(items)
    return [items[at] for at in sorted(stratified([(item.stratum,) for item in items], seed)[:limit])]


def generate(
    bench: Bench, name: str, editor: Editor | None, items: Sequence[Item], out: Path, again: bool = False
) -> None:
    """The pictures of a model that are not there yet, or all of them `again`; editor: None for a floor. An
    item that a chain cannot read keeps its original, and is noted beside it. Raises EVLMError."""
    from evlm.files.pictures import write_atomically

    for at, item in enumerate(_bar(items, name)):
        file = out / bench.place(name, item)
        if file.is_file() and not again:
            continue
        try:
            data = _floor(name, items, at) if editor is None else editor(item)
        except (TraceError, RefusalError) as error:
            data, why = item.originals[0].read_bytes(), str(error).encode()
            write_atomically(_failed(file), partial(_put, why))
        write_atomically(file, partial(_put, _png(data)))


def judged(
    bench: Bench, models: Sequence[str], items: Sequence[Item], out: Path, graders: Graders | None
) -> tuple[dict[str, list[dict[str, float]]], dict[str, dict[str, int]]]:
    """(each model's values of each item, {"no score", "no answer", "no edit"} of each model).
    Raises EVLMError."""
    scores: dict[str, list[dict[str, float]]] = {}
    counts: dict[str, dict[str, int]] = {}
    measure = getattr(bench, "measure", None)
    for name in models:
        files = [out / bench.place(name, item) for item in items]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise ConfigError(
                f"{missing[0]}: it is not there, and {len(missing) - 1} more are not; make them first"
            )
        asks = [bench.asks(item, file) for item, file in zip(items, files, strict=True)]
        flat = [(at, key, ask) for at, each in enumerate(asks) for key, ask in each.items()]
        answers: list[dict[str, float]] = [{} for _ in items]
        unread = silent = 0
        read = getattr(bench, "read", None)  # an exact reader, where there is no judge
        if graders is None and read is not None:
            answers = [dict(read(item, file)) for item, file in zip(items, files, strict=True)]
        if graders is not None:
            with _counting(len(flat), f"{name}: scores") as report:
                found = graders.scores([ask for _, _, ask in flat], report)
            for (at, key, ask), given in zip(flat, found, strict=True):
                unread += given is None
                silent += given == {}
                for dimension, value in (given or {}).items():
                    answers[at][key if len(ask.names) == 1 else dimension] = value
        scores[name] = [bench.score(item, given) for item, given in zip(items, answers, strict=True)]
        if measure is not None:
            for each, item, file in zip(scores[name], items, files, strict=True):
                each |= measure(item, file)
        plain = sum(_failed(file).is_file() for file in files)
        counts[name] = {"no score": unread, "no answer": silent, "no edit": plain}
    return scores, counts


def table_of_models(
    bench: Bench,
    items: Sequence[Item],
    scores: Mapping[str, Sequence[Mapping[str, float]]],
    counts: Mapping[str, Mapping[str, int]],
    seed: int,
) -> Any:
    """Models and floors by figures, as a `protocol.table.Table`."""
    from ..protocol.draws import Draws
    from ..protocol.table import Table, number
    from .base import table_of

    draws, rows, head = Draws(len(items), seed), [], ["model"]
    for name, own in scores.items():
        found = table_of(bench, items, own, draws)
        head = ["model", *(figure.title for figure, _ in found), "no score", "no answer", "no edit"]
        rows.append(
            [
                name,
                *(number(each, figure.places) for figure, each in found),
                *(str(counts[name][what]) for what in ("no score", "no answer", "no edit")),
            ]
        )
    notes = [
        f"{len(items):,} items; 95 % intervals of 10,000 draws of the items. copy: the original as it was; "
        "other: another item's picture; their figures tell whether a judge looks. no score: answers that "
        "could not be read twice; no answer: the judge's server gave none; no edit: the chain wrote no plan, "
        "and the original stands."
    ]
    if bench.as_published:
        notes.append("As published: with the known faults of the benchmark's own script.")
    return Table(bench.name, f"{bench.name}: {len(rows)} rows", head, rows, notes=notes)


def _models(options: argparse.Namespace, bench: Bench) -> dict[str, Editor | None]:
    """Names of models and where their pictures come from, floors last. Raises ConfigError."""
    from .editors import ComfyUI, of_chain, of_folder

    found: dict[str, Editor | None] = {}
    for text in options.edits:
        name, sign, given = text.partition("=")
        folder = Path(given).expanduser()  # a shell leaves NAME=~/x as it is
        if not sign or not name.strip() or "/" in name or not folder.is_dir():
            raise ConfigError(f"--edits {text!r:.120}: expected NAME=FOLDER, a folder that is there")
        if name in found or (name in ("chain", "comfyui") and getattr(options, name)):
            raise ConfigError(f"--edits {text!r:.120}: a model {name!r:.80} is there already; rename it")
        found[name] = of_folder(folder, lambda item: bench.place("model", item))
    if options.chain:
        found["chain"] = None if options.judge_only else of_chain(options.chain, options.seed)
    if options.comfyui:
        found["comfyui"] = None if options.judge_only else ComfyUI(options.comfyui, options.workflow)
    taken = [name for name in found if name in FLOORS or name == WORK or name == "tables" or name[0] == "."]
    if taken:
        raise ConfigError(f"--edits {taken[0]!r:.80}: choose another name")
    return {**found, **dict.fromkeys(FLOORS)}


def _makers(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What makes the pictures that are made here. Raises ConfigError, ModelError."""
    from .made_by import of_chain, of_workflow

    found = {}
    if options.chain:
        found["chain"] = of_chain(options.chain, options.seed)
    if options.comfyui:
        found["comfyui"] = of_workflow(options.workflow)
    return found


def _data(options: argparse.Namespace) -> Path:
    """Where the benchmark lies; one of the world is made first. Raises ConfigError."""
    from ..config.arguments import check_whole

    if (options.data is None) is (options.world is None):
        raise ConfigError("expected --data FOLDER, or --world N for a benchmark that is made from the world")
    if options.world is None:
        if not options.data.is_dir():
            raise ConfigError(f"--data {str(options.data)!r:.120}: expected a folder")
        return Path(options.data)
    if options.bench not in OF_WORLD:
        raise ConfigError(f"--world: {options.bench} cannot be made from it; {' and '.join(OF_WORLD)} can")
    check_whole("--world", options.world, 1, 100_000)
    from .world import write

    made: Path = options.out / WORK / "world"
    write(options.bench, made, options.world, options.seed)
    return made


def _graders(options: argparse.Namespace, bench: Bench, items: Sequence[Item]) -> Graders | None:
    if options.judge is None:
        if not hasattr(bench, "measure") and not hasattr(bench, "read"):
            raise ConfigError(
                f"--judge URL MODEL: {bench.name} is judged; or --generate-only for the pictures"
            )
        return None
    from ..evaluation.graded import Graders
    from ..evaluation.judges import Judge

    return Graders(Judge(*options.judge), options.out / WORK / "scores.jsonl")


def _floor(name: str, items: Sequence[Item], at: int) -> bytes:
    """The item's own original, or that of the next item which has another one."""
    own = items[at].originals[0]
    if name == "copy":
        return own.read_bytes()
    others = (items[(at + step) % len(items)].originals[0] for step in range(1, len(items)))
    return next((other for other in others if other != own), own).read_bytes()


def _png(data: bytes) -> bytes:
    """A picture's bytes as PNG. Raises ConfigError where they are none."""
    from PIL import Image

    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    file = BytesIO()
    try:
        Image.open(BytesIO(data)).convert("RGB").save(file, "PNG")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"an edited picture cannot be read ({error!s:.120})") from None
    return file.getvalue()


def _put(data: bytes, file: Any) -> None:
    file.write(data)


def _failed(file: Path) -> Path:
    return file.with_name(f"{file.stem}.no-edit.txt")


def _bar(items: Sequence[Item], what: str) -> Any:
    from tqdm import tqdm

    return tqdm(items, desc=what, unit="", file=sys.stderr, disable=None)


def _counting(total: int, what: str) -> Any:
    from ..protocol.cli import bar

    return bar(total, what)
