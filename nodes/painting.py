"""What the nodes that paint ask for and give alike."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io


def guidance_inputs() -> list[Any]:
    """steps, guidance and image_guidance; 0 is the model's own."""
    return [
        io.Int.Input("steps", default=0, min=0, max=1000, tooltip="0 is the model's own."),
        io.Float.Input(
            "guidance",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Weight of the instruction; 0 is the model's own (7.5 for Stable Diffusion's).",
        ),
        io.Float.Input(
            "image_guidance",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="Weight of the original: higher stays closer to it; 0 is the model's own (1.5).",
        ),
    ]


def seamless_input() -> Any:
    """Whether paint takes on the shade around it; optional, for graphs in API form of before lack it."""
    return io.Boolean.Input(
        "seamless",
        default=True,
        optional=True,
        tooltip="The paint takes on the shade of what surrounds the mask, so that no patch shows. Off: as "
        "the model painted it.",
    )


def clip_outputs(video: str) -> list[Any]:
    """An edited clip as VIDEO, whose id is `video`, and its frames."""
    return [
        io.Video.Output(
            video,
            display_name="video",
            tooltip="The clip, edited, with its times and sound; nearly lossless (h264).",
        ),
        io.Image.Output(
            "frames",
            display_name="image",
            tooltip="Its frames before they were written: outside the mask equal to the bit.",
        ),
    ]
