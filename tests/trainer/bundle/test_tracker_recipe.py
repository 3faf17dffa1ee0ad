"""The bundled tracker's recipe: the batched run is the library's own, the losses are SAM 2's, a stopped run
goes on to the same weights."""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evlm.errors import ConfigError
from evlm.segment.memory import HfMemory
from evlm.segment.segmenter import Segmenter
from evlm.segment.tracker import Tracker, tracker_source
from trainer.bundle.segmenter import INPUT, SIZE
from trainer.bundle.tracker import (
    RECIPE,
    Recipe,
    Round,
    Stage,
    check,
    clip_loss,
    clip_sample,
    correction,
    losses,
    normalised,
    picture_sample,
    train,
)
from trainer.bundle.tracker_model import Frame, make_tracker, stills, unroll
from trainer.bundle.tracker_state import save

BUNDLED = Path(__file__).resolve().parents[3] / "evlm" / "bundled" / "segmenter"


@pytest.fixture(scope="module")
def made() -> Any:
    return make_tracker(BUNDLED).eval()


@pytest.fixture
def model(made: Any) -> Any:
    return copy.deepcopy(made)


@pytest.mark.parametrize(
    "prompt", ["boxes", *(pytest.param(each, marks=pytest.mark.slow) for each in ("points", "masks"))]
)
def test_its_image_half_begins_as_the_segmenters_own_function(model: Any, prompt: str) -> None:
    narrow, wide = Segmenter.load(BUNDLED).model.float(), stills(model).eval()
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, 3, INPUT, INPUT, generator=generator)
    given = {
        "boxes": {"input_boxes": torch.tensor([[[10.0, 12, 50, 60], [70, 60, 90, 99]]] * 2)},
        "points": {"input_points": torch.full((2, 1, 1, 2), 40.0)},
        "masks": {"input_masks": 5 * torch.randn(2, 1, 32, 32, generator=generator)},
    }[prompt]
    with torch.inference_mode():
        old, new = (each(pixel_values=pictures, **given) for each in (narrow, wide))
    assert float(old.pred_masks.abs().max()) > 5
    assert torch.allclose(old.pred_masks, new.pred_masks, atol=1e-3)
    assert torch.allclose(old.iou_scores, new.iou_scores, atol=1e-4)


def test_the_halves_of_a_channel_may_part(model: Any) -> None:
    """Equal weights would have equal gradients for ever."""
    out = stills(model)(torch.randn(1, 3, INPUT, INPUT), input_boxes=torch.tensor([[[9.0, 9, 60, 60]]]))
    (out.pred_masks.square().mean() + out.iou_scores.mean()).backward()
    for name, parameter in model.mask_decoder.transformer.named_parameters():
        if name.endswith("o_proj.weight"):
            halves = parameter.grad.unflatten(0, (-1, 2))
            assert not torch.allclose(halves[:, 0], halves[:, 1], rtol=0.05), name


def test_the_batched_run_is_the_librarys_own(model: Any) -> None:
    """Each clip by itself through transformers' inference session gives the masks of the batch."""
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    rng = random.Random(3)
    batch = [clip_sample(rng, "train", 8, 3) for _ in range(2)]
    whose = torch.tensor([at for at, each in enumerate(batch) for _ in each.masks])
    assert len(whose) > len(batch)
    clips = normalised(batch)
    boxes = torch.tensor(np.concatenate([each.boxes for each in batch])).view(-1, 2, 2) * (INPUT / SIZE)
    kinds = torch.tensor([[2, 3]] * len(whose), dtype=torch.int32)
    with torch.inference_mode():
        frames = unroll(model, clips, (boxes, kinds), whose)
        for at, clip in enumerate(clips[whose]):
            session = Sam2VideoInferenceSession(
                video=clip, video_height=SIZE, video_width=SIZE, dtype=torch.float32
            )
            session.obj_id_to_idx(1)
            session.add_point_inputs(
                0, 0, {"point_coords": boxes[at][None, None], "point_labels": kinds[at][None, None]}
            )
            session.obj_with_new_inputs = [1]
            for t, frame in enumerate(frames):
                wanted = model(inference_session=session, frame_idx=t)
                assert float((wanted.object_score_logits.reshape(()) - frame.present[at]).abs()) < 2e-2
                assert (
                    float((wanted.pred_masks.reshape(frame.logits[at].shape) - frame.logits[at]).abs().max())
                    < 5e-2
                )


