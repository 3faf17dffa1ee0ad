"""The bundled segmenter: a SAM 2 of about 0.4 million parameters, trained from nothing on the world.

Real classes (`Sam2Model`, `Sam2Processor`); Hiera starts at width 16. A 64-pixel picture is shown at 128, so
that the mask logits, a quarter of that, have two pixels a cell. Three kinds of prompts are trained: boxes
that are a little off, as a detector's are; one or two points; and rough masks, as a plan's are. Without
pretraining the single mask is never "unstable" in the sense that makes SAM 2 fall back to its three-mask
output, so that fallback is off.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import autocast
from torch.nn import functional as F

from evlm.plan.mask_codec import BoxSpans, mask_iou
from evlm.segment.segmenter import MASK_LOGIT, MEAN, STD, Segmenter
from trainer.bundle.objects import Sample, samples, targets
from trainer.model.optim import make_optimizer, schedule

SIZE, INPUT = 64, 128  # of the world's pictures; of the model's input
WIDTH, HIDDEN, HEADS = 16, 64, 4
EACH = 3  # prompted objects of a picture
KINDS = ("boxes", "boxes", "boxes", "points", "masks")  # what the prompts of a step are, drawn at random


def train(
    out: Path, seed: int = 0, steps: int = 2000, batch: int = 16, log: Callable[[str], None] = print
) -> None:
    """Train the segmenter and save it to the folder `out` (fp16 safetensors, transformers' own layout,
    evlm.json)."""
    torch.manual_seed(seed)
    model = make_model().train()
    optimizer = make_optimizer(model, 0.006, 1.5e-3)
    # What is prompted for is of the training compositions alone; the others only stand about.
    stream = (s for s in samples("train", seed + 1000, SIZE) if targets(s.things, "train"))
    rng = random.Random(seed)
    started = time.monotonic()
    for step in range(steps):
        optimizer.set_lr(schedule(step, steps, warmup=50))
        loss, parts = step_loss(model, [next(stream) for _ in range(batch)], rng.choice(KINDS), rng)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            minutes = (time.monotonic() - started) / 60
            text = " ".join(f"{name} {value}" for name, value in parts.items())
            log(f"segmenter step {step} of {steps}, {minutes:.1f} min: {text}")
    save(model, out, {"steps": steps, "batch": batch, "seed": seed})


def check(folder: Path, rows: int = 500, seed: int = 1, detector: Path | None = None) -> dict[str, float]:
    """Mean IoU of the saved segmenter on held-out compositions of the test split, through the public
    Segmenter.

    `iou` from true boxes, `iou_points` from one point inside, `iou_masks` from the plan's mask text; with the
    folder of a `detector` also `iou_detected`, where an object that it does not find counts as 0.
    """
    from evlm.ground.grounder import Grounder

    segmenter = Segmenter.load(folder)
    grounder = Grounder.load(detector) if detector is not None else None
    codec = BoxSpans(8)
    stream = samples("test", seed, SIZE)
    overlaps: dict[str, list[float]] = {"iou": [], "iou_points": [], "iou_masks": [], "iou_detected": []}
    for _ in range(rows):
        sample = next(stream)
        picture = torch.from_numpy(sample.picture).float()[None] / 255
        wanted = targets(sample.things, "test")
        truth = torch.from_numpy(sample.silhouettes[wanted]).float()
        rough = torch.stack([codec.decode(codec.encode(mask), SIZE, SIZE) for mask in truth])
        inner = torch.tensor([inner_point(mask.numpy() > 0) for mask in truth])[:, None]
        prompts: dict[str, dict[str, Any]] = {
            "iou": {"boxes": torch.from_numpy(sample.boxes[wanted])},
            "iou_points": {"points": (inner, torch.ones(len(wanted), 1))},
            "iou_masks": {"mask": rough[:, None]},
        }
        for name, prompt in prompts.items():
            masks = segmenter.segment(picture, **prompt).masks[:, 0]
            overlaps[name] += [mask_iou(a, b) for a, b in zip(masks, truth, strict=True)]
        if grounder is not None:
            for i, mask in zip(wanted, truth, strict=True):
                boxes = grounder.ground(picture, [sample.things[i].label])
                got = segmenter.segment(picture, boxes=boxes).masks[:, 0]
                overlaps["iou_detected"].append(mask_iou(got[0], mask) if len(got) else 0.0)
    return {"rows": float(rows), **{name: float(np.mean(v)) for name, v in overlaps.items() if v}}


def make_model(hidden: int = HIDDEN) -> Any:
    """A fresh `Sam2Model`. hidden: width of neck and decoder."""
    from transformers import Sam2Config, Sam2Model

    widths = [WIDTH, WIDTH * 2, WIDTH * 4, WIDTH * 8]
    side = INPUT // 4
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": WIDTH,
        "image_size": [INPUT, INPUT],
        "blocks_per_stage": [1, 2, 2, 1],
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 4, 4],
        "global_attention_blocks": [4],
        "window_positional_embedding_background_size": [8, 8],
    }
    config = Sam2Config(
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[side >> i, side >> i] for i in range(3)],
            "fpn_hidden_size": hidden,
        },
        prompt_encoder_config={"hidden_size": hidden, "image_size": INPUT, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": hidden,
            "mlp_dim": 2 * hidden,
            "num_attention_heads": HEADS,
            "iou_head_hidden_dim": hidden,
            "dynamic_multimask_via_stability": False,
        },
    )
    config._attn_implementation = "eager"  # the backward of SDPA is slow on CPUs
    model = Sam2Model(config)
    _start_attentive(model)
    return model


def _start_attentive(model: Any) -> None:
    """Initial weights from which prompts are used at all.

    From the library's own (std 0.02, made for pretrained weights) the model marks every thing, whatever the
    prompt, and stays there. Here layers start at torch's scale; a token attends to its own place from the
    first step (query and key weights equal); and what only adds a constant to the picture's features stays
    zero, for it would drown their places: measured, 0.77 IoU after 250 steps against 0.32 after 2,000.
    """
    at_torchs_scale(model)
    transformer = model.mask_decoder.transformer
    with torch.no_grad():
        model.vision_encoder.backbone.pos_embed.normal_(std=0.02)
        model.vision_encoder.backbone.pos_embed_window.normal_(std=0.02)
        shared = model.shared_image_embedding.positional_embedding
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
        crossing = [transformer.final_attn_token_to_image]
        for layer in transformer.layers:
            crossing += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
        for attention in crossing:
            nn.init.orthogonal_(attention.q_proj.weight, 2.0)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.q_proj.bias.zero_()
            attention.k_proj.bias.zero_()
        for constant in constants_of(model):
            constant.zero_()
            constant.requires_grad_(False)


def constants_of(model: Any) -> list[nn.Parameter]:
    """What only adds a constant to the picture's features: zero, and not trained."""
    biases = [p for n, p in model.vision_encoder.neck.named_parameters() if n.endswith("bias")]
    return [model.no_memory_embedding, *biases]


