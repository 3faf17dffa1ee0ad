"""InstructPix2Pix against diffusers' own pipeline, and everything that a masked edit promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_ip2p
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evlm.edit import EditSettings
from evlm.edit.ip2p import IP2P
from evlm.edit.schedulers import SCHEDULERS, build_scheduler
from evlm.errors import Cancelled, ModelError, PictureError, RequestError

QUICK = EditSettings(steps=2, scheduler="ddim", seed=5)
SIZE = 32


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[IP2P, Any]]:
    """Our editor and diffusers' pipeline, with the same weights, by what they predict."""

    @cache
    def made(prediction: str) -> tuple[IP2P, Any]:
        pipe = tiny_ip2p.build(prediction, linear=prediction == "v_prediction", seed=1)
        pipe.set_progress_bar_config(disable=True)
        manner = {"best_resolution": SIZE, "scheduler": "ddim"}
        folder = tiny_ip2p.save_folder(pipe, tmp_path_factory.mktemp("both"), manner)
        return IP2P.load(folder, device="cpu"), pipe

    return made


# A prediction of v goes through the model's own, and one of each kind of schedulers.
FAST = ("model", "ddim", "euler")
CASES = [
    *(("epsilon", name) for name in ("model", *SCHEDULERS)),
    *(
        pytest.param("v_prediction", name, marks=() if name in FAST else pytest.mark.slow)
        for name in ("model", *SCHEDULERS)
    ),
]


@pytest.mark.parametrize(("prediction", "name"), CASES)
def test_a_whole_frame_equals_diffusers_pipeline(
    both: Callable[[str], tuple[IP2P, Any]], prediction: str, name: str
) -> None:
    editor, pipe = both(prediction)
    frames = tiny_ip2p.frames(1, SIZE, SIZE)
    ours = editor.edit(frames, "make it red", settings=EditSettings(steps=3, scheduler=name, seed=3))
    pipe.scheduler = build_scheduler(name, editor.scheduler_config)
    theirs = pipe(
        "make it red",
        image=frames.movedim(-1, 1),
        num_inference_steps=3,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images.movedim(1, -1)
    assert ours.frames.std() > 0.05
    assert torch.allclose(ours.frames, theirs, atol=2e-4)


def test_other_seeds_words_and_guidance_give_other_pictures(editor: IP2P) -> None:
    frames = tiny_ip2p.frames(1, SIZE, SIZE)
    base = editor.edit(frames, "make it red", settings=QUICK).frames
    assert torch.equal(base, editor.edit(frames, "make it red", settings=QUICK).frames)
    assert not torch.equal(base, editor.edit(frames, "make it blue", settings=QUICK).frames)
    for change in ({"seed": 6}, {"guidance": 3.0}, {"image_guidance": 1.1}, {"steps": 3}, {"strength": 0.6}):
        other = editor.edit(frames, "make it red", settings=replace(QUICK, **change))
        assert not torch.equal(base, other.frames), change


@pytest.mark.parametrize(
    "guidance, image_guidance, predictions", [(7.5, 1.5, 3), (7.5, 1.0, 2), (1.0, 1.0, 1)]
)
def test_a_prediction_without_weight_is_not_computed(
    editor: IP2P, monkeypatch: pytest.MonkeyPatch, guidance: float, image_guidance: float, predictions: int
) -> None:
    batches = []
    forward = editor.unet.forward
    monkeypatch.setattr(
        editor.unet, "forward", lambda x, *a, **k: batches.append(len(x)) or forward(x, *a, **k)
    )
    chosen = replace(QUICK, guidance=guidance, image_guidance=image_guidance)
    editor.edit(tiny_ip2p.frames(2, SIZE, SIZE), "make it red", settings=chosen)
    assert batches == [2 * predictions] * 2


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_outside_the_mask_every_bit_stays(editor: IP2P, data: st.DataObject) -> None:
    side = st.one_of(st.sampled_from([1, 2, 7, 31, 64, 65]), st.integers(1, 90))
    height, width, count = data.draw(side), data.draw(side), data.draw(st.integers(1, 3))
    frames = tiny_ip2p.frames(count, height, width, data.draw(st.integers(0, 99)))
    mask = torch.zeros(data.draw(st.sampled_from([1, count])), height, width)
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0, width)), data.draw(st.integers(y0, height))
    mask[:, y0:y1, x0:x1] = data.draw(st.sampled_from([1.0, 0.5, 0.49]))
    scheduler = data.draw(st.sampled_from(sorted(SCHEDULERS)))
    chosen = EditSettings(steps=1, scheduler=scheduler, feather=data.draw(st.sampled_from([None, 0, 3])))
    before = frames.clone(), mask.clone()
    edited = editor.edit(frames, "make it red", mask, chosen)
    off = (mask < 0.5).expand(count, -1, -1)
    assert torch.equal(edited.frames[off], frames[off])
    assert edited.frames.shape == frames.shape and edited.frames.dtype == torch.float32
    assert edited.frames.isfinite().all() and edited.frames.min() >= 0 and edited.frames.max() <= 1
    assert torch.equal(frames, before[0]) and torch.equal(mask, before[1])
    if off.all():
        assert edited.box is None and len(edited.crops) == 0 and "nothing is chosen" in edited.notes[0]
    else:
        assert not torch.equal(edited.frames[~off], frames[~off])


