"""What the engine computes on a card, held to the same on the CPU in float32: `make gpu-check`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scene.a_few_gaussians import some
from tiny_qwen import FAMILIES, save_folder

from evlm.edit.ip2p import IP2P
from evlm.edit.protocol import EditSettings
from evlm.ground.grounder import Grounder
from evlm.plan.mask_codec import mask_iou
from evlm.reason.messages import build_messages, encode
from evlm.reason.reasoner import Reasoner, Sampling
from evlm.request import Reference, Request
from evlm.scene import Camera
from evlm.scene.camera import looking_at, pinhole
from evlm.scene.raster import rasterize
from evlm.segment.segmenter import Segmenter

pytestmark = pytest.mark.cuda
BUNDLED = Path(__file__).parents[2] / "evlm" / "bundled"


def picture(seed: int, side: int = 64) -> torch.Tensor:
    """[1, side, side, 3]: a smooth one with a square in it."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").movedim(1, -1)
    smooth[:, side // 4 : side // 2, side // 4 : side // 2] = torch.tensor([0.9, 0.1, 0.1])
    return smooth.clamp(0, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "most"), [("fp32", 1e-4), ("bf16", 6e-2)])
def test_logits(family: str, dtype: str, most: float, device: torch.device, tmp_path: Path) -> None:
    """Prefill and ten tokens: the greatest difference over the greatest logit."""
    folder = save_folder(tmp_path / "model", family)
    there = Reasoner.load(folder, device=device, dtype=dtype)
    here = Reasoner.load(folder, device="cpu", dtype="fp32")
    chat = build_messages(
        Request(picture(0), "like this", (Reference("image", picture(1)),)), style=here.style
    )
    inputs = encode(here.processor, [chat])
    decoders = [reasoner._decoder() for reasoner in (here, there)]
    with torch.inference_mode():
        for token in [None, *range(65, 75)]:
            one, other = (
                d.prefill(inputs) if token is None else d.feed([token]) for d in decoders
            )  # fmt: skip
            assert float((one - other.float().cpu()).abs().max() / one.abs().max()) <= most


def test_compiled_writes_the_same(device: torch.device, tmp_path: Path) -> None:
    if device.type != "cuda":
        pytest.skip("what a CPU compiles is tested in tests/evlm/reason")
    folder = save_folder(tmp_path / "model")
    request, sampling = Request(picture(0), "make it rain"), Sampling(24, guided="never")
    texts = [
        Reasoner.load(folder, device=device, dtype="fp32", compiled=compiled).generate(request, sampling).text
        for compiled in (False, True)
    ]
    assert texts[0] == texts[1]


def test_boxes_and_masks(device: torch.device) -> None:
    frames = picture(2)
    boxes = [
        Grounder.load(BUNDLED / "detector", device=where).ground(frames, ["red square"], 0.01)
        for where in ("cpu", device)
    ]
    assert [box.label for box in boxes[0]] == [box.label for box in boxes[1]] != []
    for one, other in zip(*boxes, strict=True):
        assert max(abs(a - b) for a, b in zip(one.corners, other.corners, strict=True)) <= 0.05
        assert abs(one.score - other.score) <= 1e-3
    corners = torch.tensor([[16.0, 16.0, 32.0, 32.0]])
    true = Segmenter.load(BUNDLED / "segmenter", device="cpu").segment(frames, corners).masks[0]
    for dtype, least in (("fp32", 0.995), ("bf16", 0.95)):
        found = Segmenter.load(BUNDLED / "segmenter", device=device, dtype=dtype).segment(frames, corners)
        assert mask_iou(found.masks[0].cpu(), true) >= least


@pytest.mark.parametrize(("dtype", "most", "mean"), [("fp32", 0.02, 1e-4), ("fp16", 0.25, 0.02)])
def test_an_edit(dtype: str, most: float, mean: float, device: torch.device) -> None:
    """All denoising steps, whose differences add up; outside the mask there are none."""
    if dtype == "fp16" and device.type == "cpu":
        pytest.skip("a CPU has no convolutions in fp16 that are worth the wait")
    frames, mask = picture(3), torch.zeros(1, 64, 64)
    mask[:, 14:34, 14:34] = 1
    run = EditSettings(steps=4, guidance=2.0, image_guidance=1.0)
    one = IP2P.load(BUNDLED / "editor", "fp32", "cpu").edit(frames, "make the red square blue", mask, run)
    other = IP2P.load(BUNDLED / "editor", dtype, device).edit(frames, "make the red square blue", mask, run)
    apart = (one.frames - other.frames.cpu()).abs()
    assert float(apart.max()) <= most and float(apart.mean()) <= mean
    assert torch.equal(other.frames.cpu()[mask == 0], frames[mask == 0])


def test_a_scene(device: torch.device) -> None:
    gaussians = some()
    view = looking_at(torch.tensor([6.0, 1.0, 1.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    camera = Camera(view, pinhole(60.0, 64, 64), 64, 64)
    background = torch.tensor([0.2, 0.3, 0.4])
    grads = []
    for where in ("cpu", device):
        there = gaussians.map(lambda tensor, where=where: tensor.detach().float().to(where).requires_grad_())
        image = rasterize(there, camera, background.to(where), backend="torch").image
        image.square().sum().backward()
        grads.append((image.detach().cpu(), there.means.grad.cpu()))
    (one, slope), (other, steep) = grads
    assert float((one - other).abs().max()) <= 1.5 / 255
    assert float((slope - steep).norm() / slope.norm()) <= 1e-3