def test_samples_are_of_their_split_and_show_the_thing_first() -> None:
    rng = random.Random(3)
    hidden = 0
    for _ in range(20):
        sample = clip_sample(rng, "test", 8)
        assert sample.frames.shape == (8, SIZE, SIZE, 3) and sample.masks.shape == (1, 8, SIZE, SIZE)
        x0, y0, x1, y1 = sample.boxes[0].astype(int)
        assert sample.masks[0, 0, y0:y1, x0:x1].sum() == sample.masks[0, 0].sum() >= 20
        hidden += bool(sample.hidden[0])
    assert 3 <= hidden <= 19
    several = [len(clip_sample(rng, "train", 3, 3).masks) for _ in range(10)]
    assert min(several) >= 1 and 2 <= max(several) <= 3


def test_pictures_are_frames_of_clips_with_what_is_seen_of_things() -> None:
    rng = random.Random(1)
    for _ in range(10):
        sample = picture_sample(rng)
        assert sample.silhouettes.sum(0).max() == 1  # what hides another is in front of it
        for box, mask in zip(sample.boxes.astype(int), sample.silhouettes, strict=True):
            assert mask.sum() == mask[box[1] : box[3], box[0] : box[2]].sum() >= 20
        assert len(sample.things) == len(sample.boxes)


def test_a_click_corrects_where_most_is_wrong() -> None:
    truth = torch.zeros(3, 32, 32)
    truth[0, 4:12, 4:12] = truth[1, 4:6, 4:6] = 1
    told = truth.clone()
    told[0], told[1, 20:30, 20:30] = 0, 1  # missed; another was taken too; right
    frame = Frame(told * 20 - 10, torch.ones(3), torch.ones(3))
    places, kinds = correction(frame, truth, random.Random(0))
    assert kinds.tolist() == [[1], [0], [-1]]
    at = (places / (INPUT / SIZE)).long()
    assert truth[0, at[0, 0, 1], at[0, 0, 0]] == 1
    assert told[1, at[1, 0, 1], at[1, 0, 0]] == 1 and truth[1, at[1, 0, 1], at[1, 0, 0]] == 0


def test_a_steps_batch_is_of_its_stage_and_its_rate_of_its_round() -> None:
    recipe = Recipe((short(Stage(2, "p"), Stage(3, "ccp", 8, 3)), short(Stage(2, "cp", 4, 8), rate=0.5)))
    found = [recipe.at(step) for step in range(7)]
    assert [size for _, _, size in found] == [None, None, (8, 3), (8, 3), None, (4, 8), None]
    assert [(here.rate, number) for here, number, _ in found] == [(0.1, n) for n in range(5)] + [
        (0.5, 0),
        (0.5, 1),
    ]
    assert RECIPE.at(RECIPE.steps - 3)[2] == (3, 12)


def short(*stages: Stage, rate: float = 0.1) -> Round:
    return Round(stages, pictures=2, moving=0.5, rate=rate, other_rate=1e-3, image=0.5)


def test_losses_are_least_where_mask_and_presence_are_right() -> None:
    truth = torch.zeros(1, 2, 32, 32)
    truth[0, 0, 8:20, 8:20] = 1  # there in the first frame, absent in the second
    sure = (truth[:, 0] * 2 - 1) * 12
    right = [
        Frame(sure, torch.ones(1), torch.tensor([8.0])),
        Frame(torch.full((1, 32, 32), -1024.0), torch.zeros(1), torch.tensor([-8.0])),
    ]
    wrong = [
        Frame(-sure, torch.ones(1), torch.tensor([8.0])),
        Frame(sure, torch.zeros(1), torch.tensor([8.0])),
    ]
    best, parts = losses(right, truth)
    assert float(best) < 0.01 and parts["iou"] == "1.000" and parts["present"] == "1.000"
    assert float(losses(wrong, truth)[0]) > 5 and losses(wrong, truth)[1]["present"] == "0.500"
    blind = [Frame(sure, torch.zeros(1), torch.tensor([-8.0]))]
    assert 3.9 < float(losses(blind, truth[:, :1])[0]) < 4.1  # taken for absent: presence alone is learned


@pytest.mark.slow  # the stopped run below trains all of it
def test_a_few_steps_learn_and_reach_all_parts(model: Any) -> None:
    model.train()
    rng = random.Random(0)
    batch = [clip_sample(rng, "train", 4, 2) for _ in range(2)]
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    values = []
    for _ in range(6):
        loss, _ = clip_loss(model, batch, random.Random(1))
        optimizer.zero_grad()
        loss.backward()
        if not values:
            parts = ("memory_attention", "memory_encoder", "mask_decoder", "object_pointer_proj")
            for part in (*parts, "vision_encoder"):
                grads = [p.grad for p in getattr(model, part).parameters() if p.grad is not None]
                assert any(bool(grad.any()) for grad in grads), part
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.8 * values[0]


