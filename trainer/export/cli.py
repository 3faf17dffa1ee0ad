"""`python -m trainer export RUN_OR_ADAPTER OUT --to adapter|peft|merged`: what was learned, in the form that
another program takes."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from evlm.adapter.checkpoint import Expected, load_adapter, save_adapter
from evlm.errors import CheckpointError
from evlm.models.safetensors_file import read_header
from evlm.models.zoo import find, resolve

from ..model.skeleton import skeleton
from .adapter_source import Learned, alone, fitted, read_learned
from .merge import merge
from .serving import serving


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN_OR_ADAPTER",
        help="folder of a run, finished or not; an adapter's .safetensors file; or a PEFT folder",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the file or folder that is written")
    parser.add_argument(
        "--to",
        choices=sorted(FORMS),
        required=True,
        help="adapter: one file for Load EVLM and --adapter; peft: a folder for peft.PeftModel; merged: a "
        "Hugging Face folder with the adapter in its weights",
    )
    parser.add_argument(
        "--base", metavar="MODEL", help="the backbone, where it is not what the adapter names"
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export")


def run(args: argparse.Namespace) -> int:
    """Raises CheckpointError, ModelError."""
    learned = read_learned(args.source, args.base)
    out = args.out.resolve() if args.out.name in ("", "..") else args.out  # "." has no name for a server
    try:
        FORMS[args.to](learned, out, args.force)
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{out} cannot be written ({reason}); nothing is left of it") from error
    size = sum(f.stat().st_size for f in ([out] if out.is_file() else out.iterdir()))
    print(f"{out}: {args.to}, {size / 1e6:,.1f} MB, of {learned.base}")
    print("\n".join(["how a server gets it (docs/models.md):", *serving(args.to, out, learned)]))
    return 0


def write_adapter(learned: Learned, out: Path, force: bool = False) -> None:
    """The single file that the nodes and `--adapter` load. Raises CheckpointError."""
    learned = alone(learned)
    if out.exists() and not (force and _is_ours(out)):
        remedy = "it is no adapter of ours, so --force leaves it alone" if force else "or use --force"
        raise CheckpointError(f"{out} exists; choose another name, {remedy}")
    save_adapter(out, learned.tensors, learned.meta)


def write_peft(learned: Learned, out: Path, force: bool = False) -> None:
    """A folder that peft.PeftModel.from_pretrained loads; what only we know is in its file's metadata. Raises
    CheckpointError."""
    learned = alone(learned)
    known = find(learned.base)
    settings = {
        **learned.meta.lora.to_peft(),
        "base_model_name_or_path": known.repo if known else learned.base,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "lora_dropout": 0.0,
        "bias": "none",
    }
    with _whole_folder(out, ("adapter_config.json",), force) as folder:
        save_adapter(folder / "adapter_model.safetensors", learned.tensors, learned.meta)
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def write_merged(learned: Learned, out: Path, force: bool = False) -> None:
    """The backbone's folder again with the adapter added to its weights, its processor and an evlm.json.
    Raises CheckpointError, ModelError."""
    base = resolve(learned.base, "reasoner")
    if base.resolve().is_relative_to(out.resolve()):
        raise CheckpointError(f"{out} holds the backbone itself; choose another folder")
    expect = Expected.of(skeleton(base))
    layers = [] if learned.below is None else [load_adapter(learned.below, expect)]
    layers.append(fitted(learned, expect))
    with _whole_folder(out, ("config.json", "evlm.json"), force) as folder:
        merge(base, layers, expect.shapes, folder)


FORMS: dict[str, Callable[[Learned, Path, bool], None]] = {
    "adapter": write_adapter,
    "peft": write_peft,
    "merged": write_merged,
}


def _is_ours(file: Path) -> bool:
    try:
        return file.is_file() and "evlm.format_version" in read_header(file).metadata
    except CheckpointError:
        return False


@contextmanager
def _whole_folder(out: Path, marks: tuple[str, ...], force: bool) -> Iterator[Path]:
    """A folder to write into, which takes the place of `out` when all is written. With `force` it replaces a
    folder that holds the files `marks`, and no other. An empty folder stays what it is (the current one, a
    disk that is mounted there) and gets the files, `marks` last."""
    filled = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if filled and not (force and all((out / name).is_file() for name in marks)):
        remedy = f"it has no {' and '.join(marks)}, so --force leaves it alone" if force else "or use --force"
        raise CheckpointError(f"{out} is there already; choose another folder, {remedy}")
    out = Path(os.path.realpath(out))  # behind a link it is written to the disk that the link leads to
    out.parent.mkdir(parents=True, exist_ok=True)
    empty = out.exists() and not filled
    fresh = (out if empty else out.parent) / f".{out.name}.{os.getpid()}.tmp"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        yield fresh
        for file in fresh.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        if empty:
            for file in sorted(fresh.iterdir(), key=lambda each: each.name in marks):
                file.rename(out / file.name)
            return
        old = out.with_name(f".{out.name}.{os.getpid()}.old")
        if out.exists():
            out.rename(old)
        fresh.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
