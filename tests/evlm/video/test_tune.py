"""An editor tuned to one clip: as in a plain loop, gone on with in the same bits, and itself unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_ip2p
import torch
from moving_square import moving
from torch import Tensor

from evlm.edit.ip2p import IP2P
from evlm.errors import ModelError
from evlm.video import tune as tune_file
from evlm.video.settings import VideoSettings
from evlm.video.together import Call, references, shared
from evlm.video.tune import TUNED, loss, tune, tuned

ANCHORS = VideoSettings("anchors", window=3, overlap=1)
RATE = 1e-3
PREDICTIONS = ("epsilon", "v_prediction")
# What a model predicts is in its loss alone, and how a run learns and goes on knows nothing of that.
STOPS = [pytest.param(name, marks=() if name == "epsilon" else pytest.mark.slow) for name in PREDICTIONS]


@pytest.fixture(scope="module", params=PREDICTIONS)
def editor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> IP2P:
    folder = tmp_path_factory.mktemp("ip2p") / "folder"
    return tiny_ip2p.load(tiny_ip2p.save_folder(tiny_ip2p.build(request.param), folder))


@pytest.fixture(autouse=True)
def untouched(editor: IP2P) -> Iterator[None]:
    """After every test the model is what it was, and asks for the gradients that it asked for."""
    before = {name: each.detach().clone() for name, each in editor.unet.named_parameters()}
    asked = [each.requires_grad for each in editor.unet.parameters()]
    stock = dict(editor.unet.attn_processors)
    yield
    assert all(torch.equal(each, before[name]) for name, each in editor.unet.named_parameters())
    assert [each.requires_grad for each in editor.unet.parameters()] == asked
    assert all(each.grad is None for each in editor.unet.parameters())
    assert all(editor.unet.attn_processors[name] is each for name, each in stock.items())


def clips() -> list[Tensor]:
    return [moving(5, 2)[0], moving(3, 1, noise=1)[0]]


def test_it_is_the_plain_loop(editor: IP2P) -> None:
    """The oracle: torch's AdamW on the model's own weights, every frame's noise and target by hand."""
    unet, text = editor.unet, editor.read("", [])[1:]
    own = {name: each for name, each in unet.named_parameters() if name.endswith(TUNED)}
    assert len(own) == 2 * sum(".attn1.to_q.weight" in name for name in own) > 0
    found = tune(editor, clips(), 3, ANCHORS, seed=7, rate=RATE)
    before = {name: each.detach().clone() for name, each in own.items()}
    for each in own.values():
        each.requires_grad_(True)
    optimiser = torch.optim.AdamW(own.values(), lr=RATE, weight_decay=1e-2)
    latents = [torch.cat([editor.encode(crop) for crop in clip.split(1)]) for clip in clips()]
    with shared(unet) as sharing:
        for at in range(3):
            clip, draw = latents[at % 2], torch.Generator().manual_seed(tune_file._number(7, at))
            begin = int(torch.randint(len(clip) - 2, (1,), generator=draw))
            sharing.call = Call((0, 1, 2), references("anchors", 3), frozenset())
            value = loss(editor, clip[begin : begin + 3], text, draw)
            unet.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(own.values(), 1.0)
            optimiser.step()
    unet.zero_grad()
    for name, each in own.items():
        each.requires_grad_(False)
        assert torch.allclose(found[name], each, atol=1e-6) and not torch.equal(found[name], before[name])
        each.copy_(before[name])


@pytest.mark.slow  # it is the plain loop, which is held above
@pytest.mark.parametrize("editor", STOPS, indirect=True, scope="module")
def test_the_clip_is_learned(editor: IP2P) -> None:
    frames = moving(3, 2)[0]
    text, latents = editor.read("", [])[1:], editor.encode(frames)

    @torch.no_grad()
    def error() -> float:
        draws = [torch.Generator().manual_seed(10_000 + at) for at in range(8)]
        return sum(float(loss(editor, latents, text, draw)) for draw in draws) / len(draws)

    weights, before = tune(editor, [frames], 10, VideoSettings(window=3), rate=1e-2), error()
    with tuned(editor.unet, weights):
        assert error() < before
    assert error() == before


@pytest.fixture(scope="module")
def whole(editor: IP2P) -> dict[str, Tensor]:
    """What six steps that nobody stops make."""
    return tune(editor, clips(), 6, ANCHORS)


@pytest.mark.parametrize("editor", STOPS, indirect=True, scope="module")
@pytest.mark.parametrize(
    "stop", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(5, marks=pytest.mark.slow)]
)
def test_stopped_it_goes_on_in_the_same_bits(
    editor: IP2P, whole: dict[str, Tensor], tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_file, "EVERY", 2)

    def until(most: int) -> Callable[[int, int], None]:
        def told(done: int, steps: int) -> None:
            assert steps == 6
            if done == most:
                raise KeyboardInterrupt

        return told

    path = tmp_path / "tuned.safetensors"
    with pytest.raises(KeyboardInterrupt):
        tune(editor, clips(), 6, ANCHORS, path=path, on_step=until(stop))
    assert path.is_file() == (stop > 1)
    seen: list[int] = []
    rest = tune(editor, clips(), 6, ANCHORS, path=path, on_step=lambda done, _: seen.append(done))
    assert seen == list(range(stop // 2 * 2 + 1, 7))
    assert all(torch.equal(rest[name], whole[name]) for name in whole)
    again = tune(editor, clips(), 6, ANCHORS, path=path, on_step=lambda *_: pytest.fail("all is done"))
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_what_does_not_fit_is_refused(editor: IP2P, tmp_path: Path) -> None:
    path = tmp_path / "tuned.safetensors"
    tune(editor, clips(), 1, ANCHORS, path=path)
    others: list[dict[str, Any]] = [
        {"clips": clips()[:1]},
        {"seed": 1},
        {"rate": RATE},
        {"video": VideoSettings(window=3)},
    ]
    for other in others:
        with pytest.raises(ModelError, match="of another clip, model or tuning"):
            tune(editor, **({"clips": clips(), "steps": 1, "video": ANCHORS, "path": path} | other))
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(ModelError, match="take it away"):
        tune(editor, clips(), 1, ANCHORS, path=path)
    with pytest.raises(ModelError, match="no such weight"), tuned(editor.unet, {"a": torch.zeros(2)}):
        pass


def test_in_fp16_it_is_refused(editor: IP2P) -> None:
    before = {name: each.clone() for name, each in editor.unet.state_dict().items()}
    editor.unet.half()
    try:
        with pytest.raises(ModelError, match="bf16 or fp32"):
            tune(editor, clips(), 1, ANCHORS)
    finally:
        editor.unet.float().load_state_dict(before)
