"""A request as a chat: which words and pictures the reasoner sees, and in which order.

One builder serves the local model (Hugging Face chat template), the remote endpoint (OpenAI form,
`remote.py`) and the trainer, so that all of them ask the same question. A model folder picks its style
in `evlm.json`: `"prompt": "full"` (default; the four-part grammar is explained), `"short"` (labels
only, for models tuned on the format, where every token costs time), or a baseline for one that was not.

Order, always: the original picture, each reference with its kind and note, then the prompt (or `none`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ModelError, RequestError
from ..plan.form import LEARNED, PARTS
from ..plan.native_boxes import OWN, BoxForm, Size
from .system_text import tuned_text, untuned_text

if TYPE_CHECKING:
    from ..plan.mask_codec import BoxSpans
    from ..request import Reference, Request

MAX_FRAMES = 8
"""Frames shown of one video. Even, because Qwen-VL's vision tower merges frames in pairs."""

_ASSUMED_FPS = 24.0  # a batch of frames without a rate; what transformers' Qwen3-VL processor assumes as well
_MAX_ASPECT = 100.0  # Qwen-VL's smart_resize refuses beyond 200:1


@dataclass(frozen=True)
class PromptStyle:
    """The words around the pictures. `explain`: a system message tells the model the grammar; `times`:
    say when each video frame was taken; `untuned`: the system message is the one for models that were never
    tuned on the form: in English whatever the language of the prompt, a rectangle for the mask, two examples.
    `boxes`: the form in which such a model writes that rectangle; `parts`: those of the answer, of which
    "think" is read as "thinking". A model is tuned on one of the styles and is asked in the same words ever
    after."""

    name: str
    explain: bool
    times: bool
    untuned: bool = False
    boxes: BoxForm = OWN
    parts: tuple[str, ...] = PARTS


FULL = PromptStyle("full", explain=True, times=True)
SHORT = PromptStyle("short", explain=False, times=False)
TUNED = (FULL, SHORT)
"""What models are tuned on."""

BASELINES = (
    PromptStyle("few-shot", explain=True, times=True, untuned=True),
    PromptStyle("two_step", explain=True, times=True, untuned=True, parts=("think", "output")),
    PromptStyle("direct", explain=True, times=True, untuned=True, parts=("output",)),
)
"""The paper's baselines, for models that are tuned on none: whole examples, one part of thought, the plan
alone."""


def tuned_on(style: PromptStyle, parts: str) -> PromptStyle:
    """A style of TUNED for a model that is tuned on these parts alone, one of LEARNED: "short-two_step"."""
    name = style.name.partition("-")[0]
    return replace(style, name=name if parts == "full" else f"{name}-{parts}", parts=LEARNED[parts])


def for_untuned(style: PromptStyle, boxes: BoxForm = OWN) -> PromptStyle:
    """A style for a model that was never tuned on it, and so needs to be told more. boxes: its own form."""
    return replace(style, untuned=style.explain, boxes=boxes)


UNTUNED = for_untuned(FULL)
STYLES = ("auto", FULL.name, *(style.name for style in BASELINES))
"""What somebody may choose for one request; "auto" is the model's own."""


def chosen_style(own: PromptStyle, name: str) -> PromptStyle:
    """The style of that name, one of STYLES, for a model whose own is known. Raises RequestError for a model
    that was tuned on its own: the parts of another are not in it, and its answer would not be what it is
    measured by."""
    if name in (STYLES[0], own.name):
        return own
    if not own.untuned:
        raise RequestError(
            f"style {name!r:.40} is for a model that was never tuned on the form; this one counts as tuned "
            f"on {own.name!r} and is asked in no other: leave the style at 'auto'"
        )
    return for_untuned(get_style(name, baselines=True), own.boxes)


@dataclass(frozen=True)
class Clip:
    """Sampled frames of one video: `frames` uint8 [T, 3, H, W], the index of each in the video of
    `total` frames at `fps` frames a second (`fps` is None when nobody said it)."""

    frames: Tensor
    indices: tuple[int, ...]
    total: int
    fps: float | None

    @property
    def rate(self) -> float:
        """Frames a second of the source, assumed to be 24 when unknown."""
        return self.fps or _ASSUMED_FPS

    @property
    def times(self) -> tuple[float, ...]:
        """Seconds from the start of the video to each sampled frame."""
        return tuple(i / self.rate for i in self.indices)


class Chat(NamedTuple):
    """`messages` in Hugging Face's form (content items `{"type": "text", "text": ...}`, `{"type": "image"}`,
    `{"type": "video"}`); `images` uint8 [3, H, W] and `videos` in the order of their items."""

    messages: list[dict[str, Any]]
    images: list[Tensor]
    videos: list[Clip]