def at_torchs_scale(module: nn.Module) -> None:
    """Layers at torch's own scale."""
    for each in module.modules():
        if isinstance(each, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)):
            each.reset_parameters()


def step_loss(
    model: Any, batch: list[Sample], kind: str, rng: random.Random, half: bool = True
) -> tuple[Tensor, dict[str, str]]:
    """Cross-entropy, Dice and score losses of one kind of prompt, in the pictures' own pixels. half: compute
    in bfloat16."""
    each = (
        1 if kind == "masks" else EACH
    )  # the library adds a mask prompt to the picture, not to an object of it
    chosen = [[rng.choice(targets(sample.things, "train")) for _ in range(each)] for sample in batch]
    truth = torch.from_numpy(np.stack([s.silhouettes[c] for s, c in zip(batch, chosen, strict=True)])).float()
    with autocast("cpu", torch.bfloat16, enabled=half):
        logits, scores = _forward(model, batch, chosen, truth, kind, rng)
    truth = truth[:, :, None].expand_as(logits)
    entropy, dice, iou = where_losses(logits.flatten(0, 2), truth.flatten(0, 2))
    guess = F.mse_loss(scores.flatten(), iou)
    loss = entropy.mean() + dice.mean() + 0.2 * guess
    parts = {"loss": f"{loss.item():.3f}", "iou": f"{iou.mean().item():.3f}", "guess": f"{guess.item():.4f}"}
    return loss, {**parts, "prompts": kind}


