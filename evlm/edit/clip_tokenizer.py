"""CLIP's tokenizer from its merges alone: the vocabulary follows from them, and is .86 MB."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..errors import ModelError

ENDS_A_WORD = "</w>"
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def clip_vocabulary(merges: Path) -> dict[str, int]:
    """Token -> id, as in the vocab.json that OpenAI publishes beside a merges.txt: the 256 bytes, the same as
    ends of words, the merges in their order, two special tokens."""
    lines = merges.read_text("utf-8").splitlines()[1:]  # the first names a version
    made = ["".join(line.split()) for line in lines if line]
    bytes_ = _byte_letters()
    tokens = [*bytes_, *(letter + ENDS_A_WORD for letter in bytes_), *made, *SPECIAL]
    return {token: number for number, token in enumerate(tokens)}


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder of a diffusers model; CLIP's without a vocab.json, too. Raises ModelError."""
    from transformers import AutoTokenizer

    held = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    try:
        if "merges.txt" not in held or held & {"vocab.json", "tokenizer.json"}:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with tempfile.TemporaryDirectory(prefix="evlm-clip-") as name:
            for file in ("merges.txt", "tokenizer_config.json"):
                shutil.copyfile(folder / file, Path(name) / file)
            words = json.dumps(clip_vocabulary(folder / "merges.txt"))
            (Path(name) / "vocab.json").write_text(words, "utf-8")
            return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: the tokenizer does not load: {error}") from error


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte, printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(256, 256 + rest))]
