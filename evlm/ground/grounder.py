"""Labels to boxes: GroundingDINO and OWL-ViT / OWLv2 through transformers, or the plan's own box without a
detector.

Both families end in the same table, one score for each proposed box and each label; what is kept of it is
decided in one place. Nothing found is an empty list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from ..boxes import Box, Corners, bounding_box, clip_corners
from ..errors import ModelError, RequestError
from ..files.pictures import check_frames, to_pil
from ..masks import check_mask
from ..models.families import GROUNDING_DINO, OWL
from ..models.load_report import load_folder
from ..models.loading import pick_device, pick_dtype, read_json, read_notes
from ..models.quantized import check_unquantised
from ..plan.mask_codec import decode_mask
from ..plan.trace import Plan

SLIMMEST = 16  # GroundingDINO resizes by the shorter side: slimmer frames than 1 : 16 are padded first
REGION = "region"


class Grounder:
    """A detector. `Grounder.load(folder)`, then `ground(frames, labels)`; `model` is a plain torch module."""

    def __init__(self, model: Any, processor: Any, threshold: float | None = None) -> None:
        self.model = model.eval()
        self.processor = processor
        self.kind: str = model.config.model_type
        if self.kind not in (*GROUNDING_DINO, *OWL):
            raise ModelError(f"model type {self.kind!r} is no detector of ours; expected {_kinds()}")
        self.threshold = threshold if threshold is not None else 0.25 if self.kind in GROUNDING_DINO else 0.1

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
    ) -> Grounder:
        """A detector from a folder in transformers' layout (safetensors only; sharded is fine).

        dtype: "auto" is fp32: these models are small and their box heads lose by less. The folder's
        `evlm.json` may carry a "threshold". Raises ModelError when the folder is missing, incomplete, or
        holds something else.
        """
        folder = Path(source)
        about = read_json(folder / "config.json", "a detector's folder in transformers' layout")
        if about.get("model_type") not in (*GROUNDING_DINO, *OWL):
            raise ModelError(f"{folder} holds a {about.get('model_type')!r} model; a detector is {_kinds()}")
        check_unquantised(folder, about, "a detector")
        threshold = read_notes(folder).get("threshold")
        if threshold is not None and not (isinstance(threshold, float) and 0 <= threshold <= 1):
            raise ModelError(f"{folder / 'evlm.json'}: threshold {threshold!r}, expected a number in 0..1")
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        model = load_folder(AutoModelForZeroShotObjectDetection, folder, "the detector", pick_dtype(dtype))
        try:
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # a damaged folder makes the libraries raise nearly anything
            raise ModelError(f"the detector in {folder} cannot be loaded: {error}") from error
        return cls(model.to(pick_device(device)), processor, threshold)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def ground(
        self,
        frames: Tensor,
        labels: Sequence[str],
        threshold: float | None = None,
        text_threshold: float = 0.25,
        keep: Literal["best", "all"] = "best",
        overlap: float = 0.5,
        batch: int = 4,
    ) -> list[Box]:
        """Find each label in each frame. Returns boxes by frame, then label as asked, then falling score;
        maybe none.

        frames: [F, H, W, 3] in 0..1.
        labels: what to look for; repeated or empty ones count once or not at all.
        threshold: least score, 0..1; None is the model's own (0.25 GroundingDINO, 0.1 OWL, or from its
            evlm.json).
        text_threshold: GroundingDINO only: how likely a word must be to count as part of what a box shows.
        keep: "best" for at most one box of a label in a frame; "all" gives each proposed box to its best
            label and drops boxes of one label that overlap a better one by more than `overlap` (IoU).
        batch: frames at a time.
        Raises PictureError for bad frames, RequestError for bad settings.
        """
        frames = check_frames(frames)
        if keep not in ("best", "all"):
            raise RequestError(f"keep={keep!r}: expected 'best' or 'all'")
        if batch < 1:
            raise RequestError(f"batch={batch}: expected at least 1 frame at a time")
        wanted: dict[str, str] = {}  # as the model reads it: as it was asked
        for label in labels:
            if normal := normalise_label(label):
                wanted.setdefault(normal, label)
        if not wanted:
            return []
        least = self.threshold if threshold is None else threshold
        detected: list[Box] = []
        for start in range(0, len(frames), batch):
            boxes, scores = self._propose(frames[start : start + batch], list(wanted), text_threshold)
            for i in range(len(boxes)):
                picked = _pick(boxes[i], scores[i], least, keep, overlap)
                names = list(wanted.values())
                detected += [Box(names[k], score, *corners, frame=start + i) for k, score, corners in picked]
        return detected

    @torch.inference_mode()
    def _propose(self, frames: Tensor, labels: list[str], text_threshold: float) -> tuple[Tensor, Tensor]:
        """Boxes [F, Q, 4] in pixels, within the frame, and scores [F, Q, labels]; 0 where a box is not of a
        label."""
        propose = self._propose_dino if self.kind in GROUNDING_DINO else self._propose_owl
        boxes, scores = propose(frames, labels, text_threshold)
        boxes = clip_corners(boxes.float().cpu(), *frames.shape[1:3])
        scores = scores.float().cpu().nan_to_num(0.0)
        real = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(-1)
        return boxes, scores * real[..., None]

    def _propose_owl(self, frames: Tensor, labels: list[str], _: float) -> tuple[Tensor, Tensor]:
        config = self.model.config.text_config
        tokens = self.processor.tokenizer(
            labels,
            padding="max_length",
            truncation=True,
            max_length=config.max_position_embeddings,
            return_tensors="pt",
        )
        pictures = self.processor.image_processor(images=[to_pil(f) for f in frames], return_tensors="pt")
        out = self.model(
            input_ids=tokens["input_ids"].repeat(len(frames), 1).to(self.device),
            attention_mask=tokens["attention_mask"].repeat(len(frames), 1).to(self.device),
            pixel_values=pictures["pixel_values"].to(self.device, self.model.dtype),
        )
        # The library scales the boxes (OWLv2 pads to a square first); it would keep one label a box, we look
        # at each.
        single = SimpleNamespace(logits=out.logits[..., :1].float(), pred_boxes=out.pred_boxes.float())
        sizes = [tuple(frames.shape[1:3])] * len(frames)
        scaled = self.processor.image_processor.post_process_object_detection(single, -1.0, sizes)
        return torch.stack([each["boxes"] for each in scaled]), out.logits.float().sigmoid()

    def _propose_dino(
        self, frames: Tensor, labels: list[str], text_threshold: float
    ) -> tuple[Tensor, Tensor]:
        padded = _widen(frames)
        images = self.processor.image_processor(images=[to_pil(f) for f in padded], return_tensors="pt")
        pixels = images["pixel_values"].to(self.device, self.model.dtype)
        pixel_mask = images["pixel_mask"].to(self.device) if "pixel_mask" in images else None
        scale = torch.tensor([padded.shape[2], padded.shape[1]] * 2, device=self.device)
        boxes, scores, done = [], [], 0
        for ids, spans in self._phrases(labels):
            tokens = torch.tensor([ids] * len(frames), device=self.device)
            out = self.model(
                pixel_values=pixels,
                pixel_mask=pixel_mask,
                input_ids=tokens,
                token_type_ids=torch.zeros_like(tokens),
                attention_mask=torch.ones_like(tokens),
            )
            centre, size = out.pred_boxes.float().split(2, -1)
            boxes.append(torch.cat([centre - size / 2, centre + size / 2], -1) * scale)
            table = torch.zeros(*out.logits.shape[:2], len(labels), device=self.device)
            table[..., done : done + len(spans)] = phrase_scores(
                out.logits.float().sigmoid(), spans, text_threshold
            )
            scores.append(table)
            done += len(spans)
        return torch.cat(boxes, 1), torch.cat(scores, 1)

    def _phrases(self, labels: list[str]) -> list[tuple[list[int], list[slice]]]:
        """Token ids of "[CLS] label . label . [SEP]" and where each label lies; several texts when one cannot
        hold all."""
        tokenizer, config = self.processor.tokenizer, self.model.config
        limit = min(config.max_text_len, config.text_config.max_position_embeddings)
        dot = tokenizer.convert_tokens_to_ids(".")
        texts: list[tuple[list[int], list[slice]]] = []
        for label in labels:
            words = tokenizer(label, add_special_tokens=False)["input_ids"][: limit - 3]
            if not texts or len(texts[-1][0]) + len(words) + 2 > limit:
                texts.append(([tokenizer.cls_token_id], []))
            ids, spans = texts[-1]
            spans.append(slice(len(ids), len(ids) + len(words)))
            ids += [*words, dot]
        for ids, _ in texts:
            ids.append(tokenizer.sep_token_id)
        return texts


def normalise_label(label: str) -> str:
    """A label as the detectors read it: lower case, single spaces, without the full stops that part
    GroundingDINO's phrases. May come out empty."""
    return " ".join(re.sub(r"[.?\x00]", " ", label.lower()).split())


