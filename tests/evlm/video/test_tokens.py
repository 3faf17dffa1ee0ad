"""Tokens of keys carried to the other frames of a window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny_ip2p
import torch
from torch import Tensor

from evlm.edit.guidance import Guidance
from evlm.edit.ip2p import IP2P
from evlm.edit.protocol import EditSettings
from evlm.errors import Cancelled
from evlm.video.clip import edit_clip, edit_windows, route
from evlm.video.settings import VideoSettings
from evlm.video.together import references, shared
from evlm.video.tokens import STRETCH, TokenAttention, keys_of, nearest

QUICK = EditSettings(steps=2, scheduler="ddim", seed=5)
TOKENS = VideoSettings(propagate="tokens", window=6, overlap=2)


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> IP2P:
    folder = tiny_ip2p.save_folder(tiny_ip2p.build(), tmp_path_factory.mktemp("ip2p") / "folder")
    return tiny_ip2p.load(folder)


def masks(count: int) -> Tensor:
    on = torch.zeros(count, 64, 64)
    for frame in range(count):
        on[frame, 20:40, 4 * frame : 4 * frame + 20] = 1
    return on


def test_each_stretch_has_a_key_that_is_drawn_anew() -> None:
    frames = list(range(2, 12))
    drawn = {keys_of(frames, 1, f"0 {step}") for step in range(40)}
    assert len(drawn) > 10
    for finished, *keys in drawn:
        assert finished == 1 and [(key - 2) // STRETCH for key in keys] == [0, 1, 2]
    assert keys_of(frames, None, "0 3") == keys_of(frames, 1, "0 3")[1:]


def test_nearness_is_linear_between_two_keys() -> None:
    assert nearest(3, (2, 6)) == ((2, 0.75), (6, 0.25))
    assert nearest(1, (2, 6)) == ((2, 1.0),) and nearest(9, (2, 6)) == ((6, 1.0),)


def test_others_take_the_tokens_that_are_most_like_theirs(editor: IP2P) -> None:
    """The oracle: token by token in plain loops."""
    count, finished = 7, 0
    layer = editor.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    hidden = torch.randn(2 * count, 7, layer.to_q.in_features, generator=torch.Generator().manual_seed(1))
    numbers = torch.arange(count).float()[:, None, None, None].expand(-1, 4, 1, 1)
    guide = Guidance(torch.ones(2, 3, 16), numbers, 2.0, 1.0)  # with words and without
    assert guide.plain == 1
    seen: dict[int, Tensor] = {}

    def unet(batch: Tensor, _time: Tensor, encoder_hidden_states: Tensor) -> Any:
        which = [int(each) for each in batch[: len(batch) // 2, 0, 0, 0]]
        outputs = layer(hidden[which + [count + each for each in which]]).reshape(2, len(which), 7, -1)
        seen.update({frame: outputs[:, at] for at, frame in enumerate(which)})
        return type("Out", (), {"sample": batch[:, :4]})

    sharing = TokenAttention(seed=3)
    with torch.no_grad(), shared(editor.unet, sharing):
        window = sharing.window(references("anchors", count), 2, [], range(1, count))
        window(guide, unet, numbers, torch.tensor(0))
    keys = keys_of(range(1, count), finished, "3 0")
    assert set(seen) == set(range(count)) and 2 < len(keys) < count

    def attention(copy: int, frame: int) -> Tensor:
        """Of a key, over the tokens of all keys."""
        query = layer.to_q(hidden[copy * count + frame])
        among = torch.cat([hidden[copy * count + key] for key in keys])
        heads = [
            torch.softmax(q @ k.T * q.shape[-1] ** -0.5, -1) @ v
            for q, k, v in zip(
                *(t.chunk(layer.heads, -1) for t in (query, layer.to_k(among), layer.to_v(among))),
                strict=True,
            )
        ]
        return layer.to_out[0](torch.cat(heads, -1))

    with torch.no_grad():
        for frame in range(count):
            if frame in keys:
                truth = torch.stack([attention(copy, frame) for copy in (0, 1)])
                assert torch.allclose(seen[frame], truth, atol=1e-5)
                continue
            for token in range(7):
                own = hidden[count + frame, token]
                expected = torch.zeros(2, hidden.shape[-1])
                for key, weight in nearest(frame, keys):
                    like = [torch.cosine_similarity(own, q, 0) for q in hidden[count + key]]
                    best = max(range(7), key=lambda at: float(like[at]))
                    for copy in (0, 1):
                        expected[copy] += weight * attention(copy, key)[best]
                assert torch.allclose(seen[frame][:, token], expected, atol=1e-5)


def test_on_equal_frames_it_is_the_single_picture(editor: IP2P) -> None:
    frame, mask = tiny_ip2p.frames(1), masks(1)
    alone = editor.edit(frame, "make it red", mask, QUICK).frames
    clip = edit_clip(editor, frame.expand(9, -1, -1, -1), "make it red", mask, QUICK, video=TOKENS).frames
    assert not torch.equal(alone, frame)
    assert float((clip - alone).abs().max()) <= 1e-5


def test_outside_the_mask_every_bit_stays_and_a_stopped_run_goes_on(editor: IP2P) -> None:
    frames, mask = tiny_ip2p.frames(10), masks(10)
    routes = route(frames[:1], 10, mask, editor, QUICK, [])

    def run(**how: Any) -> list[Any]:
        read = lambda start, stop: frames[start:stop]  # noqa: E731
        return list(edit_windows(editor, read, 10, "make it red", routes, QUICK, None, TOKENS, [], **how))

    whole = run()
    edited = torch.cat([each.frames for each in whole])
    assert torch.equal(edited[mask < 0.5], frames[mask < 0.5]) and not torch.equal(edited, frames)
    plain = edit_clip(
        editor, frames, "make it red", mask, QUICK, video=replace(TOKENS, propagate="none")
    ).frames
    assert not torch.allclose(edited, plain, atol=1e-3)  # it is another manner
    rest = run(begin=whole[1].start, carry=whole[0].carry)
    for one, other in zip(whole[1:], rest, strict=True):
        assert one.start == other.start and torch.equal(one.frames, other.frames)


def test_the_models_own_attention_comes_back(editor: IP2P) -> None:
    stock = dict(editor.unet.attn_processors)

    def cancel(*_: object) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        edit_clip(editor, tiny_ip2p.frames(4), "x", masks(4), QUICK, on_step=cancel, video=TOKENS)
    assert editor.unet.attn_processors == stock
