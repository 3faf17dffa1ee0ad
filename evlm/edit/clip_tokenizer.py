"""CLIP's tokenizer from its merges alone: the vocabulary follows from them, and is .86 MB. Ours are packed
(merges.txt.gz, .2 MB of .5)."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

from ..errors import ModelError

MERGES, MOST = "merges.txt", 16_000_000  # and bytes of one
ENDS_A_WORD = "</w>"
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def clip_vocabulary(merges: str) -> dict[str, int]:
    """Token -> id, as in the vocab.json that OpenAI publishes beside a merges.txt of these contents: the 256
    bytes, the same as ends of words, the merges in their order, two special tokens."""
    lines = merges.splitlines()[1:]  # the first names a version
    made = ["".join(line.split()) for line in lines if line]
    bytes_ = _byte_letters()
    tokens = [*bytes_, *(letter + ENDS_A_WORD for letter in bytes_), *made, *SPECIAL]
    return {token: number for number, token in enumerate(tokens)}


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder of a diffusers model; CLIP's without a vocab.json, too. Raises ModelError."""
    from transformers import AutoTokenizer

    held = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    try:
        if not held & {MERGES, f"{MERGES}.gz"} or held & {"vocab.json", "tokenizer.json"}:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        merges = read_merges(folder)
        with tempfile.TemporaryDirectory(prefix="evlm-clip-") as name:
            shutil.copyfile(folder / "tokenizer_config.json", Path(name) / "tokenizer_config.json")
            (Path(name) / MERGES).write_text(merges, "utf-8")
            (Path(name) / "vocab.json").write_text(json.dumps(clip_vocabulary(merges)), "utf-8")
            return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
        raise ModelError(f"{folder}: the tokenizer does not load: {error}") from error


def read_merges(folder: Path) -> str:
    """A tokenizer's merges, plain or packed. Raises OSError, EOFError, ValueError, zlib.error."""
    if (folder / MERGES).is_file():
        return (folder / MERGES).read_text("utf-8")
    with gzip.open(folder / f"{MERGES}.gz") as packed:
        data = packed.read(MOST + 1)
    if len(data) > MOST:
        raise ValueError(f"{MERGES}.gz unpacks to more than {MOST:,} bytes")
    return data.decode("utf-8")


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte, printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(256, 256 + rest))]