def phrase_scores(probability: Tensor, spans: Sequence[slice], text_threshold: float) -> Tensor:
    """GroundingDINO's token table to label scores: which of the asked phrases a box shows, and how surely.

    probability: [F, Q, T] in 0..1, one column a token. spans: the tokens of each label. As in the original,
    the words of a box are its tokens above `text_threshold` and its score is its best token; the words may be
    part of a phrase only ("circle" of "red circle"), so the label that they cover best is the one that is
    meant: the mean over its tokens, which does not grow with its length. Returns [F, Q, labels], 0 for every
    label but that one.
    """
    words = torch.where(probability > text_threshold, probability, 0)
    nothing = probability.new_zeros(probability.shape[:-1])  # a label of control characters has no token
    weight = torch.stack([words[..., s].mean(-1) if s.stop > s.start else nothing for s in spans], -1)
    best = torch.stack([probability[..., s].amax(-1) if s.stop > s.start else nothing for s in spans], -1)
    meant = torch.nn.functional.one_hot(weight.argmax(-1), len(spans)).bool() & (weight > 0)
    return torch.where(meant, best, 0)


def boxes_from_mask(mask: Tensor, label: str = REGION) -> list[Box]:
    """The tight box around what is on (at least 0.5) in each frame of a mask [F, H, W]; none for an empty
    frame."""
    boxes = []
    for f, frame in enumerate(check_mask(mask) >= 0.5):
        if corners := bounding_box(frame):
            x0, y0, x1, y1 = map(float, corners)
            boxes.append(Box(label, 1.0, x0, y0, x1, y1, frame=f))
    return boxes


