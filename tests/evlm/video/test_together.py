"""Frames that look at each other, and windows without seams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_ip2p
import torch
from torch import Tensor

from evlm.edit.guidance import Guidance
from evlm.edit.ip2p import IP2P
from evlm.edit.protocol import EditSettings
from evlm.errors import Cancelled, ModelError, RequestError
from evlm.video.clip import edit_clip, edit_windows, route
from evlm.video.settings import VideoSettings
from evlm.video.together import MODES, references, shared
from evlm.video.windows import spans

QUICK = EditSettings(steps=2, scheduler="ddim", seed=5)
SHARING = [mode for mode in MODES if mode != "per-frame"]


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> IP2P:
    folder = tiny_ip2p.save_folder(tiny_ip2p.build(), tmp_path_factory.mktemp("ip2p") / "folder")
    return tiny_ip2p.load(folder)


def masks(count: int, step: int = 4) -> Tensor:
    on = torch.zeros(count, 64, 64)
    for frame in range(count):
        on[frame, 20:40, step * frame : step * frame + 20] = 1
    return on


def one_call(editor: IP2P, batch: Tensor, refs: Any, chunk: int = 99) -> Tensor:
    """One step's prediction of latents [A, 4, h, w] with the references."""
    guide = Guidance(torch.ones(2, 3, 16), batch.flip(-1), 7.5, 1.5)
    with torch.no_grad(), shared(editor.unet) as sharing:
        return sharing.window(refs, chunk, [])(guide, editor.unet, batch, torch.tensor(500))


def test_who_looks_at_whom() -> None:
    assert references("per-frame", 3) == ((0,), (1,), (2,))
    assert references("sparse", 4) == ((0,), (0, 1), (0, 1, 2), (0, 2, 3))
    assert references("tav", 4) == ((0,), (0,), (0, 1), (0, 2))
    assert references("anchors", 4) == ((0, 2), (0, 1, 2), (0, 2), (0, 2, 3))
    assert references("all", 3) == ((0, 1, 2),) * 3
    with pytest.raises(RequestError, match="anchors"):
        references("both", 3)  # type: ignore[arg-type]


def test_without_references_it_is_diffusers_attention_bit_for_bit(editor: IP2P) -> None:
    noisy = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    guide = Guidance(torch.ones(2, 3, 16), noisy.flip(-1), 7.5, 1.5)
    with torch.no_grad():
        stock = guide(editor.unet, noisy, torch.tensor(500))
    assert torch.equal(one_call(editor, noisy, references("per-frame", 3)), stock)


