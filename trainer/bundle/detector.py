"""The bundled detector: an OWL-ViT of about a million parameters, trained from nothing on the world.

Real classes (`OwlViTForObjectDetection`, `OwlViTProcessor`, a CLIP tokenizer). What differs from training a
large one:

- the class head starts saturated when it is not pretrained, so its scale and shift start where focal loss
wants them; - a patch knows where it is, so an object's positives are the patches around its centre, no
matching needed; - the world has few labels, so every picture is scored against all of them at every step: the
hardest negatives, always; - compositions held out for test and validation are never asked for by their full
  label, and where they lie in a training picture no full label is called wrong either: what the model says
  there is left to it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import autocast
from torch.nn import functional as F

from trainer.bundle.objects import Sample, look_split, samples, targets
from trainer.bundle.tokens import clip_tokenizer
from trainer.model.optim import make_optimizer, schedule
from trainer.world.scene import COLOURS, SHAPES, TEXTURES, label_of
from trainer.world.solid import SOLIDS

SIZE, PATCH = 64, 8
WIDTH, LAYERS, HEADS = 128, 4, 4
TEXT_WIDTH, TEXT_LAYERS = 64, 2
TEXT_LENGTH = 16
REACH = 6.5  # pixels from an object's centre within which a patch's centre answers for it
OTHER_WORDS = (
    "sign",
    "object",
    "thing",
    "sky",
    "person",
    "cat",
    "car",
    "tree",
    "house",
    "the",
    "a",
    "and",
    "large",
    "small",
)

ALL_SHAPES = (*SHAPES, *SOLIDS)  # of a detector that knows solids, too
Look = tuple[str | None, str | None, str | None]  # shape, colour, texture; None: any


def train(
    out: Path, seed: int = 0, steps: int = 1600, batch: int = 48, log: Callable[[str], None] = print
) -> None:
    """Train the detector and save it to the folder `out` (fp16 safetensors, transformers' own layout,
    evlm.json)."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer).train()
    asked = label_bank()
    truth, known = truth_table(asked)
    optimizer = make_optimizer(
        model, 0.02, 2e-3, adam_names=("logit_shift", "logit_scale", "box_head.dense2")
    )
    stream = samples("train", seed, SIZE)
    noise = random.Random(seed)
    started = time.monotonic()
    for step in range(steps):
        optimizer.set_lr(schedule(step, steps, warmup=100))
        words = [phrase for phrase, _ in asked] + [nonsense(noise) for _ in range(4)]
        loss, parts = step_loss(model, tokenizer, words, truth, known, [next(stream) for _ in range(batch)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0 or step == steps - 1:
            minutes = (time.monotonic() - started) / 60
            text = " ".join(f"{name} {value:.4f}" for name, value in parts.items())
            log(f"detector step {step} of {steps}, {minutes:.1f} min: {text}")
    save(model, tokenizer, out, {"steps": steps, "batch": batch, "seed": seed})


def check(folder: Path, rows: int = 500, seed: int = 1) -> dict[str, float]:
    """Score the saved detector on held-out compositions of the test split, through the public Grounder.

    Returns recall at IoU 0.5 and mean IoU of the best box of each full label; `known_recall`: the same for
    the things of those pictures whose compositions training knew; `silent`: how often a label that is not in
    the picture gets no box.
    """
    from evlm.ground.grounder import Grounder

    grounder = Grounder.load(folder)
    stream = samples("test", seed, SIZE)
    rng = random.Random(seed)
    overlaps: dict[bool, list[float]] = {True: [], False: []}
    silent: list[bool] = []
    for _ in range(rows):
        sample = next(stream)
        held_out = targets(sample.things, "test")
        absent = rng.choice(
            [p for p, look in label_bank() if not any(fits(look, t.look) for t in sample.things)]
        )
        picture = torch.from_numpy(sample.picture).float()[None] / 255
        for i, thing in enumerate(sample.things):
            boxes = grounder.ground(picture, [thing.label], keep="best")
            got = torch.tensor([[b.x0, b.y0, b.x1, b.y1] for b in boxes]).reshape(-1, 4)
            overlap = pair_iou(got, torch.from_numpy(sample.boxes[i])[None].expand(len(got), 4))
            overlaps[i in held_out].append(float(overlap[0]) if len(got) else 0.0)
        silent.append(not grounder.ground(picture, [absent], keep="best"))
    ious, known = np.array(overlaps[True]), np.array(overlaps[False])
    return {
        "rows": float(rows),
        "labels": float(len(ious)),
        "recall": float((ious >= 0.5).mean()),
        "iou": float(ious.mean()),
        "known_recall": float((known >= 0.5).mean()),
        "silent": float(np.mean(silent)),
    }


def make_tokenizer() -> Any:
    return clip_tokenizer([*SHAPES, *COLOURS, *TEXTURES, *OTHER_WORDS], TEXT_LENGTH)


def make_model(tokenizer: Any) -> Any:
    """A fresh OWL-ViT with heads that start unsaturated."""
    from transformers import OwlViTConfig, OwlViTForObjectDetection

    config = OwlViTConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 4 * TEXT_WIDTH,
            "num_hidden_layers": TEXT_LAYERS,
            "num_attention_heads": 4,
            "max_position_embeddings": TEXT_LENGTH,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 4 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "image_size": SIZE,
            "patch_size": PATCH,
        },
        projection_dim=TEXT_WIDTH,
    )
    config._attn_implementation = "eager"  # the backward of SDPA is slow on CPUs in bf16
    model = OwlViTForObjectDetection(config)
    with torch.no_grad():
        for linear in (model.class_head.logit_shift, model.class_head.logit_scale, model.box_head.dense2):
            linear.weight.zero_()
            linear.bias.zero_()
        model.class_head.logit_shift.bias.fill_(
            -0.5
        )  # (cos + shift) * (elu(scale) + 1): about -5 for unlike pairs
        model.class_head.logit_scale.bias.fill_(9.0)
        vision = model.owlvit.vision_model.embeddings
        vision.patch_embedding.weight.normal_(std=(3 * PATCH * PATCH) ** -0.5)
        vision.position_embedding.weight.normal_(std=0.1)
        vision.class_embedding.normal_(std=0.1)
    return model