def build_messages(
    request: Request, codec: BoxSpans | None = None, style: PromptStyle = FULL, max_frames: int = MAX_FRAMES
) -> Chat:
    """The chat that asks a reasoner for a trace.

    `codec` is the mask codec that the system text explains (8 x 8 box spans when None; unused by the short
    style). Videos are sampled evenly, first and last frame included, to at most `max_frames`. Words of
    the user cannot form special tokens: `<|` is written `< |`.
    """
    if max_frames < 1:
        raise RequestError(f"max_frames is {max_frames}; at least one frame of a video must be shown")
    say = _Writer(style, max_frames)
    say.original(request)
    for number, reference in enumerate(request.references, 1):
        say.reference(number, reference)
    say.prompt(request.prompt)
    messages: list[dict[str, Any]] = []
    if style.explain:
        grid = 8 if codec is None else codec.grid
        told = untuned_text(style.name, style.boxes) if style.untuned else tuned_text(grid, style.parts)
        messages.append({"role": "system", "content": [{"type": "text", "text": told}]})
    messages.append({"role": "user", "content": say.content})
    return Chat(messages, say.images, say.videos)


def get_style(name: str, baselines: bool = False) -> PromptStyle:
    """`"full"` or `"short"`, which models are tuned on, or either with the parts that alone were learned
    ("short-two_step"); baselines: or one of the others. Anything else raises ModelError (the name comes from
    a model's evlm.json)."""
    known = (*TUNED, *BASELINES) if baselines else TUNED
    for style in known:
        if style.name == name:
            return style
    plain, _, parts = name.partition("-") if isinstance(name, str) else ("", "", "")
    if parts in LEARNED and parts != "full" and plain in (style.name for style in TUNED):
        return tuned_on(get_style(plain), parts)
    names = " and ".join(repr(style.name) for style in TUNED)
    if baselines:
        names = ", ".join(repr(style.name) for style in known)
    raise ModelError(f"evlm.json asks for the prompt style {name!r}; this version knows {names}")


def sample_clip(frames: Tensor, fps: float | None, max_frames: int = MAX_FRAMES) -> Clip:
    """At most `max_frames` of float frames [F, H, W, 3] in 0..1, evenly spread, first and last included."""
    total = frames.shape[0]
    indices = evenly(total, max_frames)
    return Clip(torch.stack([_pixels(frames[i]) for i in indices]), indices, total, fps)


def evenly(total: int, most: int) -> tuple[int, ...]:
    """At most so many of the numbers 0 .. total - 1, evenly spread, first and last included."""
    count = min(total, most)
    step = (total - 1) / (count - 1) if count > 1 else 0.0
    return tuple(int(i * step + 0.5) for i in range(count))


def encode(processor: Any, chats: Sequence[Chat], answers: Sequence[str] = (), **kwargs: Any) -> Any:
    """Model inputs of one or several chats, each up to the start of the assistant's turn: a
    `BatchFeature` with input_ids [B, L], attention_mask, pixel values, grids, and whatever else the
    processor's version makes.

    `answers` (one for each chat) are appended behind that point, as training wants them. Several chats
    are padded on the tokenizer's `padding_side`. `kwargs` go to the processor (`images_kwargs={"size":
    ...}`, for example).
    """
    texts = [template_text(processor, chat) for chat in chats]
    if answers:
        texts = [text + answer for text, answer in zip(texts, answers, strict=True)]
    images = [image for chat in chats for image in chat.images]
    clips = [clip for chat in chats for clip in chat.videos]
    kwargs.setdefault("padding", len(texts) > 1)
    if clips:
        videos_kwargs = dict(kwargs.pop("videos_kwargs", {}))
        videos_kwargs.update(do_sample_frames=False, video_metadata=[_metadata(clip) for clip in clips])
        if type(processor).__name__ == "Qwen2_5_VLProcessor" and _transformers_4():
            videos_kwargs["fps"] = [len(clip.indices) / clip.total * clip.rate for clip in clips]
        kwargs["videos_kwargs"] = videos_kwargs
        if type(processor).__name__ == "Qwen3VLProcessor":
            texts = [unmarked_videos(processor, text) for text in texts]
    return processor(
        text=texts,
        images=images or None,
        videos=[clip.frames for clip in clips] or None,
        return_tensors="pt",
        **kwargs,
    )


def seen_size(processor: Any, chat: Chat, inputs: Any) -> Size:
    """How large the model sees the original, the first picture or video of a chat, whose inputs these are."""
    video = _begins_with_video(chat)
    medium = processor.video_processor if video else processor.image_processor
    grid = inputs["video_grid_thw" if video else "image_grid_thw"][0]
    return int(grid[1]) * medium.patch_size, int(grid[2]) * medium.patch_size


def original_size(chat: Chat) -> Size:
    """(height, width) of the original's frames, as they go to the processor."""
    pixels = chat.videos[0].frames if _begins_with_video(chat) else chat.images[0]
    return int(pixels.shape[-2]), int(pixels.shape[-1])


def _begins_with_video(chat: Chat) -> bool:
    content = chat.messages[-1]["content"]
    return bool(next(item["type"] for item in content if item["type"] != "text") == "video")


