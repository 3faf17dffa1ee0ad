"""The flags of `python -m evlm edit` that a clip has besides."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EVLMError
from . import arguments as kinds

if TYPE_CHECKING:
    from ..clips.given_mask import GivenMask
    from ..clips.handed import HandedKeys
    from ..files.clip_reader import ClipFile

CODECS = ("h264", "vp9", "ffv1", "png")
TOGETHER = ("per-frame", "sparse", "tav", "anchors", "all")
TRACK = ("auto", "every-frame", "flow", "plan")
PROPAGATE = ("auto", "none", "flow", "tokens")
UNTIL = ("plan", "mask", "keyframes")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `edit` that a clip has besides."""
    add = parser.add_argument
    text = "with --video, no more than so many frames, from the first"
    add("--max-frames", type=kinds.whole(1, 10**7), metavar="N", help=text)
    text = (
        "with --video, what is written: h264 (.mp4, nearly lossless), vp9 (.webm), ffv1 (.mkv, lossless) or "
        "png (folders of pictures, lossless); h264 by default"
    )
    add("--codec", choices=CODECS, help=text)
    text = "with --video, at whom a frame looks while it is painted; per-frame (nobody) by default"
    add("--together", choices=TOGETHER, help=text)
    text = (
        "with --video: none paints every frame, flow paints keyframes and carries them along the motion, "
        "tokens carries what attention saw; auto: none up to 8 frames, else flow; auto by default"
    )
    add("--propagate", choices=PROPAGATE, help=text)
    text = (
        "with --video, keyframes of flow: auto, so many, or which ones, such as 0,40,80; auto by default. "
        "Or a folder that --until keyframes wrote: its pictures, edited anywhere, are carried over the clip"
    )
    add("--keyframes", type=kinds.keyframes, metavar="KEYS", help=text)
    text = (
        "with --keyframes FOLDER, even out what differs between its pictures where the clip itself does not; "
        "by default they are carried as they are"
    )
    add("--one-look", action="store_true", default=None, help=text)
    text = (
        "with --video, tune the editor to the clip in so many steps before it paints (Tune-A-Video has 500); "
        "by default it is not"
    )
    add("--tune", type=kinds.whole(1, 10**6), metavar="STEPS", help=text)
    text = (
        "with --video, how things are followed: auto (by SAM 2 where it can track, else as every-frame, else "
        "as flow), every-frame (detector and segmenter in each), flow (the plan's own mask goes along the "
        "motion), plan (the plan's own mask for all frames); auto by default"
    )
    add("--track", choices=TRACK, help=text)
    text = (
        "with --video, the frame, from 0, that a --mask of one picture belongs to: from there it is followed "
        "both ways, by SAM 2 where it can track, else along the motion; without it the mask is for all frames"
    )
    add("--mask-frame", type=kinds.whole(0, 10**7), metavar="N", help=text)
    text = (
        "with --video, stop behind the plan, the masks or the keyframes that are painted, and write these; "
        "the same command without it goes on from there"
    )
    add("--until", choices=UNTIL, help=text)
    sound = parser.add_mutually_exclusive_group()
    text = "with --video, the sound goes along, its packets as they are where they fit; so by default"
    sound.add_argument("--keep-audio", dest="audio", action="store_true", default=None, help=text)
    text = "with --video, without the sound"
    sound.add_argument("--no-audio", dest="audio", action="store_false", help=text)


def check_flags(options: argparse.Namespace) -> None:
    """Raises EVLMError for a clip's flag without a clip."""
    if options.video is not None:
        return
    clips = "max_frames codec together track mask_frame propagate keyframes one_look tune until audio"
    for flag in clips.split():
        if getattr(options, flag) is not None:
            name = flag.replace("_", "-") if flag != "audio" else "keep-audio and --no-audio"
            raise EVLMError(f"--{name} is for --video; --image reads and writes no sound and no video file")


def check_mask_frame(options: argparse.Namespace, mask: GivenMask | None, clip: ClipFile) -> None:
    """Raises EVLMError for a --mask-frame that has no mask of one picture, or that the clip has not. Where a
    mask is given and --track flow, the mask is of the first frame."""
    if mask is not None and mask.still is not None and options.track == "flow":
        options.mask_frame = options.mask_frame or 0
    if options.mask_frame is None:
        return
    if mask is None or mask.still is None:
        what = "there is none" if mask is None else f"{mask.path} has one for each frame"
        raise EVLMError(f"--mask-frame says of which frame the one picture of --mask is, and {what}")
    if options.mask_frame >= clip.count:
        last = clip.count - 1
        raise EVLMError(f"--mask-frame {options.mask_frame}: frames 0 to {last} are taken of the clip")


def handed_keys(options: argparse.Namespace) -> HandedKeys | None:
    """The edited keyframes of --keyframes FOLDER, in whose place then stands which ones were asked for: so
    the plan and the masks are those of the command that handed them out. Raises EVLMError."""
    if not isinstance(options.keyframes, Path):
        if options.one_look:
            raise EVLMError(
                "--one-look evens out edited keyframes: give their folder with --keyframes FOLDER, or leave "
                "it out"
            )
        return None
    from ..clips.handed import HandedKeys

    if options.until is not None:
        raise EVLMError(f"--until {options.until} goes with no edited keyframes: leave one out")
    if options.propagate not in (None, "auto", "flow"):
        raise EVLMError(
            f"--keyframes are carried along the motion, not by --propagate {options.propagate}: leave one out"
        )
    handed = replace(HandedKeys.read(options.keyframes), one_look=bool(options.one_look))
    options.keyframes, options.one_look = handed.asked, None
    return handed


def video_settings(options: argparse.Namespace, clip: ClipFile) -> dict[str, Any]:
    """What was said of `VideoSettings`. Raises EVLMError for keyframes that the clip does not have, or has
    not because each frame is painted."""
    from ..video.settings import VideoSettings

    names = ("together", "track", "propagate", "keyframes")
    chosen = {name: value for name in names if (value := getattr(options, name)) is not None}
    if "keyframes" not in chosen:
        if options.until == "keyframes" and not VideoSettings(**chosen).carries(clip.count):
            raise EVLMError(
                f"--until keyframes: each of the {clip.count} frames is painted, so there are none; say "
                "--propagate flow"
            )
        return chosen
    if chosen.setdefault("propagate", "flow") not in ("flow", "auto"):
        raise EVLMError(
            f"--keyframes are painted for --propagate flow, not {options.propagate}: leave one out"
        )
    keys = chosen["keyframes"]
    if isinstance(keys, tuple) and max(keys) >= clip.count:
        raise EVLMError(
            f"--keyframes {max(keys)}: {clip.count} frames are taken of the clip, 0 to {clip.count - 1}"
        )
    return chosen