def label_bank(shapes: Sequence[str] = SHAPES) -> list[tuple[str, Look]]:
    """Every label that training asks for, with what it means: full labels of training compositions, shapes,
    textured shapes. A full label without a texture means plain; a shape alone means any."""
    bank: list[tuple[str, Look]] = []
    for shape in shapes:
        bank.append((shape, (shape, None, None)))
        bank += [(f"{texture} {shape}", (shape, None, texture)) for texture in TEXTURES if texture != "plain"]
        for colour in COLOURS:
            for texture in TEXTURES:
                look = (shape, colour, texture)
                if look_split(look) == "train":
                    bank.append((label_of(look), look))
    return bank


def fits(asked: Look, look: tuple[str, str, str]) -> bool:
    return all(a is None or a == b for a, b in zip(asked, look, strict=True))


def truth_table(asked: list[tuple[str, Look]], shapes: Sequence[str] = SHAPES) -> tuple[Tensor, Tensor]:
    """For each look (index as `look_index`): which labels fit it, and which it may be scored against.

    Returns two float tensors [looks, labels].
    """
    looks = [(s, c, t) for s in shapes for c in COLOURS for t in TEXTURES]
    truth = torch.tensor([[float(fits(a, look)) for _, a in asked] for look in looks])
    full = torch.tensor([float(None not in a) for _, a in asked])
    held_out = torch.tensor([float(look_split(look) != "train") for look in looks])
    return truth, 1 - held_out[:, None] * full[None]


def look_index(look: tuple[str, str, str]) -> int:
    s, c, t = ALL_SHAPES.index(look[0]), COLOURS.index(look[1]), TEXTURES.index(look[2])
    return (s * len(COLOURS) + c) * len(TEXTURES) + t


def nonsense(rng: random.Random) -> str:
    """A phrase that names nothing in the world, sometimes with one word that does."""
    letters = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 6)))
    word = rng.choice([letters, rng.choice(OTHER_WORDS)])
    return rng.choice([word, f"{rng.choice(COLOURS)} {word}", f"{word} {letters}"])


