"""Benchmarks that need no judge: the edited picture against the one that is known to be right.

pairs: DATA/pairs.jsonl, {original, edited, instruction, ...} as `data make` takes a folder's, with a caption
and a scenario where there are any. reasonedit: SmartEdit's ReasonEdit set, six folders and their lists of
instructions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evlm.errors import ConfigError
from evlm.files.pictures import load_picture, opened

from ..evaluation.graded import Ask
from .base import PICTURES, Answers, Figure, Item, inside_of

if TYPE_CHECKING:
    from .clip_score import ClipScore, DinoScore

FOLDERS = {
    "1-Left-Right": "Left_Right_text.txt",
    "2-Relative-Size": "Size_text.txt",
    "3-Mirror": "Mirror_text.txt",
    "4-Color": "Color_text.txt",
    "5-Multiple-Objects": "MultipleObjects_text.txt",
    "6-Reasoning": "Reason_test.txt",
}
SIDE = 256  # pixels a side, of ReasonEdit's figures
_SCALE = "1: yes; 0: no."
_ALIGNED = "Does the second picture show what the instruction asks for, done to the right thing?"
_FOLLOWS = (
    "The first picture is a scene, and the words tell what happens, or what is asked. Does the second "
    "picture show what would follow?"
)
SAMPLES = 5  # answers to that, of which the share of yes counts


class Pairs:
    """L1 and L2 between the edited picture and the right one, in shares of the range, at the right one's
    size. clip: CLIP-I, of the edited picture and the right one; where a line has a caption of what is right,
    the CLIP score of the edited one and that, and where it has one of the original too, CLIP-dir. dino: of
    the edited picture and the right one. With a judge: Ins-Align (of SmartEdit, where people say it) and MLLM
    score (of EditWorld, whose words are not published; these are ours)."""

    name = "pairs"

    def __init__(self, as_published: bool = False) -> None:
        self.as_published = as_published
        self.clip: ClipScore | None = None
        self.dino: DinoScore | None = None
        self.judged = False  # until a judge has answered

    def items(self, folder: Path, work: Path) -> list[Item]:
        file = folder / "pairs.jsonl"
        if not file.is_file():
            raise ConfigError(f"{folder}: expected pairs.jsonl, a line a pair: original, edited, instruction")
        found = []
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
            try:
                data = json.loads(line)
                prompt = str(data["instruction"])
                shown, right = data["original"], data.get("edited")
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise ConfigError(
                    f"{file}, line {number + 1}: expected original and instruction ({type(error).__name__})"
                ) from None
            if right is None or not (folder / str(shown)).is_file():
                continue  # a clip, or one that nobody edited
            found.append(
                Item(
                    f"{number:05d}",
                    str(data.get("scenario") or data.get("edit_type") or "all"),
                    (inside_of(folder, shown),),
                    prompt,
                    {
                        "right": inside_of(folder, right),
                        "caption": _caption(data, AFTER),
                        "was": _caption(data, BEFORE),
                    },
                )
            )
        if not found:
            raise ConfigError(f"{file}: no line has an original picture and an edited one")
        return found

    def place(self, model: str, item: Item) -> Path:
        return Path(model) / f"{item.id}.png"

    def asks(self, item: Item, edited: Path) -> dict[str, Ask]:
        shown = (f"Instruction: {item.prompt}", item.originals[0], edited, _SCALE)
        follows = {
            f"follows {turn}": Ask((_FOLLOWS, *shown), ("follows",), 0, 1, repeat=turn, sampled=True)
            for turn in range(SAMPLES)
        }
        return {"aligned": Ask((_ALIGNED, *shown), ("aligned",), 0, 1), **follows}

    def measure(self, item: Item, edited: Path) -> dict[str, float]:
        """Without a judge."""
        right = load_picture(item.more["right"])
        made = resized(load_picture(edited), right.shape[1:3])
        apart = (made[..., :3] - right[..., :3]).double()
        found = {"l1": float(apart.abs().mean()), "l2": float((apart**2).mean())}
        now, was = item.more["caption"], item.more["was"]
        if self.clip is not None:
            found["clip_i"] = self.clip.alike(edited, item.more["right"])
            if now:
                found["clip"] = self.clip(edited, now)
            if now and was:
                found["clip_dir"] = self.clip.direction(item.originals[0], edited, was, now)
        if self.dino is not None:
            found["dino"] = self.dino.alike(edited, item.more["right"])
        return found

    def score(self, item: Item, answers: Answers) -> dict[str, float]:
        found = {"aligned": answers["aligned"]} if "aligned" in answers else {}
        yes = [value for name, value in answers.items() if name.startswith("follows")]
        self.judged |= bool(answers)
        return {**found, **({"follows": sum(yes) / len(yes)} if yes else {})}

    def figures(self, items: Sequence[Item]) -> list[Figure]:
        kinds = list(dict.fromkeys(item.stratum for item in items))
        columns = [("L1", "l1"), ("L2", "l2")]
        if self.clip is not None:
            captions = [each.more["caption"] for each in items]
            both = [now and each.more["was"] for now, each in zip(captions, items, strict=True)]
            columns += [("CLIP score", "clip")] * any(captions) + [("CLIP-I", "clip_i")]
            columns += [("CLIP-dir", "clip_dir")] * any(both)
        columns += [("DINO", "dino")] * (self.dino is not None)
        columns += [("Ins-Align", "aligned"), ("MLLM score", "follows")] * self.judged
        found = [Figure(title, value, places=4) for title, value in columns]
        by_kind = [each for each in columns if each[0] != "L2"] if len(kinds) > 1 else []
        found += [
            Figure(f"{title}, {each}", value, (each,), places=4) for title, value in by_kind for each in kinds
        ]
        return found


AFTER = ("caption", "target_caption", "edited_caption", "output_caption")
BEFORE = ("source_caption", "original_caption", "input_caption")


def _caption(data: dict[str, Any], names: Sequence[str]) -> str:
    """What a picture shows or should show, in words, under the names that sets have for it."""
    said = (data.get(name) for name in names)
    return next((each.strip() for each in said if isinstance(each, str) and each.strip()), "")


class ReasonEdit:
    """PSNR, SSIM and MSE of what lies outside the mask, against the original, at 256 pixels a side, as its
    script has them (test/metrics_evaluation.py at a65f126: pictures by bicubic, the mask by nearest pixels
    and in shares); of all folders but the last, "understanding", and of that, "reasoning". Whether a judge
    says that the edit is the one that was asked for (Ins-align, which people give there). clip: of the mask's
    box of the edited picture and the line's words, 0 to 100. As published equal pictures have an endless PSNR
    and not 100. LPIPS needs a network that is not here, and is left out."""

    name = "reasonedit"

    def __init__(self, as_published: bool = False) -> None:
        self.as_published = as_published
        self.clip: ClipScore | None = None

    def items(self, folder: Path, work: Path) -> list[Item]:
        found = []
        for start, texts in FOLDERS.items():
            # its script collects "...Reasoning-231115" and scores "6-Reasoning": either is taken
            place = next((each for each in sorted(folder.glob(f"{start}*")) if each.is_dir()), None)
            if place is None:
                continue
            listed = next((each for each in (place / texts, folder / texts) if each.is_file()), None)
            if listed is None:
                raise ConfigError(f"{place}: expected {texts} in it or beside it")
            lines = [line for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
            shown = sorted(
                (
                    each
                    for each in place.iterdir()
                    if each.suffix.lower() in PICTURES and not each.stem.endswith("_mask")
                ),
                key=lambda each: each.name,  # as its script pairs them with the lines
            )
            if len(lines) != len(shown):
                raise ConfigError(f"{listed}: {len(lines)} lines for {len(shown)} pictures")
            for picture, line in zip(shown, lines, strict=True):
                prompt, _, caption = line.partition("CLIP:")
                mask = next(
                    (
                        each
                        for suffix in PICTURES
                        if (each := place / f"{picture.stem}_mask{suffix}").is_file()
                    ),
                    None,
                )
                found.append(
                    Item(
                        f"{start}/{picture.stem}",
                        start,
                        (picture,),
                        prompt.strip(),
                        {"caption": caption.strip(), "mask": mask},
                    )
                )
        if not found:
            raise ConfigError(f"{folder}: expected folders like 1-Left-Right, as ReasonEdit has them")
        return found

    def place(self, model: str, item: Item) -> Path:
        return Path(model) / f"{item.id}.png"

    def asks(self, item: Item, edited: Path) -> dict[str, Ask]:
        words = (_ALIGNED, f"Instruction: {item.prompt}", item.originals[0], edited, _SCALE)
        return {"aligned": Ask(words, ("aligned",), 0, 1)}

    def measure(self, item: Item, edited: Path) -> dict[str, float]:
        if item.more["mask"] is None:
            return {}
        before, after = (_squared(each, "RGB") for each in (item.originals[0], edited))
        mask = _squared(item.more["mask"], "L")[..., 0]
        found = background(before, after, mask)
        words = item.more.get("caption")
        if self.clip is not None and words and (box := _box(mask)):
            found["clip"] = 100 * max(0.0, self.clip.of(_small(edited, "RGB").crop(box), words))
        return found if found["mse"] or not self.as_published else {**found, "psnr": math.inf}

    def score(self, item: Item, answers: Answers) -> dict[str, float]:
        found = dict(answers)
        if "aligned" in found:
            found["aligned"] *= 100
        return found

    @property
    def _columns(self) -> tuple[tuple[str, int], ...]:
        return (("PSNR", 2), ("SSIM", 4), ("MSE", 5), *((("CLIP", 2),) * (self.clip is not None)))

    def figures(self, items: Sequence[Item]) -> list[Figure]:
        return [
            Figure("Ins-align", "aligned", places=1),
            *(
                Figure(f"{title}, {kind}", title.lower(), strata, places=places)
                for kind, strata in (("understanding", (*FOLDERS,)[:-1]), ("reasoning", (*FOLDERS,)[-1:]))
                if any(item.stratum in strata for item in items)
                for title, places in self._columns
            ),
        ]


def _squared(file: Path, mode: str) -> Tensor:
    """A picture or a mask as double [SIDE, SIDE, C] in 0..1, made as small by Pillow as there."""
    return torch.from_numpy(np.array(_small(file, mode), dtype=np.float64)).view(SIDE, SIDE, -1) / 255


def _small(file: Path, mode: str) -> Any:
    from PIL import Image

    how = Image.Resampling.BICUBIC if mode == "RGB" else Image.Resampling.NEAREST
    with opened(file) as image:
        return image.convert(mode).resize((SIDE, SIDE), resample=how)


def _box(mask: Tensor) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what the mask [H, W] covers, as the script cuts: without the last row and
    column. None where nothing is left."""
    y, x = np.nonzero(mask.numpy())
    if not len(x) or x.min() == x.max() or y.min() == y.max():
        return None
    return int(x.min()), int(y.min()), int(x.max()), int(y.max())


