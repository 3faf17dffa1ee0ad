"""A clip by any editor of pictures: keyframes out, edited keyframes back, carried over the clip."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import clips, host, sockets
from .checks import checked
from .clips import Clip
from .painting import clip_outputs

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.video.handed_out import Keys

MOST = 256  # keyframes
PART = "Take a part of the clip (core's Trim Video and Save Video), or EVLM Edit Video, which streams it"


class Keyframes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_Keyframes",
            display_name="EVLM Keyframes",
            category=sockets.CATEGORY,
            description="Gives some frames of a clip to any editor of pictures. EVLM Propagate Keyframes "
            "takes them back and carries them over the clip.",
            inputs=[
                clips.clip_input("clip", "The clip: a video, or its frames as images."),
                io.Int.Input(
                    "count",
                    default=0,
                    min=0,
                    max=MOST,
                    tooltip="So many, evenly spread. 0: the first, the last, where the mask grows or "
                    "shrinks, and at least one in sixteen.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the edit will be, from EVLM Track; else everywhere."
                ),
            ],
            outputs=[
                io.Image.Output("keyframes", display_name="image", tooltip="The keyframes, for the editor."),
                sockets.Keys.Output(
                    "evlm_keys", display_name="keys", tooltip="Which they are, for EVLM Propagate Keyframes."
                ),
                io.Mask.Output(
                    "key_masks", display_name="mask", tooltip="The mask in the keyframes; all on without one."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, clip: Clip, count: int, mask: Tensor | None = None) -> io.NodeOutput:
        import torch

        from ..evlm.masks import fit_mask
        from ..evlm.video.handed_out import hand_out

        sockets.within("count", count, 0, MOST)
        with clips.opened(clip, "clip") as source:
            frames, durations = source.together(PART)
        notes: list[str] = []
        place = None if mask is None else fit_mask(mask, frames, notes=notes)
        picked, keys, more = hand_out(frames, durations, place, count or "auto")
        at = ", ".join(f"{float(time):.2f}" for time in keys.times)
        host.tell([*notes, *more, f"{len(picked)} of {len(frames)} frames are keyframes, at {at} s"])
        masks = torch.ones(picked.shape[:3]) if place is None else place.expand(len(frames), -1, -1)
        here = masks if place is None else masks[list(keys.indices)]
        return io.NodeOutput(picked, keys, here, ui=host.preview(picked, cls))


class Propagate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_PropagateKeyframes",
            display_name="EVLM Propagate Keyframes",
            category=sockets.CATEGORY,
            description="Carries edited keyframes over their clip, along its motion and inside the mask; "
            "outside it every frame stays as it is. Times and sound go along.",
            inputs=[
                clips.clip_input("clip", "The clip that EVLM Keyframes was given."),
                io.Image.Input("edited", tooltip="The keyframes, edited: as many, as large, in their order."),
                sockets.Keys.Input("keys", tooltip="From EVLM Keyframes."),
                io.Int.Input(
                    "feather",
                    default=-1,
                    min=-1,
                    max=4096,
                    tooltip="Pixels over which the edit fades in, inward from the mask's edge; -1: 2 %.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where it was edited, from EVLM Track; else everywhere."
                ),
                io.Boolean.Input(
                    "one_look",
                    default=False,
                    optional=True,
                    tooltip="Evens out what differs between the edited keyframes where the clip itself does "
                    "not: an editor that sees each alone gives each another shade, which flickers. Off: they "
                    "are carried as they are.",
                ),
            ],
            outputs=clip_outputs("video"),
        )

    @classmethod
    @checked
    def execute(
        cls,
        clip: Clip,
        edited: Tensor,
        keys: Keys,
        feather: int,
        mask: Tensor | None = None,
        one_look: bool = False,
    ) -> io.NodeOutput:
        from ..evlm.files.clip_writer import write_clip
        from ..evlm.masks import fit_mask
        from ..evlm.video import handed_out

        watch = clips.Watch()

        def told(done: int, total: int) -> None:
            watch("carrying", done, total)

        with clips.opened(clip, "clip") as source:
            frames, durations = source.together(PART)
            notes: list[str] = []
            place = None if mask is None else fit_mask(mask, frames, notes=notes)
            if one_look:
                evened = partial(watch, "evening out")
                edited = handed_out.one_look(frames, edited, keys, place, evened)
            soft = None if feather < 0 else feather
            carried, more = handed_out.carry_over(frames, edited, keys, place, soft, told)
            path = clips.new_file("carried")
            notes += [*more, *write_clip(path, carried, "h264", durations, source.sound(durations))]
        host.tell([*notes, f"{len(frames)} frames, {float(sum(durations)):.2f} s"])
        return io.NodeOutput(clips.video_of(path), carried, ui=clips.playing(path))