def step_loss(
    model: Any,
    tokenizer: Any,
    words: list[str],
    truth: Tensor,
    known: Tensor,
    batch: list[Sample],
    half: bool = True,
) -> tuple[Tensor, dict[str, float]]:
    """Focal loss of every patch against every label, and box losses of the patches that answer for an
    object. half: compute in bfloat16."""
    owner, boxes = assign(batch)
    labels, valid = patch_targets(batch, owner, truth, known, len(words))
    tokens = tokenizer(words, padding=True, truncation=True, return_tensors="pt")
    with autocast("cpu", torch.bfloat16, enabled=half):
        text = model.owlvit.get_text_features(**tokens)
        text = text if isinstance(text, Tensor) else text.pooler_output  # a tensor before transformers 5
        features, _ = model.image_embedder(pixel_values=normalise(batch))
        flat = features.flatten(1, 2)
    logits, _ = model.class_predictor(flat.float(), text.float()[None])
    predicted = model.box_predictor(flat.float(), features)
    probability = logits.sigmoid()
    wrong = torch.where(labels > 0, 1 - probability, probability)
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    positive = owner >= 0
    count = positive.sum().clamp(min=1)
    classes = (valid * wrong.square() * entropy).sum() / count
    mine, yours = predicted[positive], boxes[positive]
    near = F.l1_loss(mine, yours, reduction="sum") / count
    overlap = (1 - generalised_iou(corners(mine), corners(yours))).mean()
    loss = classes + 5 * near + 2 * overlap
    parts = {"loss": loss, "class": classes, "l1": near, "giou": overlap}
    return loss, {name: value.item() for name, value in parts.items()}


def normalise(batch: list[Sample]) -> Tensor:
    """Pictures as the processor gives them to the model: float32 [B, 3, S, S]."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    pictures = torch.from_numpy(np.stack([sample.picture for sample in batch])).permute(0, 3, 1, 2) / 255
    return (pictures - torch.tensor(OPENAI_CLIP_MEAN)[:, None, None]) / torch.tensor(OPENAI_CLIP_STD)[
        :, None, None
    ]


def assign(batch: list[Sample]) -> tuple[Tensor, Tensor]:
    """Which thing each patch answers for (-1: none), int64 [B, P], and its box, float32 [B, P, 4] (cx cy w h,
    0..1)."""
    grid = SIZE // PATCH
    at = (torch.arange(grid) + 0.5) * PATCH
    centres = torch.stack([at.repeat(grid), at.repeat_interleave(grid)], -1)
    owner = torch.full((len(batch), grid * grid), -1)
    boxes = torch.zeros(len(batch), grid * grid, 4)
    for b, sample in enumerate(batch):
        corner = torch.from_numpy(sample.boxes)
        middle = (corner[:, :2] + corner[:, 2:]) / 2
        distance, nearest = torch.cdist(centres, middle).min(1)
        owner[b] = torch.where(distance <= REACH, nearest, -1)
        boxes[b] = (torch.cat([middle, corner[:, 2:] - corner[:, :2]], -1) / SIZE)[nearest]
    return owner, boxes


def patch_targets(
    batch: list[Sample], owner: Tensor, truth: Tensor, known: Tensor, labels: int
) -> tuple[Tensor, Tensor]:
    """Right labels of each patch and which labels count there, both float32 [B, P, labels]; labels beyond the
    bank are nonsense and wrong everywhere."""
    most = max(len(sample.things) for sample in batch)
    looks = torch.zeros(len(batch), most, dtype=torch.long)
    for b, sample in enumerate(batch):
        looks[b, : len(sample.things)] = torch.tensor([look_index(thing.look) for thing in sample.things])
    look = looks.gather(1, owner.clamp(min=0))
    something = (owner >= 0).float()[..., None]
    extra = labels - truth.shape[1]
    right = F.pad(truth[look] * something, (0, extra))
    counts = F.pad(known[look] * something + (1 - something), (0, extra), value=1.0)
    return right, counts


def corners(boxes: Tensor) -> Tensor:
    """cx cy w h to x0 y0 x1 y1, [..., 4]."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def pair_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes a[i] and b[i]: two [N, 4] (x0 y0 x1 y1) to [N]."""
    return _overlap(a, b)[0]


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    iou, union = _overlap(a, b)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    return iou - (hull - union) / hull.clamp(min=1e-6)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - shared
    return shared / union.clamp(min=1e-6), union


def save(model: Any, tokenizer: Any, out: Path, summary: dict[str, Any]) -> None:
    """Write model, processor and evlm.json. The image processor also goes to its own file, where older
    releases look."""
    import json

    from transformers import OwlViTImageProcessor, OwlViTProcessor

    images = OwlViTImageProcessor(
        size={"height": SIZE, "width": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    OwlViTProcessor(images, tokenizer).save_pretrained(out)
    images.save_pretrained(out)
    about = {"kind": "detector", "threshold": 0.3, "best_resolution": SIZE, "training": summary}
    (out / "evlm.json").write_text(json.dumps(about, indent=2) + "\n")
