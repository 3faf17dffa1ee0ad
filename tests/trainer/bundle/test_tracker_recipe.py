"""The bundled tracker's recipe: the batched run is the library's own, the losses are SAM 2's, a stopped run
goes on to the same weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evlm.errors import ConfigError
from evlm.segment.segmenter import Segmenter
from trainer.bundle.segmenter import INPUT, SIZE
from trainer.bundle.tracker import Recipe, check, clip_loss, clip_sample, losses, normalised, train
from trainer.bundle.tracker_model import Frame, make_tracker, stills, unroll
from trainer.bundle.tracker_state import save

BUNDLED = Path(__file__).resolve().parents[3] / "evlm" / "bundled" / "segmenter"


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return make_tracker(BUNDLED).eval()


def test_it_begins_with_the_segmenters_hiera(model: Any) -> None:
    own = Segmenter.load(BUNDLED).model.state_dict()
    taken = model.state_dict()
    same = [name for name in own if name.startswith("vision_encoder.backbone.")]
    assert len(same) > 20 and all(torch.equal(own[name].float(), taken[name]) for name in same)


def test_the_batched_run_is_the_librarys_own(model: Any) -> None:
    """Each clip by itself through transformers' inference session gives the masks of the batch."""
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    rng = random.Random(0)
    batch = [clip_sample(rng, "train") for _ in range(2)]
    clips = normalised(batch)
    boxes = torch.tensor(np.stack([each.box for each in batch])) * (INPUT / SIZE)
    with torch.inference_mode():
        frames = unroll(model, clips, boxes)
        for at, clip in enumerate(clips):
            session = Sam2VideoInferenceSession(
                video=clip, video_height=SIZE, video_width=SIZE, dtype=torch.float32
            )
            session.obj_id_to_idx(1)
            points = boxes[at].view(1, 1, 2, 2)
            labels = torch.tensor([[[2, 3]]], dtype=torch.int32)
            session.add_point_inputs(0, 0, {"point_coords": points, "point_labels": labels})
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
        sample = clip_sample(rng, "test")
        assert sample.frames.shape == (8, SIZE, SIZE, 3) and sample.masks.shape == (8, SIZE, SIZE)
        x0, y0, x1, y1 = sample.box.astype(int)
        assert sample.masks[0, y0:y1, x0:x1].sum() == sample.masks[0].sum() >= 20
        hidden += sample.hidden
    assert 3 <= hidden <= 19


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
    assert 7 < float(losses(blind, truth[:, :1])[0]) < 9  # taken for absent: presence alone is learned


def test_a_few_steps_learn_and_reach_all_parts(model: Any) -> None:
    model.train()
    rng = random.Random(0)
    batch = [clip_sample(rng, "train", 4) for _ in range(2)]
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
    save(model, tmp_path / "tracker", {"stills": 0})
    segmenter = Segmenter.load(tmp_path / "tracker")
    masks = segmenter.segment(torch.rand(1, SIZE, SIZE, 3), boxes=torch.tensor([[8.0, 8, 30, 30]])).masks
    assert masks.shape == (1, 1, SIZE, SIZE)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.bundle.tracker.STATE_EVERY", 1)
    recipe = Recipe(stills=1, clips=2, batch=2, clip_batch=1)
    lines: list[str] = []
    whole = train(tmp_path / "a", tmp_path / "wa", BUNDLED, 0, lines.append, recipe)

    class Stopped(Exception):
        pass

    def stop(*given: Any) -> Any:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("trainer.bundle.tracker.clip_loss", stop)
        with pytest.raises(Stopped):
            train(tmp_path / "b", tmp_path / "wb", BUNDLED, 0, lines.append, recipe)
    again = train(tmp_path / "b", tmp_path / "wb", BUNDLED, 0, lines.append, recipe)
    one, two = whole.state_dict(), again.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ConfigError, match="is of Recipe"):
        train(tmp_path / "c", tmp_path / "wa", BUNDLED, 0, lines.append, Recipe(stills=9))


def test_the_check_gives_the_bars_figures(model: Any) -> None:
    figures = check(model, clips=2)
    assert figures["clips"] == 2 and 0 <= figures["present"] <= 1
    assert all(0 <= figures[name] <= 1 for name in ("j", "j_hidden") if name in figures)
