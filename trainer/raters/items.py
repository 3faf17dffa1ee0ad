"""Rows as items: what of a row a rater may see, its pictures by number, and items whose answer is known."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evlm.errors import ConfigError, MaskTextError, PictureError, RecordError
from evlm.files.safe_paths import inside
from evlm.masks import union_of
from evlm.plan.mask_codec import decode_mask
from evlm.records import Row

from ..data.files import OnProblem, parse, read, unicode_problems
from .store import Store

if TYPE_CHECKING:
    from torch import Tensor

KNOWN = "known.jsonl"
_WITHOUT_END = 1_000_000_000  # votes that a gold item may get: every rater meets it
_MASK = 256  # pixels a side of a mask that is drawn from its text
_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


def load_items(store: Store, folder: Path, wanted: int, seed: int, on_problem: OnProblem) -> dict[str, int]:
    """Takes the dataset's rows in, in an order that says nothing; again after the dataset has grown.

    wanted: votes an item, 1..99. known.jsonl in the folder names rows with a known answer, one a line:
    {"id", "yes", "why", "training"}. A row that changed keeps its item as long as nobody has voted on it;
    else it is a new one, and what was said of the old one is kept and counts no more. Whoever holds an item
    that changed does not hold it any longer.
    Returns how many items there are of each kind. Raises RecordError, ConfigError.
    """
    known = _known(folder / KNOWN)
    rows = {row.id: row for _, row in read(folder, on_problem, check_files=False)}
    strange = sorted(set(known) - set(rows))
    if strange:
        raise ConfigError(f"{folder / KNOWN}: {strange[0]!r:.80} is no row of {folder}")
    ranked = sorted(rows.values(), key=lambda row: _rank(row.id, seed))  # ids are handed out in this order
    with store.write() as sql:
        there = {row["row_id"]: row for row in sql.execute("SELECT id, row_id, view, kind FROM item")}
        voted = {row["item"] for row in sql.execute("SELECT DISTINCT item FROM vote WHERE undone = 0")}
        sql.execute("UPDATE item SET kind = 'gone'")
        for row in ranked:
            view, answer = json.dumps(view_of(row)), known.get(row.id, {})
            old = there.get(row.id)
            if old and old["view"] != view and old["id"] in voted:
                was = f"{row.id} (item {old['id']}, before it changed)"
                sql.execute("UPDATE item SET row_id = ? WHERE id = ?", (was, old["id"]))
            kind = "edit" if not answer else "training" if answer.get("training") else "gold"
            sql.execute(
                "INSERT INTO item(row_id, kind, rank, wanted, gold, why, view) VALUES(?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT(row_id) DO UPDATE SET kind = excluded.kind, wanted = excluded.wanted, "
                "gold = excluded.gold, why = excluded.why, view = excluded.view",
                (row.id, kind, _rank(row.id, seed), wanted if kind == "edit" else _WITHOUT_END,
                 int(answer["yes"]) if answer else None, answer.get("why", ""), view),
            )  # fmt: skip
        for item in sql.execute("SELECT id, row_id, kind, view FROM item").fetchall():
            old = there.get(item["row_id"])
            if old is None or (old["id"], old["kind"], old["view"]) != (
                item["id"],
                item["kind"],
                item["view"],
            ):
                sql.execute("DELETE FROM lease WHERE item = ?", (item["id"],))
        counts = sql.execute("SELECT kind, count(*) AS many FROM item GROUP BY kind").fetchall()
    return {row["kind"]: row["many"] for row in counts}


def view_of(row: Row) -> dict[str, Any]:
    """What the page shows of a row, pictures as numbers into `row.paths()` order: nothing of its source, its
    model, its label or the votes of others. `paths` stays on the server."""
    paths: list[str] = []

    def numbers(of: Any) -> list[int]:
        paths.extend(of)
        return list(range(len(paths) - len(of), len(paths)))

    texts = [step.get("mask_text") for step in row.steps] or [row.mask_text]
    masks = [step["mask"] for step in row.steps if step.get("mask")] or ([row.mask] if row.mask else [])
    return {
        "prompt": row.prompt,
        "instruction": row.instruction or row.answer or "",
        "trace": [
            [name, getattr(row, name)]
            for name in ("thinking", "intermediate", "reflection")
            if getattr(row, name)
        ],
        "fps": row.fps,
        "original": numbers(row.original),
        "edited": numbers(row.edited),
        "references": [
            {
                "kind": each["kind"],
                "text": each.get("text") or "",
                "note": each.get("note") or "",
                "fps": each.get("fps"),
                "frames": numbers(each.get("frames") or ()),
            }
            for each in row.references
        ],
        "masked": bool(masks or any(texts)),
        "paths": paths,
        "masks": masks,
        "mask_texts": [text for text in texts if text],
    }


HIDDEN = ("paths", "masks", "mask_texts")  # of a view, never sent


def picture(folder: Path, view: dict[str, Any], number: int) -> tuple[bytes, str]:
    """A picture's bytes and type; what no browser shows becomes PNG. Raises RecordError, PictureError."""
    from evlm.files.pictures import load_picture, open_image, to_pil

    if not 0 <= number < len(view["paths"]):
        raise RecordError(f"picture {number}: the item has {len(view['paths'])}")
    name = view["paths"][number]
    path = inside(folder, name)
    if path.exists() and not path.is_file():  # a named pipe would be waited for without an end
        raise PictureError(f"{name}: no file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PictureError(f"{name}: {error.strerror or error}") from error
    kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    if kind:
        try:
            open_image(BytesIO(data)).close()  # a beginning alone would be a broken picture on the page
        except PictureError as error:
            raise PictureError(f"{name}: {error}") from error
        return data, kind
    buffer = BytesIO()
    to_pil(load_picture(path)[0]).save(buffer, "PNG")
    return buffer.getvalue(), "image/png"


def mask_picture(folder: Path, view: dict[str, Any]) -> bytes:
    """The mask, of several steps their union, as a grey PNG. Raises RecordError, PictureError."""
    from evlm.files.pictures import load_mask, to_pil

    if view["masks"]:
        masks = _of_one_size([load_mask(inside(folder, each)).amax(0) for each in view["masks"]])
    else:
        masks = []
        for text in view["mask_texts"]:
            try:
                masks.append(decode_mask(text, _MASK, _MASK).float())
            except MaskTextError as error:
                raise RecordError(f"mask: {error}") from None
    union = union_of(masks) if masks else None
    if union is None:
        raise RecordError("the item has no mask")
    buffer = BytesIO()
    to_pil(union[..., None].expand(-1, -1, 3)).convert("L").save(buffer, "PNG")
    return buffer.getvalue()


def _of_one_size(masks: list[Tensor]) -> list[Tensor]:
    """[H, W] each, of the largest one's size."""
    from torch.nn.functional import interpolate

    size = max((tuple(mask.shape) for mask in masks), key=math.prod)
    return [mask if mask.shape == size else interpolate(mask[None, None], size)[0, 0] for mask in masks]


def _known(file: Path) -> dict[str, dict[str, Any]]:
    """By row id: {yes, why, training} of each line. Raises ConfigError."""
    return dict(_known_lines(file)) if file.is_file() else {}


def _known_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    seen: dict[str, int] = {}
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = parse(line)
        except RecordError as error:
            raise ConfigError(f"{file}, line {number}: {error}") from None
        kinds = {"id": str, "yes": bool, "why": str, "training": bool}
        good = isinstance(data, dict) and {"id", "yes"} <= set(data) <= set(kinds)
        if not good or not all(isinstance(value, kinds[name]) for name, value in data.items()):
            raise ConfigError(
                f'{file}, line {number}: {line[:80]!r}; expected {{"id": a row, "yes": true or false}}, '
                'and if you like "why": words, "training": true or false'
            )
        if wrong := unicode_problems(data):
            raise ConfigError(f"{file}, line {number}: {'; '.join(wrong)}")
        if data["id"] in seen:
            raise ConfigError(
                f"{file}, line {number}: {data['id']!r:.80} was said on line {seen[data['id']]}"
            )
        seen[data["id"]] = number
        yield data["id"], data


def _rank(row: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}|{row}".encode(), digest_size=6).digest(), "big")
