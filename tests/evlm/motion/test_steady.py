"""Steadiness on clips whose figures can be worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from evlm.cli.main import main
from evlm.errors import PictureError
from evlm.motion.steady import steadiness
from evlm.viz.strip import draw_strip, heat_picture, shown_pairs

COUNT, SIDE = 6, 40


def still() -> Tensor:
    """A textured clip in which nothing moves: [F, S, S, 3]."""
    draw = torch.Generator().manual_seed(0)
    return torch.rand(1, SIDE, SIDE, 3, generator=draw).expand(COUNT, -1, -1, -1) * 0.5 + 0.25


def sliding(colour: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """(clip, mask) of a plain disc that moves by 2 pixels a frame over grey, its rim one pixel soft."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    alpha = torch.stack([(8.5 - torch.hypot(x - 12 - 2 * f, y - 20)).clamp(0, 1) for f in range(COUNT)])
    paint = torch.tensor(colour).expand(COUNT, SIDE, SIDE, 3)
    return alpha[..., None] * paint + (1 - alpha[..., None]) * 0.5, alpha >= 0.5


def test_an_edit_that_changes_nothing_is_as_steady_as_the_original() -> None:
    clip, mask = sliding((0.9, 0.2, 0.1))
    figures = steadiness(clip, clip, mask)
    assert figures.excess == 0 and figures.pairs == figures.original_pairs
    assert len(figures.pairs) == COUNT - 1 and figures.seam is None and figures.truth is None
    assert figures.covered > 0.7


def test_a_colour_that_alternates_gives_the_warp_error_and_flicker_of_its_step() -> None:
    """+-d on still frames: warp error (2 d)^2; E less the mean of itself and its neighbours is +-2/3 of the
    step inside and half of it at both ends."""
    step = 0.1
    signs = torch.tensor([(-1.0) ** f for f in range(COUNT)])
    clip = still()
    edited = clip + step * signs[:, None, None, None]
    figures = steadiness(clip, edited)
    assert figures.original < 1e-6
    assert all(abs(pair - (2 * step) ** 2 * 1e3) < 1e-2 for pair in figures.pairs)
    assert abs(figures.excess - 40) < 1e-2
    inside, end = 2 * step * 2 / 3, 2 * step / 2
    drift = torch.tensor([end, *[inside] * (COUNT - 2), end]) * signs
    assert abs(figures.flicker - float(drift.std()) * 255) < 0.05
    known = steadiness(clip, edited, truth=clip)
    assert abs(known.flicker - float((signs * step).std()) * 255) < 0.01
    assert known.truth is not None and abs(known.truth - step) < 1e-6


def test_a_constant_change_of_colour_is_steady_and_not_true() -> None:
    clip = still()
    figures = steadiness(clip, clip + 0.1, truth=clip)
    assert abs(figures.excess) < 1e-6 and figures.flicker < 1e-3
    assert figures.truth is not None and abs(figures.truth - 0.1) < 1e-6


def test_a_recoloured_thing_that_moves_is_steady_and_one_repainted_by_chance_is_not() -> None:
    clip, mask = sliding((0.9, 0.2, 0.1))
    blue, _ = sliding((0.1, 0.2, 0.9))
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(COUNT, SIDE, SIDE, 3, generator=draw) * 0.05
    steady, shaky = steadiness(clip, blue, mask), steadiness(clip, blue + noise * mask[..., None], mask)
    assert abs(steady.excess) < 0.3
    assert 3 < shaky.excess < 6  # twice the variance of the noise, a little less for bilinear looking up
    tinted = blue + (torch.randn(COUNT, 1, 1, 3, generator=draw) * 0.05) * mask[..., None]
    assert steadiness(clip, tinted, mask).flicker > 4 * steady.flicker


def test_only_the_mask_counts_and_a_cut_is_no_flicker() -> None:
    clip = still().clone()
    mask = torch.zeros(COUNT, SIDE, SIDE)
    mask[:3, 10:20, 10:20] = 1
    edited = clip + torch.rand(COUNT, SIDE, SIDE, 3) * (1 - mask[..., None])
    figures = steadiness(clip, edited, mask)
    assert all(pair < 1e-5 for pair in figures.pairs[:2])
    assert all(math.isnan(pair) for pair in figures.pairs[2:]) and figures.excess < 1e-5
    one = steadiness(clip, edited, mask[:1])
    assert len([pair for pair in one.pairs if not math.isnan(pair)]) == COUNT - 1
    empty = steadiness(clip, edited, torch.zeros(1, SIDE, SIDE), truth=clip)
    assert math.isnan(empty.excess) and empty.flicker == 0 and empty.truth == 0 and empty.covered == 0