@pytest.mark.parametrize("height, width", [(1, 1), (1, 200), (37, 61)])
def test_a_whole_frame_of_any_size_comes_back_in_its_size(editor: IP2P, height: int, width: int) -> None:
    frames = tiny_ip2p.frames(1, height, width)
    assert editor.edit(frames, "make it red", settings=QUICK).frames.shape == frames.shape


def test_latents_outside_the_mask_follow_the_original(editor: IP2P, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, torch.Tensor] = {}
    encode, decode = editor.encode, editor.decode
    monkeypatch.setattr(editor, "encode", lambda x: seen.setdefault("original", encode(x)))
    monkeypatch.setattr(editor, "decode", lambda z: decode(seen.setdefault("result", z)))
    mask = torch.zeros(1, 64, 64)
    mask[:, 21:40, 23:41] = 1
    editor.edit(tiny_ip2p.frames(), "make it red", mask, QUICK)
    changed = (seen["original"] - seen["result"]).abs().amax((0, 1)) > 1e-5
    # the 24-pixel crop starts at row 18, column 20; a cell is 2 pixels, one that the mask only touches counts
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1])) == (1, 10)
    assert (int(columns[0]), int(columns[-1])) == (1, 10)


def test_less_strength_stays_closer_to_the_original(editor: IP2P) -> None:
    frames = tiny_ip2p.frames(1, SIZE, SIZE)
    kept = editor.decode(editor.encode(frames))
    far = []
    for strength in (0.1, 1.0):
        chosen = replace(QUICK, steps=10, strength=strength)
        far.append(float((editor.edit(frames, "make it red", settings=chosen).crops - kept).abs().mean()))
    assert far[0] < 0.8 * far[1]


def test_a_frame_is_the_same_in_every_chunk(editor: IP2P) -> None:
    frames, mask = tiny_ip2p.frames(5), torch.zeros(5, 64, 64)
    for index in range(5):
        mask[index, 20:40, 5 * index : 5 * index + 20] = 1
    at_once = editor.edit(frames, "make it red", mask, replace(QUICK, scheduler="euler_a", chunk=5))
    in_twos = editor.edit(frames, "make it red", mask, replace(QUICK, scheduler="euler_a", chunk=2))
    assert torch.allclose(at_once.frames, in_twos.frames, atol=1e-4)
    assert at_once.notes == in_twos.notes == ()
    assert at_once.box is not None and at_once.crops.shape[:3] == (5, at_once.box.height, at_once.box.width)


def test_frames_without_a_mask_stay_and_are_not_computed(editor: IP2P) -> None:
    frames, mask = tiny_ip2p.frames(3), torch.zeros(3, 64, 64)
    mask[1, 10:30, 10:30] = 1
    edited = editor.edit(frames, "make it red", mask, QUICK)
    assert torch.equal(edited.frames[[0, 2]], frames[[0, 2]]) and not torch.equal(edited.frames[1], frames[1])
    assert len(edited.crops) == 1 and "2 of 3 frames" in edited.notes[0]


