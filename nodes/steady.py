"""How steady an edited clip is, beside its original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from . import clips, folders, host, sockets
from .checks import checked
from .clips import Clip

if TYPE_CHECKING:
    from torch import Tensor

FLOWS = ["auto", "lk", "raft"]
SHORTER = "Take a part of both clips: `python -m evlm edit --frames`, or core's Trim Video and Save Video"


class Steadiness(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_Steadiness",
            display_name="EVLM Steadiness",
            category=sockets.CATEGORY,
            description="How steady an edited clip is, measured along the motion of the original: as "
            "figures, and as a strip that shows where it flickers.",
            inputs=[
                clips.clip_input("original", "The clip before: a video, or its frames as images."),
                clips.clip_input("edited", "The same clip after: as many frames, as large."),
                io.Combo.Input(
                    "flow",
                    options=FLOWS,
                    tooltip="Optical flow; auto: RAFT where its weights lie on this machine, else lk, which "
                    "needs none.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where it was edited; without one the whole frame counts."
                ),
            ],
            outputs=[
                io.String.Output(
                    "figures", display_name="figures", tooltip="All figures as a table, with what they mean."
                ),
                io.Image.Output(
                    "strip",
                    display_name="strip",
                    tooltip="Frames of both clips, where they differ along the motion, and the curve.",
                ),
                io.Float.Output(
                    "excess",
                    display_name="excess",
                    tooltip="Warp error above the original's own, times 1000; 0: as steady as the original.",
                ),
                io.Float.Output(
                    "flicker",
                    display_name="flicker",
                    tooltip="How much the place's colour changes from frame to frame, of 255.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, original: Clip, edited: Clip, flow: str, mask: Tensor | None = None) -> io.NodeOutput:
        from ..evlm.cli.steadiness import table
        from ..evlm.files.pictures import from_pil
        from ..evlm.masks import fit_mask
        from ..evlm.motion.estimator import load_estimator
        from ..evlm.motion.steady import steadiness
        from ..evlm.viz.strip import draw_strip, shown_pairs

        sockets.choice("flow", flow, FLOWS)
        with clips.opened(original, "original") as first, clips.opened(edited, "edited") as second:
            _check_equal(first, second)
            (before, _), (after, _) = first.together(SHORTER), second.together(SHORTER)
            if len(before) != len(after):  # one has frames that cannot be decoded
                _check_equal(first, second, counted=True)
        notes: list[str] = []
        place = None if mask is None else fit_mask(mask, before, notes=notes)
        host.tell(notes)
        watch, shown, heats = clips.Watch(), set(shown_pairs(len(before))), dict[int, Any]()

        def keep(pair: int, heat: Tensor) -> None:
            watch("measuring", pair + 1, len(before) - 1)
            if pair in shown:
                heats[pair] = heat.clone()

        estimator = load_estimator(flow, folders=folders.roots("evlm"))
        figures = steadiness(before, after, place, estimator=estimator, on_pair=keep)
        strip = from_pil(draw_strip(before, after, heats, figures))
        text = table(figures)
        host.tell([text])
        ui = {**host.preview(strip, cls).as_dict(), "text": [text]}
        return io.NodeOutput(text, strip, figures.excess, figures.flicker, ui=ui)


def _check_equal(first: clips.Opened, second: clips.Opened, counted: bool = False) -> None:
    """Raises RequestError for clips of two sizes. counted: what their files say of their frames is wrong."""
    from ..evlm.errors import RequestError

    files = (first.file, second.file)
    if counted or files[0].count != files[1].count:
        for each in files:
            each.counted()
    sizes = [(each.count, each.width, each.height) for each in files]
    if sizes[0] != sizes[1]:
        texts = [f"{count} frames of {width} x {height}" for count, width, height in sizes]
        raise RequestError(f"edited: {texts[1]}, but original has {texts[0]}: expected the same")
