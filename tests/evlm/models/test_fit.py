"""What fits a card."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evlm.cli.main import main
from evlm.models.fit import fits, remarks, set_remarks
from evlm.models.sets import SETS
from evlm.models.zoo import find


@pytest.mark.parametrize(
    ("card", "small", "large"),
    [
        (4.2, "wants about 6 GB", "wants about 19 GB"),
        (8.3, "fits in ComfyUI: 6 GB at a time", "instead: qwen2-vl-2b, or 4 bits (on CUDA), or its GGUF"),
        (25.3, "fits in ComfyUI and in `python -m evlm edit`", "fits in ComfyUI: 19 GB at a time"),
        (80, "fits in ComfyUI and in", "fits in ComfyUI and in"),
    ],
)
def test_sets_on_cards(card: float, small: str, large: str) -> None:
    lines = dict(zip((each.name for each in SETS), set_remarks(card), strict=True))
    assert small in lines["photo-8gb"] and large in lines["photo-24gb"]


def test_each_set_fits_the_card_in_its_name() -> None:
    for each in SETS:
        card = float(each.name.removeprefix("photo-").removesuffix("gb"))
        assert all(fits(model.vram, card) for name in each.models if (model := find(name)))


def test_models_that_are_too_large_are_named_with_a_remedy() -> None:
    (said,) = remarks(["qwen3-vl-8b", "sam2.1-tiny", "somebody's own"], 12.0)
    assert said.startswith("qwen3-vl-8b wants about 20 GB, and this card has 12.0; instead: qwen2-vl-2b")
    assert "GGUF" in said
    assert remarks(["instruct-pix2pix"], 3.0) == ["instruct-pix2pix wants about 4 GB, and this card has 3.0"]


def test_the_doctor_says_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    properties: Any = [SimpleNamespace(name=f"Card {n}", total_memory=n * 10**9) for n in (8, 25)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "Card 8, 8.0 GB" in said and "photo-24gb       fits in ComfyUI: 19 GB at a time" in said
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert main(["doctor"]) == 0
    assert "there is no card" in capsys.readouterr().out