def test_out_of_memory_halves_the_chunk_and_says_so(editor: IP2P) -> None:
    frames = tiny_ip2p.frames(5, SIZE, SIZE)
    sizes = []

    def small_machine(done: int, total: int, preview: torch.Tensor | None) -> None:
        assert preview is not None and total == 10
        sizes.append(len(preview))
        if len(preview) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (pretended)")

    edited = editor.edit(frames, "make it red", settings=QUICK, on_step=small_machine)
    assert sizes == [5, 2, *[1] * 10]
    assert [note[: note.index(" frames")] for note in edited.notes] == [
        "out of memory with 5",
        "out of memory with 2",
    ]
    alone = editor.edit(frames, "make it red", settings=QUICK)
    assert torch.allclose(edited.frames, alone.frames, atol=1e-4)


def test_a_single_frame_that_does_not_fit_is_one_clear_error(editor: IP2P) -> None:
    def no_memory(*_: object) -> None:
        raise RuntimeError("MPS backend out of memory")

    with pytest.raises(ModelError, match="single frame"):
        editor.edit(tiny_ip2p.frames(2, SIZE, SIZE), "make it red", settings=QUICK, on_step=no_memory)


def test_the_callback_sees_progress_and_pictures_and_can_cancel(editor: IP2P) -> None:
    steps: list[tuple[int, int]] = []

    def watch(done: int, total: int, preview: torch.Tensor | None) -> None:
        steps.append((done, total))
        assert preview is not None and preview.shape[1:] == (16, 16, 3)
        assert preview.min() >= 0 and preview.max() <= 1
        if done == 4:
            raise Cancelled

    frames = tiny_ip2p.frames(3, SIZE, SIZE)
    chosen = replace(QUICK, chunk=2)
    with pytest.raises(Cancelled):
        editor.edit(frames, "make it red", settings=chosen, on_step=watch)
    assert steps == [(2, 6), (4, 6)]
    seen = []
    editor.edit(frames, "make it red", settings=chosen, on_step=lambda *a: seen.append(a[:2]))
    assert seen == [(2, 6), (4, 6), (5, 6), (6, 6)]


def test_any_instruction_is_read_and_a_long_one_cut_with_a_note(editor: IP2P) -> None:
    frames = tiny_ip2p.frames(1, SIZE, SIZE)
    for text in ("", "é \U0001f642 \x00 <|endoftext|>", "Make It RED"):
        assert editor.edit(frames, text, settings=QUICK).notes == ()
    assert "cut off" in editor.edit(frames, "red " * 2500, settings=QUICK).notes[0]


@pytest.mark.parametrize(
    "frames, mask",
    [
        (torch.full((1, 8, 8, 3), float("nan")), None),
        (torch.full((1, 8, 8, 3), 2.5), None),
        (torch.zeros(0, 8, 8, 3), None),
        (torch.zeros(1, 8, 8, 4), None),
        (torch.zeros(3, 8, 8, 3), torch.zeros(2, 8, 8)),
        (torch.zeros(1, 8, 8, 3), torch.full((1, 8, 8), float("nan"))),
    ],
)
def test_bad_frames_and_masks_are_picture_errors(
    editor: IP2P, frames: torch.Tensor, mask: torch.Tensor | None
) -> None:
    with pytest.raises(PictureError):
        editor.edit(frames, "make it red", mask, QUICK)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"guidance": float("nan")}, {"strength": 0.0}, {"strength": 1.1}, {"seed": -1},
     {"chunk": 0}, {"context": 0.5}, {"feather": -1}],
)  # fmt: skip
def test_settings_out_of_range_are_request_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        EditSettings(**wrong)


def test_an_unknown_scheduler_is_refused_with_the_known_ones(editor: IP2P, folder: Path) -> None:
    with pytest.raises(RequestError, match="euler_a"):
        editor.edit(tiny_ip2p.frames(), "make it red", settings=replace(QUICK, scheduler="best"))
    with pytest.raises(RequestError, match="euler_a"):
        IP2P.load(folder, device="cpu", scheduler="best")
    assert IP2P.load(folder, device="cpu", scheduler="unipc").defaults.scheduler == "unipc"


def test_a_model_that_overflows_says_what_to_do(editor: IP2P, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = editor.vae.decode
    monkeypatch.setattr(editor.vae, "decode", lambda z: decode(z * float("nan")))
    with pytest.raises(ModelError, match="fp32"):
        editor.edit(tiny_ip2p.frames(1, SIZE, SIZE), "make it red", settings=QUICK)