def test_a_jump_where_a_window_begins_is_a_seam() -> None:
    draw = torch.Generator().manual_seed(2)
    clip = still()
    edited = clip + torch.randn(COUNT, SIDE, SIDE, 3, generator=draw) * 0.02
    assert abs((steadiness(clip, edited, borders=[3]).seam or 0) - 1) < 0.2
    edited[3:] += 0.1
    seam = steadiness(clip, edited, borders=[3]).seam
    assert seam is not None and 8 < seam < 20
    still_seam = steadiness(clip, clip, borders=[3]).seam
    assert still_seam is not None and math.isfinite(still_seam)
    assert steadiness(clip, edited, borders=[0, COUNT]).seam is None


def test_clips_that_do_not_belong_together_are_refused_with_their_sizes() -> None:
    clip = still()
    with pytest.raises(PictureError, match=r"edited clip: \[5, 40, 40, 3\] beside an original of \[6"):
        steadiness(clip, clip[:5])
    with pytest.raises(PictureError, match=r"mask: \[2, 40, 40\] for a clip of \[6"):
        steadiness(clip, clip, torch.ones(2, SIDE, SIDE))
    with pytest.raises(PictureError, match="2 or more"):
        steadiness(clip[:1], clip[:1])


def test_the_strip_shows_evenly_spread_pairs_and_heat_where_it_flickers() -> None:
    assert shown_pairs(2) == [0] and shown_pairs(6) == [0, 1, 2, 3, 4]
    assert shown_pairs(300)[0] == 0 and shown_pairs(300)[-1] == 298 and len(shown_pairs(300)) == 8
    heat = heat_picture(torch.tensor([[0.0, 0.02]]))
    assert heat[0, 0].tolist() == [0, 0, 0] and heat[0, 1].tolist() == [1, 1, 1]
    clip = still()
    edited = clip.clone()
    edited[3, :20] += 0.3
    heats: dict[int, Tensor] = {}
    figures = steadiness(clip, edited, on_pair=heats.__setitem__)
    assert heats[2][:20].min() > 0.05 and heats[2][20:].max() < 1e-6 and heats[0].max() < 1e-6
    picture = draw_strip(clip, edited, heats, figures, [3])
    assert picture.getpixel((20 + 84 + 2 * 134 + 64, 50 + 2 * 134 + 20)) == (255, 255, 255)
    assert picture.getpixel((20 + 84 + 64, 50 + 2 * 134 + 20)) == (0, 0, 0)


def test_the_command_prints_the_table_and_writes_figures_and_strip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    clip, mask = sliding((0.9, 0.2, 0.1))
    blue, _ = sliding((0.1, 0.2, 0.9))
    for name, frames in (("clip", clip), ("edited", blue), ("mask", mask[..., None].float().expand_as(clip))):
        folder = tmp_path / name
        folder.mkdir()
        for f, frame in enumerate(frames):
            Image.fromarray((frame * 255).round().byte().numpy()).save(folder / f"{f}.png")
    assert main(["steadiness", "clip", "edited", "--mask", "mask", "--border", "3", "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert "excess warp error" in said and "0: as steady as the original" in said
    figures = json.loads((tmp_path / "out/steadiness.json").read_text())
    assert abs(figures["excess"]) < 0.5 and len(figures["pairs"]) == COUNT - 1
    assert figures["seam"] is not None
    with Image.open(tmp_path / "out/steadiness.png") as strip:
        assert strip.width > 700
    assert main(["steadiness", "clip", "edited", "--flow", "lk"]) == 0
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    assert main(["steadiness", "clip", "one.png"]) == 2
    assert main(["steadiness", "clip", "edited", "--mask", "one.png"]) == 2
    assert main(["steadiness", "one.png", "one.png"]) == 2
    assert "9 x 9" in capsys.readouterr().err