def background(before: Tensor, after: Tensor, mask: Tensor) -> dict[str, float]:
    """Of float [H, W, 3] in 0..1 outside the mask [H, W] in 0..1: both are black inside it, and all pixels
    count."""
    keep = (1 - mask.to(before.dtype))[..., None]
    a, b = before * keep, after * keep
    mse = float(((a - b) ** 2).mean())
    return {"mse": mse, "psnr": -10 * math.log10(mse) if mse > 0 else 100.0, "ssim": ssim(a, b)}


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity (Wang et al. 2004): windows of 11 x 11 with a Gaussian of 1.5, range 1."""
    at = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(at**2) / (2 * 1.5**2))

    def band(size: int) -> Tensor:
        """[size - 10, size]: the Gaussian at each place; the window is a product of two of them."""
        rows = [
            torch.cat([torch.zeros(n), line / line.sum(), torch.zeros(size - 11 - n)])
            for n in range(size - 10)
        ]
        return torch.stack(rows)

    down, along = band(a.shape[0]), band(a.shape[1]).T

    def blurred(x: Tensor) -> Tensor:
        return down @ x @ along

    x, y = (each.double().movedim(-1, 0) for each in (a, b))
    mx, my = blurred(x), blurred(y)
    vx, vy, both = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * mx * my + c1) * (2 * both + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def resized(frames: Tensor, size: Sequence[int]) -> Tensor:
    """[F, h, w, C] at a size (height, width)."""
    if tuple(frames.shape[1:3]) == tuple(size):
        return frames
    moved = frames.movedim(-1, 1).float()
    made = torch.nn.functional.interpolate(moved, tuple(size), mode="bilinear", antialias=True)
    return made.movedim(1, -1).clamp(0, 1)
