"""Where a taught row was edited: by the difference of its pair, by detector and segmenter, or as planned.

The mask that is found is the row's `mask`; the plan's own words for it are sharpened where they mean the same
place. `meta.mask_by` says who found it.
"""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from evlm.errors import EVLMError, MaskTextError
from evlm.files.pictures import load_picture
from evlm.masks import box_mask, grow
from evlm.plan.form import Plan
from evlm.plan.mask_codec import BoxSpans, decode_mask, mask_iou

from .pairs import MOST, difference, packed, touched, unpacked
from .pictures import Pictures
from .recipe import Masks

MASKS_VERSION = 3  # of how they are found; another number finds them again
ROOMY = ("removal", "addition", "layout")  # what is there and what will be are of different shape
REPLACES = re.compile(r"\W*(?:replace|swap|exchange|substitute)\b.*\b(?:with|by|for)\b", re.I | re.S)
MEANT = 0.3  # IoU of the boxes from which a plan's words and a found mask are about the same place
SHARPER = 0.5  # IoU with the difference that a segmenter's mask needs to take its place


class MaskFinder:
    """settings: the recipe's. Models are loaded when they are first needed. Raises ModelError then."""

    def __init__(self, out: Path, settings: Masks, pictures: Pictures) -> None:
        self.out, self.settings, self.pictures = out, settings, pictures
        # Of a pair, which several questions may show: where it was edited and who found it; what was written.
        self._places: dict[tuple[str, str, bool], tuple[str, str]] = {}
        self._written: dict[tuple[str, str, bool], tuple[str, str]] = {}
        self._segmenter: Any = None
        self._detector: Any = None

    def find(self, task: dict[str, Any]) -> dict[str, Any]:
        """{"by": "difference" | "segmenter" | "plan", "mask": path, "mask_text": words}, the last two where
        there is a mask; or {"dropped": name, "reason": why}.

        task: {"original", "edited": paths, "edit_type", "instruction", "targets", "scope", "mask_text"}, and
        perhaps "differs", where the pair differs as `compared` found it.
        """
        if task["scope"] != "local" or len(task["original"]) != 1:
            return {"by": "plan"}
        roomy = task["edit_type"] in ROOMY or bool(REPLACES.match(task["instruction"]))
        try:
            found, by = self._found(task, roomy)
        except EVLMError as error:
            return {"dropped": "picture", "reason": str(error)[:400], "passing": True}
        if task["edited"] and found is not None and float(found.mean()) > MOST:
            share = f"{float(found.mean()):.0%} of the picture differ"
            return {"dropped": "pair", "reason": f"a local edit, and {share}; at most {MOST:.0%}"}
        if found is None or not bool(found.any()):
            return {"by": "plan"}
        if roomy:
            found = _boxed(found)
        words, path = self._put(found, task["original"][0], task["edited"], roomy)
        if not _means(task["mask_text"], words, found):
            return {"by": by, "mask": path}
        return {"by": by, "mask": path, "mask_text": words}

    def _found(self, task: dict[str, Any], roomy: bool) -> tuple[Tensor | None, str]:
        original = self.out / task["original"][0]
        if len(task["edited"]) == 1:
            return self._place(task["original"][0], task["edited"][0], roomy, task.get("differs"))
        if not self.settings.segmenter:
            return None, "plan"
        from evlm.place import ground_plan, segment_plan

        frames = load_picture(original)
        plan = Plan(task["instruction"], tuple(task["targets"]), task["mask_text"], "local", trust="base")
        grounded = ground_plan(self._loaded_detector(), frames, plan)
        region, _ = segment_plan(
            self._loaded_segmenter(), frames, plan, grounded.boxes, region=grounded.region
        )
        return (None if region.mask is None else region.mask[0]), "segmenter"

    def _place(self, before: str, after: str, roomy: bool, differs: str | None) -> tuple[Tensor, str]:
        kept = self._places.get((before, after, roomy))
        if kept is None:
            on = difference(self.out / before, self.out / after) if differs is None else unpacked(differs)
            paths = self.out / before, self.out / after
            found, by = self._sharpened(*paths, torch.from_numpy(on).float(), roomy)
            self._places[before, after, roomy] = packed((found >= 0.5).numpy()), by
            return found, by
        return torch.from_numpy(unpacked(kept[0])).float(), kept[1]

    def _sharpened(self, original: Path, edited: Path, on: Tensor, roomy: bool) -> tuple[Tensor, str]:
        """The segmenter's mask of each part that differs, where the two agree; else the difference, grown:
        without `roomy` as far as anything differs at all, so that a sharp edit has no rim."""
        from scipy import ndimage

        from evlm.boxes import Box

        if self.settings.segmenter and bool(on.any()):
            parts = ndimage.find_objects(ndimage.label(on.numpy())[0])
            boxes = [
                Box(str(number), 1.0, float(x.start), float(y.start), float(x.stop), float(y.stop))
                for number, (y, x) in enumerate(parts)
            ]
            segmented = self._loaded_segmenter().segment(load_picture(original), boxes=boxes)
            mask = segmented.masks[:, 0].amax(0)
            if mask_iou(mask, on) >= SHARPER:
                return mask, "segmenter"
        rim = round(self.settings.grow * min(on.shape))
        if not rim or not bool(on.any()):
            return on, "difference"
        grown = grow(on, rim)
        if not roomy:
            grown = torch.maximum(on, grown * torch.from_numpy(touched(original, edited)))
        return grown, "difference"

    def _loaded_segmenter(self) -> Any:
        if self._segmenter is None:
            from evlm.models.zoo import resolve
            from evlm.segment.segmenter import Segmenter

            self._segmenter = Segmenter.load(resolve(self.settings.segmenter, "segmenter"))
        return self._segmenter

    def _loaded_detector(self) -> Any:
        if self._detector is None and self.settings.detector:
            from evlm.ground.grounder import Grounder
            from evlm.models.zoo import resolve

            self._detector = Grounder.load(resolve(self.settings.detector, "detector"))
        return self._detector

    def _put(self, found: Tensor, before: str, edited: list[str], roomy: bool) -> tuple[str, str]:
        """(its words, the path of its picture)."""
        if len(edited) != 1:
            return BoxSpans().encode(found), self._write(found)
        name = before, edited[0], roomy
        if name not in self._written:
            self._written[name] = BoxSpans().encode(found), self._write(found)
        return self._written[name]

    def _write(self, mask: Tensor) -> str:
        file = BytesIO()
        Image.fromarray((mask >= 0.5).to(torch.uint8).mul(255).numpy()).save(file, "PNG")
        return self.pictures.write(file.getvalue(), "png")


def _boxed(mask: Tensor) -> Tensor:
    from evlm.boxes import bounding_box

    corners = bounding_box(mask >= 0.5)
    height, width = mask.shape
    return mask if corners is None else box_mask(corners, height, width)


def _means(said: str | None, words: str, found: Tensor) -> bool:
    """Whether a plan's words, if it has any, are about the place that was found."""
    if said is None:
        return True
    try:
        plan = decode_mask(said, *found.shape)
    except MaskTextError:
        return True
    return mask_iou(_boxed(plan), _boxed(found)) >= MEANT