def unmarked_videos(processor: Any, text: str) -> str:
    """Qwen3-VL's processor marks each pair of a video's frames, behind its time. The marks of the template,
    around the whole, are taken off by some versions of transformers (4.57) and left by others (5.24)."""
    start, video, end = processor.vision_start_token, processor.video_token, processor.vision_end_token
    return text.replace(f"{start}{video}{end}", str(video))


def template_text(processor: Any, chat: Chat) -> str:
    """The chat as the model's own template writes it, one placeholder a picture, ready for the answer."""
    return str(processor.apply_chat_template(chat.messages, tokenize=False, add_generation_prompt=True))


class _Writer:
    """Collects content items; text between two pictures is one item."""

    def __init__(self, style: PromptStyle, max_frames: int) -> None:
        self.style = style
        self.max_frames = max_frames
        self.content: list[dict[str, Any]] = []
        self.images: list[Tensor] = []
        self.videos: list[Clip] = []

    def original(self, request: Request) -> None:
        video = request.original.shape[0] > 1
        if self.style.explain:
            self._text("Original video" if video else "Original picture")
        else:
            self._text("original")
        if video:
            self._video(request.original, request.fps)
        else:
            self._image(request.original[0])

    def reference(self, number: int, reference: Reference) -> None:
        kind, note = reference.kind, _plain(reference.note)
        full = self.style.explain
        label = f"Reference {number} ({KIND_WORDS[kind]})" if full else f" reference {number} {kind}"
        if note:
            label += f", note: {note}" if full else f" note {note}"
        self._text(label)
        if reference.frames is None:
            self._text(f": {_plain(reference.text)}\n" if full else f" {_plain(reference.text)}")
        elif kind == "video" and reference.frames.shape[0] > 1:
            self._video(reference.frames, reference.fps)
        else:
            self._image(reference.frames[0])

    def prompt(self, prompt: str) -> None:
        words = _plain(prompt) or "none"
        full = self.style.explain
        asked = (
            "the four parts"
            if self.style.parts == PARTS
            else " and ".join(f"<{part}>" for part in self.style.parts)
        )
        # The short style says of its parts only which, where they are not all four.
        some = "" if self.style.parts == PARTS else f" only {' '.join(self.style.parts)}"
        self._text(f"Prompt: {words}\nWrite {asked} now." if full else f" prompt {words}{some}")

    def _image(self, frame: Tensor) -> None:
        full = self.style.explain
        self._text(":\n" if full else " ")
        self.content.append({"type": "image"})
        self.images.append(_pixels(frame))
        self._text("\n" if full else "")

    def _video(self, frames: Tensor, fps: float | None) -> None:
        clip = sample_clip(frames, fps, self.max_frames)
        if not self.style.times:
            self._text(" ")
        elif fps is None:
            self._text(f", frames {', '.join(str(i + 1) for i in clip.indices)} of {clip.total}:\n")
        else:
            self._text(f", frames at {', '.join(f'{round(t, 2):g}' for t in clip.times)} seconds:\n")
        self.content.append({"type": "video"})
        self.videos.append(clip)
        if self.style.explain:
            self._text("\n")

    def _text(self, text: str) -> None:
        if not text:
            return
        if self.content and self.content[-1]["type"] == "text":
            self.content[-1]["text"] += text
        else:
            self.content.append({"type": "text", "text": text})


KIND_WORDS = {"image": "picture", "video": "video", "text": "text", "depth": "depth map, near is bright"}


def _plain(text: str) -> str:
    """Text of the user on one line, unable to spell a special token such as `<|image_pad|>`."""
    return re.sub(r"<(?=\|)", "< ", " ".join(text.split()))


def _pixels(frame: Tensor) -> Tensor:
    """uint8 [3, H, W] of float [H, W, 3] in 0..1, stretched where it is more slender than 100:1."""
    pixels = (
        frame.detach().mul(255.0).round().clamp(0, 255).to(torch.uint8).permute(2, 0, 1).cpu().contiguous()
    )
    height, width = pixels.shape[1:]
    shortest = -(-max(height, width) // int(_MAX_ASPECT))
    if min(height, width) >= shortest:
        return pixels
    size = (max(height, shortest), max(width, shortest))
    return torch.nn.functional.interpolate(pixels[None].float(), size, mode="nearest")[0].to(torch.uint8)


def _transformers_4() -> bool:
    """Version 4 takes the rate of Qwen2.5-VL's frames from `fps`, version 5 from the metadata."""
    import transformers

    return transformers.__version__.startswith("4.")


def _metadata(clip: Clip) -> Any:
    from transformers.video_utils import VideoMetadata

    height, width = clip.frames.shape[-2:]
    return VideoMetadata(
        total_num_frames=clip.total,
        fps=clip.rate,
        width=width,
        height=height,
        duration=clip.total / clip.rate,
        frames_indices=list(clip.indices),
    )