def where_losses(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(cross-entropy, Dice loss, IoU), each [N], of mask logits against truth of 0 and 1, both [N, H, W]."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    # A thing is a twentieth of the picture: weigh what lies near it as much as all the rest.
    near = F.max_pool2d(truth[:, None], 7, 1, 3)[:, 0]
    entropy = (entropy * near).sum((-1, -2)) / near.sum((-1, -2)) + entropy.mean((-1, -2))
    share = logits.sigmoid()
    dice = 1 - (2 * (share * truth).sum((-1, -2)) + 1) / (share.sum((-1, -2)) + truth.sum((-1, -2)) + 1)
    hard = logits.detach() > 0
    iou = (hard & (truth > 0)).sum((-1, -2)) / (hard | (truth > 0)).sum((-1, -2)).clamp(min=1)
    return entropy, dice, iou


def _forward(
    model: Any, batch: list[Sample], chosen: list[list[int]], truth: Tensor, kind: str, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Logits [B, N, M, SIZE, SIZE] and scores [B, N, M], float32. One point is ambiguous: M = 3 there, else
    1."""
    prompts: dict[str, Tensor] = {}
    ambiguous = False
    if kind == "boxes":
        boxes = [[off_box(sample.boxes[i], rng) for i in c] for sample, c in zip(batch, chosen, strict=True)]
        prompts["input_boxes"] = torch.tensor(boxes) * (INPUT / SIZE)
    elif kind == "points":
        count = rng.choice((1, 1, 2))
        spots = [[[random_point(m, rng) for _ in range(count)] for m in masks] for masks in truth.numpy() > 0]
        prompts["input_points"] = torch.tensor(spots) * (INPUT / SIZE)
        prompts["input_labels"] = torch.ones(len(batch), truth.shape[1], count, dtype=torch.int32)
        ambiguous = count == 1
    else:
        codec = BoxSpans(8)
        rough = torch.stack([codec.decode(codec.encode(mask), SIZE, SIZE) for mask in truth[:, 0]])
        moved = [torch.roll(mask, (rng.randint(-1, 1), rng.randint(-1, 1)), (0, 1)) for mask in rough]
        signed = (torch.stack(moved)[:, None] * 2 - 1) * MASK_LOGIT
        side = model.prompt_encoder.mask_input_size
        prompts["input_masks"] = F.interpolate(signed, side, mode="bilinear", antialias=True)
    out = model(pixel_values=normalise(batch), multimask_output=ambiguous, **prompts)
    logits = out.pred_masks.float()
    full = F.interpolate(logits.flatten(0, 1), (SIZE, SIZE), mode="bilinear")
    return full.view(*logits.shape[:3], SIZE, SIZE), out.iou_scores.float()


def normalise(batch: list[Sample]) -> Tensor:
    """Pictures as the segmenter gives them to the model: float32 [B, 3, INPUT, INPUT]."""
    pictures = torch.from_numpy(np.stack([sample.picture for sample in batch])).permute(0, 3, 1, 2) / 255
    pictures = F.interpolate(pictures, (INPUT, INPUT), mode="bilinear", antialias=True)
    return (pictures - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def off_box(box: Any, rng: random.Random) -> list[float]:
    """A box as a detector might give it: exact one time in three, else each edge off by up to two pixels or
    so."""
    wrong = rng.choice((0.0, 0.7, 1.5))
    return [min(float(SIZE), max(0.0, float(edge) + rng.gauss(0, wrong))) for edge in box]


def random_point(mask: Any, rng: random.Random) -> list[float]:
    """The centre (x, y) of some pixel of a mask [H, W]."""
    ys, xs = np.nonzero(mask)
    i = rng.randrange(len(ys))
    return [float(xs[i]) + 0.5, float(ys[i]) + 0.5]


def inner_point(mask: Any) -> list[float]:
    """The centre (x, y) of the pixel that lies deepest inside a mask [H, W]."""
    from scipy.ndimage import distance_transform_edt

    y, x = np.unravel_index(
        int(distance_transform_edt(np.pad(mask, 1)).argmax()), [n + 2 for n in mask.shape]
    )
    return [float(x) - 0.5, float(y) - 0.5]


def save(model: Any, out: Path, summary: dict[str, Any]) -> None:
    """Write model, processor and evlm.json. The image processor also goes to its own file, where older
    releases look."""
    from transformers import Sam2ImageProcessor, Sam2Processor

    images = Sam2ImageProcessor(
        size={"height": INPUT, "width": INPUT}, mask_size={"height": INPUT // 4, "width": INPUT // 4}
    )
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    Sam2Processor(images).save_pretrained(out)
    images.save_pretrained(out)
    about = {"kind": "segmenter", "best_resolution": SIZE, "training": summary}
    (out / "evlm.json").write_text(json.dumps(about, indent=2) + "\n")