def test_the_image_half_is_read_as_a_segmenter(model: Any, tmp_path: Path) -> None:
    view = stills(model)
    assert view.mask_decoder is model.mask_decoder and view.no_memory_embedding is model.no_memory_embedding
    save(model, tmp_path / "tracker", {"pictures": 0})
    segmenter = Segmenter.load(tmp_path / "tracker")
    masks = segmenter.segment(torch.rand(1, SIZE, SIZE, 3), boxes=torch.tensor([[8.0, 8, 30, 30]])).masks
    assert masks.shape == (1, 1, SIZE, SIZE)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.bundle.tracker.STATE_EVERY", 1)
    recipe = Recipe((short(Stage(1, "p"), Stage(2, "c", 1, 2)),))
    lines: list[str] = []
    whole = train(tmp_path / "a", tmp_path / "wa", BUNDLED, 0, lines.append, recipe)

    class Stopped(Exception):
        pass

    def stop(*given: Any) -> Any:
        raise Stopped

    kept = clip_loss
    calls = iter([kept, stop])
    with monkeypatch.context() as patch:
        patch.setattr("trainer.bundle.tracker.clip_loss", lambda *given: next(calls)(*given))
        with pytest.raises(Stopped):
            train(tmp_path / "b", tmp_path / "wb", BUNDLED, 0, lines.append, recipe)
    again = train(tmp_path / "b", tmp_path / "wb", BUNDLED, 0, lines.append, recipe)
    one, two = whole.state_dict(), again.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ConfigError, match="is of Recipe"):
        train(tmp_path / "c", tmp_path / "wa", BUNDLED, 0, lines.append, RECIPE)


@pytest.mark.slow  # as the stopped run above, with a recipe of two rounds
def test_a_round_more_goes_on_where_the_rounds_before_ended(tmp_path: Path) -> None:
    rounds = short(Stage(1, "p")), short(Stage(1, "c", 1, 2), rate=0.5)
    whole = train(tmp_path / "a", tmp_path / "wa", BUNDLED, 0, recipe=Recipe(rounds))
    train(tmp_path / "b", tmp_path / "wb", BUNDLED, 0, recipe=Recipe(rounds[:1]))
    again = train(tmp_path / "b", tmp_path / "wb", BUNDLED, 0, recipe=Recipe(rounds))
    one, two = whole.state_dict(), again.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow  # the command below checks too
def test_the_check_gives_the_bars_figures(model: Any) -> None:
    figures = check(Tracker(HfMemory(model)), clips=2)
    assert figures["clips"] == 2 and 0 <= figures["present"] <= 1
    assert all(0 <= figures[name] <= 1 for name in ("j", "j_hidden") if name in figures)


def test_the_command_puts_a_tracker_into_the_segmenters_folder(tmp_path: Path, capsys: Any) -> None:
    """The segmenter itself stays; the check measures the tracker against its bars, where there is one."""
    from trainer.__main__ import main
    from trainer.bundle.check import check_all

    options = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert main(["bundle", "tracker", *options]) == 2
    assert "no segmenter: not what a tracker begins with; name another by --begin" in capsys.readouterr().err
    said: list[str] = []
    here = tmp_path / "out" / "segmenter"
    shutil.copytree(BUNDLED, here, ignore=shutil.ignore_patterns("tracker"))
    weights = (here / "model.safetensors").read_bytes()
    assert check_all(tmp_path / "out", 5, 1, ("tracker",), tmp_path, said.append) == 0
    assert "`bundle tracker` trains the segmenter on" in said[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.bundle.tracker.RECIPE", Recipe((short(Stage(1, "c", 1, 2)),)))
        assert main(["bundle", "tracker", *options]) == 0
    check_all(tmp_path / "out", 5, 1, ("tracker",), tmp_path, said.append)
    assert "| tracker: IoU over 16 frames" in said[-1] or "| … where something does" in said[-1]
    assert (here / "model.safetensors").read_bytes() == weights
    assert tracker_source(here) == here / "tracker" and tracker_source(here / "tracker") == here / "tracker"
    assert main(["bundle", "tracker", *options, "--begin", str(here / "tracker")]) == 2
    assert "is a tracker already" in capsys.readouterr().err