def plan_boxes(plan: Plan, height: int, width: int) -> list[Box]:
    """The box that the plan itself draws, in pixels of a frame: none or one, named after the plan's target
    when it has exactly one. Its score is 0, for nothing was detected. Raises MaskTextError
    where the mask text breaks the codec's grammar."""
    if plan.mask_text is None:
        return []
    label = plan.targets[0] if len(plan.targets) == 1 else REGION
    boxes = boxes_from_mask(decode_mask(plan.mask_text, height, width), label)
    return [replace(box, score=0.0, by_plan=True) for box in boxes]


def _pick(
    boxes: Tensor, scores: Tensor, least: float, keep: str, overlap: float
) -> list[tuple[int, float, Corners]]:
    """What is kept of boxes [Q, 4] under scores [Q, L]: (label, score, box), by label, then falling score."""
    from torchvision.ops import nms

    owner = scores.argmax(1)
    picked = []
    for k in range(scores.shape[1]):
        if keep == "best":
            chosen = scores[:, k].argmax()[None]
        else:
            mine = ((owner == k) & (scores[:, k] > least)).nonzero().flatten()
            chosen = mine[nms(boxes[mine], scores[mine, k], overlap)]
        for q in chosen.tolist():
            if scores[q, k] > least:
                x0, y0, x1, y1 = boxes[q].tolist()
                picked.append((k, float(scores[q, k]), (x0, y0, x1, y1)))
    return picked


def _widen(frames: Tensor) -> Tensor:
    """Frames no slimmer than 1 : SLIMMEST, with grey added at the right or the bottom; places stay what they
    are."""
    height, width = frames.shape[1:3]
    right, below = max(0, -(-height // SLIMMEST) - width), max(0, -(-width // SLIMMEST) - height)
    return (
        torch.nn.functional.pad(frames, (0, 0, 0, right, 0, below), value=0.5) if right or below else frames
    )


def _kinds() -> str:
    return ", ".join((*GROUNDING_DINO[:-1], *OWL[:-1])) + f" or {OWL[-1]}"