@pytest.mark.parametrize("mode", SHARING)
def test_each_frame_sees_just_its_references(editor: IP2P, mode: Any) -> None:
    """The oracle: softmax over the keys of the references, frame by frame, in plain loops."""
    count, layer = 5, editor.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    hidden = torch.randn(2 * count, 7, layer.to_q.in_features, generator=torch.Generator().manual_seed(1))
    refs = references(mode, count)
    with torch.no_grad(), shared(editor.unet) as sharing:
        seen: list[Tensor] = []

        def unet(batch: Tensor, _time: Tensor, encoder_hidden_states: Tensor) -> Any:
            which = [int(each) for each in batch[: len(batch) // 2, 0, 0, 0]]
            rows = which + [count + each for each in which]
            seen.append(layer(hidden[rows])), order.extend(which)
            return type("Out", (), {"sample": batch[:, :4]})

        order: list[int] = []
        numbers = torch.arange(count).float()[:, None, None, None].expand(-1, 4, 1, 1)
        guide = Guidance(torch.ones(2, 3, 16), numbers, 2.0, 1.0)  # two copies
        sharing.window(refs, 2, [])(guide, unet, numbers, torch.tensor(0))
        for copy in (0, 1):
            ours = torch.cat([each.chunk(2)[copy] for each in seen])
            for at, frame in enumerate(order):
                own = hidden[copy * count + frame]
                others = torch.cat([hidden[copy * count + ref] for ref in refs[frame]])
                query, key, value = layer.to_q(own), layer.to_k(others), layer.to_v(others)
                heads = []
                for q, k, v in zip(*(t.chunk(layer.heads, -1) for t in (query, key, value)), strict=True):
                    heads.append(torch.softmax(q @ k.T * q.shape[-1] ** -0.5, -1) @ v)
                truth = layer.to_out[0](torch.cat(heads, -1))
                assert torch.allclose(ours[at], truth, atol=1e-5)
    assert sorted(order) == list(range(count))


@pytest.mark.parametrize("mode", SHARING)
def test_on_equal_frames_every_manner_gives_the_single_picture(editor: IP2P, mode: Any) -> None:
    frame, mask = tiny_ip2p.frames(1), masks(1)
    alone = editor.edit(frame, "make it red", mask, QUICK).frames
    video = VideoSettings(together=mode, window=4, overlap=1)
    clip = edit_clip(editor, frame.expand(6, -1, -1, -1), "make it red", mask, QUICK, video=video).frames
    assert not torch.equal(alone, frame)
    assert float((clip - alone).abs().max()) <= 1e-5


@pytest.fixture
def exact(editor: IP2P) -> Iterator[IP2P]:
    """In float64: the library's kernels round a frame otherwise in a batch of another size."""
    for model in editor.modules:
        model.double()
    yield editor
    for model in editor.modules:
        model.float()


@pytest.mark.parametrize("mode", ["sparse", "tav", "anchors"])
def test_how_many_frames_are_in_memory_changes_nothing(exact: IP2P, mode: Any) -> None:
    frames, video = tiny_ip2p.frames(9), VideoSettings(together=mode, window=6)
    results = [
        edit_clip(exact, frames, "make it red", masks(9), replace(QUICK, chunk=chunk), video=video).frames
        for chunk in (6, 2)
    ]
    assert float((results[0] - results[1]).abs().max()) <= 1e-7
    alone = exact.edit(frames, "make it red", masks(9), QUICK).frames
    assert not torch.allclose(alone, results[0], atol=1e-3)  # they do look at each other


def test_frames_by_themselves_are_the_same_in_every_window(exact: IP2P) -> None:
    frames = tiny_ip2p.frames(9)
    alone = exact.edit(frames, "make it red", masks(9), QUICK).frames
    for window in ({}, {"window": 4}, {"window": 16, "overlap": 0}):
        video = VideoSettings(propagate="none", **window)
        clip = edit_clip(exact, frames, "make it red", masks(9), QUICK, video=video).frames
        assert float((clip - alone).abs().max()) <= 1e-7


def test_spans_cover_the_clip_once() -> None:
    for count in range(1, 40):
        for window, overlap in [(8, 2), (4, 0), (3, 2), (16, 5)]:
            found = spans(count, window, overlap)
            assert [f for each in found for f in range(each.new, each.stop)] == list(range(count))
            assert all(each.stop - each.start <= window and each.start <= each.new for each in found)


def test_a_finished_overlap_is_a_fixed_condition(editor: IP2P, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second window the shared frames end as the first one left them, and the others look at them."""
    given: list[Any] = []
    paint = editor.paint
    monkeypatch.setattr(editor, "paint", lambda *a, **k: given.append([paint(*a, **k), *a]) or given[-1][0])
    video = VideoSettings(together="sparse", window=4, overlap=2)
    frames = tiny_ip2p.frames(6)
    edit_clip(editor, frames, "make it red", masks(6), QUICK, video=video)
    first, second = (call[0] for call in given)
    assert torch.equal(second[:2], first[2:])
    darker = frames.clone()
    darker[2] *= 0.5  # which the second window only looks at
    edit_clip(editor, darker, "make it red", masks(6), QUICK, video=video)
    assert not torch.allclose(given[-1][0][2:], second[2:], atol=1e-4)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(editor: IP2P) -> None:
    frames, video = tiny_ip2p.frames(10), VideoSettings(together="anchors", window=4, overlap=1)
    routes = route(frames[:1], 10, masks(10), editor, QUICK, [])

    def run(**how: Any) -> list[Any]:
        read = lambda start, stop: frames[start:stop]  # noqa: E731
        return list(edit_windows(editor, read, 10, "make it red", routes, QUICK, None, video, [], **how))

    whole = run()
    assert [each.start for each in whole] == [0, 4, 7]
    rest = run(begin=whole[1].start, carry=whole[0].carry)
    for one, other in zip(whole[1:], rest, strict=True):
        assert one.start == other.start and torch.equal(one.frames, other.frames)


def test_a_place_that_is_away_for_a_frame_comes_back_in_the_next_window(editor: IP2P) -> None:
    """In the window of frames 2 to 4 nothing is new; the next one begins from frame 3 all the same."""
    frames, on = tiny_ip2p.frames(6), masks(6)
    on[4] = 0
    video = VideoSettings(together="sparse", window=3, overlap=2)
    edited = edit_clip(editor, frames, "make it red", on, QUICK, video=video)
    assert torch.equal(edited.frames[4], frames[4]) and not torch.equal(edited.frames[5], frames[5])


def test_the_models_own_attention_comes_back_also_after_an_error(editor: IP2P) -> None:
    stock = dict(editor.unet.attn_processors)

    def cancel(*_: object) -> None:
        assert editor.unet.attn_processors != stock
        raise Cancelled

    with pytest.raises(Cancelled):
        edit_clip(editor, tiny_ip2p.frames(3), "make it red", masks(3), QUICK, on_step=cancel)
    assert editor.unet.attn_processors == stock
    with pytest.raises(RequestError, match="together"):
        VideoSettings(together="nobody")  # type: ignore[arg-type]


def test_outside_the_mask_every_bit_stays_and_progress_counts_each_frame_once(editor: IP2P) -> None:
    frames, mask, seen = tiny_ip2p.frames(9), masks(9), []
    mask[4] = 0
    edited = edit_clip(
        editor,
        frames,
        "make it red",
        mask,
        QUICK,
        lambda done, total, _: seen.append((done, total)),
        VideoSettings(propagate="none"),
    )
    assert torch.equal(edited.frames[mask < 0.5], frames[mask < 0.5])
    assert torch.equal(edited.frames[4], frames[4]) and "1 of 9 frames" in edited.notes[0]
    assert seen == [(7, 16), (14, 16), (15, 16), (16, 16)]
    assert len(edited.crops) == 8


def test_frames_that_must_be_together_and_do_not_fit_are_one_clear_error(
    editor: IP2P, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = editor.unet.forward

    def small_machine(batch: Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(batch) > 6:
            raise RuntimeError("out of memory (pretended)")
        return forward(batch, *args, **kwargs)

    monkeypatch.setattr(editor.unet, "forward", small_machine)
    frames = tiny_ip2p.frames(6)
    edited = edit_clip(editor, frames, "make it red", masks(6), QUICK, video=VideoSettings(window=6))
    assert "out of memory with" in edited.notes[0]
    with pytest.raises(ModelError, match=r"smaller window, or together='per-frame'"):
        edit_clip(editor, frames, "x", masks(6), QUICK, video=VideoSettings(together="all", window=6))


def test_a_single_picture_is_the_editors_own(editor: IP2P, tmp_path: Path) -> None:
    frame = tiny_ip2p.frames(1)
    ours, theirs = edit_clip(editor, frame, "x", masks(1), QUICK), editor.edit(frame, "x", masks(1), QUICK)
    assert torch.equal(ours.frames, theirs.frames) and ours.box == theirs.box


@pytest.mark.parametrize("wrong", [{"window": 0}, {"overlap": 8}, {"propagate": "magic"}, {"keyframes": 0}])
def test_settings_out_of_range_say_what_is_expected(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="expected"):
        VideoSettings(**wrong)


def test_a_bridges_gate_passes_shared_attention_without_a_warning(
    editor: IP2P, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.models import attention_processor

    warned: list[str] = []
    monkeypatch.setattr(attention_processor.logger, "warning", lambda text, *_: warned.append(text))
    unet, latents, text = editor.unet, torch.randn(1, 8, 8, 8), torch.randn(1, 3, 16)
    gate = {"gate": torch.zeros(1, 0)}
    with torch.no_grad(), shared(unet):
        unet(latents, 500, text, cross_attention_kwargs=gate)
    assert warned and not [each for each in warned if "expected by Processor " in each]
