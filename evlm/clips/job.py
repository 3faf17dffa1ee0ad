"""A clip of any length from a request to files: plan, places, painting, window by window.

What is done lies in a folder of its own, each piece there whole or not at all: a run that was stopped, at any
moment, goes on there and gives the same bytes as one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..edit.crop import resize
from ..errors import EVLMError, PictureError
from ..files.clip_codecs import ClipForm, values_of
from ..files.clip_reader import ClipFile
from ..files.clip_sound import Sound
from ..files.clip_writer import join_segments, take_place, write_clip, write_segment
from ..files.disk import unwritten
from ..files.pictures import save_picture, write_atomically
from ..files.png import write_png
from ..files.selection import over_white, spread
from ..plan.trace import Trace, plan_from_json, plan_to_json
from ..reason.reasoner import Reasoned
from ..video.clip import opens
from .carried import CarriedChain
from .frames import FileFrames
from .handed import Asked, HandedChain, HandedKeys, write_keys
from .masks import MaskStore
from .places import follow, follow_given, look
from .steps import StepChain, clip_steps
from .trim import trim

if TYPE_CHECKING:
    from ..edit.protocol import EditSettings, OnStep
    from ..events import OnEvent
    from ..pipeline import Pipeline
    from ..plan.trace import Plan
    from ..reason.reasoner import Sampling
    from ..request import Request
    from ..video.settings import VideoSettings
    from .given_mask import GivenMask

KEYFRAMES = 6  # shown of the clip
_SHOWN = 448  # longer side in pixels: twice a tile of the strip
_PLACED = 12_000_000  # pixels of the frames in which places are looked for together: 144 MB as float
OnProgress = Callable[[str, int, int], None]
"""(what is done: "places", "tune", "keyframes", "even" or "edit", frames that are finished, all of them); of
"tune" they are steps, of "even" keyframes that are brought to one look."""
OnFrames = Callable[[int, Tensor], None]
"""(number of the first, frames [n, H, W, 3] in 0..1 that are finished)."""


@dataclass
class ClipJob:
    """One edit of one clip. work: the folder for what is done; nothing else lies in it.

    request: what is asked; its original are the frames that the reasoner looks at. form: how the clip is
    written. anyway: paint by a plan that is doubted, too. notes: grows with what a user should know. mask:
    where the edit goes, given by somebody; mask_frame: the one frame that it is of, where it is followed.
    on_step: of each painting, as `edit_windows` has it. on_frames: sees the frames as they are before a
    codec. handed: edited keyframes, which are carried over the clip though nothing is painted. tune: steps in
    which the editor is tuned to the clip before it paints.
    """

    clip: ClipFile
    pipeline: Pipeline
    request: Request
    settings: EditSettings
    video: VideoSettings
    form: ClipForm
    work: Path
    sampling: Sampling | None = None
    threshold: float | None = None
    anyway: bool = False
    on_event: OnEvent | None = None
    on_progress: OnProgress | None = None
    notes: list[str] = field(default_factory=list)
    mask: GivenMask | None = None
    on_step: OnStep | None = None
    on_frames: OnFrames | None = None
    handed: HandedKeys | None = None
    tune: int = 0
    mask_frame: int | None = None

    def reason(self) -> Reasoned:
        """The plan; that of an earlier run where there is one."""
        path = self.work / "plan.json"
        request = self.request
        # What the reasoner looks at is as much as a window of frames: here it is forgotten.
        self.request = replace(request, original=request.original[:1].clone())
        if path.is_file():
            data = json.loads(path.read_text(encoding="utf-8"))
            plan = plan_from_json(data["plan"])
            trace = Trace(**data["thoughts"], plan=plan)
            return Reasoned(data["text"], 0, 0.0, notes=tuple(data["notes"]), trace=trace)
        reasoned = self.pipeline.reason(request, self.sampling, self.on_event)
        trace = reasoned.trace
        thoughts = {name: getattr(trace, name) for name in ("thinking", "intermediate", "reflection")}
        said = {"text": reasoned.text, "thoughts": thoughts, "notes": list(reasoned.notes)}
        _write_json(path, {"plan": plan_to_json(trace.plan), **said})
        return reasoned

    def places(self, reasoned: Reasoned) -> MaskStore:
        """Where the steps of the plan go in every frame: those that are not known yet are looked for.

        What is found is decided on for the whole clip, so that it is what `Pipeline.plan` gives of all frames
        in memory at once.
        """
        store = MaskStore(self.work, len(reasoned.trace.plan.steps), self.clip.height, self.clip.width)
        whole = self.work / "places.done"
        if whole.is_file():
            self._note(self._noted())
            return store
        size = max(_PLACED // (self.clip.height * self.clip.width), 2)
        if self.mask is not None and self.mask_frame is not None:
            follow_given(self, reasoned, store, size)
        elif self.mask is None and (self.clip.count > 1 or self.pipeline.tracks(self.video)):
            follow(self, reasoned, store, size)
        else:
            look(self, reasoned, store, size)
        if self.anyway or not store.pieces[0].doubt:
            write_atomically(whole, lambda file: file.write(b"1"))
            for path in self.work.glob("follow-*"):
                path.unlink()
        self._keep([])
        return store

    def given(self, plan: Plan, masks: Sequence[Tensor | None]) -> MaskStore:
        """As `places`, where masks are given: for each step of the plan [F or 1, H, W] in 0..1, or None for
        the whole frame. Raises PictureError where the clip has another number of frames."""
        store = MaskStore(self.work, len(plan.steps), self.clip.height, self.clip.width)
        counts = {len(mask) for mask in masks if mask is not None} - {1}
        size = max(_PLACED // (self.clip.height * self.clip.width), 2)
        fits = True
        for window in self.clip.windows(size, begin=store.count):
            part = slice(window.first, window.first + len(window.frames))
            here = [mask if mask is None or len(mask) == 1 else mask[part] for mask in masks]
            fits = all(mask is None or len(mask) in (1, len(window.frames)) for mask in here)
            if not fits:
                break  # fewer masks than frames
            store.add(here, window.durations)
        if not fits or (counts and counts != {store.count}):
            raise PictureError(
                f"mask: {max(counts)} masks for a clip of {self.clip.counted()} frames; give one, or one each"
            )
        return store

    def paint(self, reasoned: Reasoned, store: MaskStore) -> None:
        """Paints every window that is not painted yet."""
        begin, state = self._state()
        if begin < store.count:
            with self._tuned(reasoned, store):
                self._paint(reasoned, store, begin, state)
        else:
            self._note(self._noted())

    def _paint(self, reasoned: Reasoned, store: MaskStore, begin: int, state: Path | None) -> None:
        every = _at_work(reasoned)
        chain: StepChain | CarriedChain | HandedChain
        if self.handed is not None:
            source = FileFrames(self.clip, begin)
            chain = HandedChain(
                self.handed, every, store, self.clip, source, self.video.window, self.settings.feather,
                self.work, begin, lambda done, keys: self.tell("even", done, keys),
            )  # fmt: skip
        elif opens(self.pipeline.editor) and self.video.carries(store.count):
            source = FileFrames(self.clip, begin)
            chain = self._carried(reasoned, store, source, begin)
        else:
            source = FileFrames(self.clip, max(begin - self.video.shared, 0))
            chain = StepChain(
                self.pipeline.editor,
                clip_steps(reasoned.trace.plan, self.pipeline.editor),
                store,
                self.settings,
                self.video,
                source,
                begin,
                state,
                self.on_step,
            )
        shown = spread(store.count, KEYFRAMES)
        for first, frames in chain.windows():
            stop = first + len(frames)
            masks = store.some(every, range(first, stop))
            if self.on_frames is not None:
                self.on_frames(first, frames)
            alpha = source.opacity(first, stop)
            whole = frames if alpha is None else torch.cat([frames, alpha], -1)
            self._segment("window", first, whole if self.form.alpha else over_white(whole), self.form)
            self._segment("mask", first, map(_drawn, masks), self.mask_form)
            for at in (each for each in shown if first <= each < stop):
                before = source.one(at)
                before = before if alpha is None else torch.cat([before, alpha[at - first]], -1)
                pictures = (over_white(before), over_white(whole[at - first]), _drawn(masks[at - first]))
                for kind, picture in zip(("original", "edited", "mask"), pictures, strict=True):
                    save_picture(self.work / f"key-{at:08}-{kind}.png", _small(picture))
            self._keep(chain.notes)
            chain.save(self.work / f"state-{stop:08}.safetensors", stop)
            if state is not None:
                state.unlink(missing_ok=True)
            state = self.work / f"state-{stop:08}.safetensors"
            self.tell("edit", stop, store.count)
            del frames, masks, alpha, whole  # before the next window is painted
            trim()
        self._keep(chain.notes)

    @property
    def done(self) -> int:
        """How many frames are painted, from the first on."""
        return self._state()[0]

    def hand_out(self, reasoned: Reasoned, store: MaskStore, asked: Asked = None) -> Path:
        """Paints the keyframes that are not painted yet; the folder with them and their list. asked: which
        were asked for. Raises EVLMError where every frame of this clip is painted by itself."""
        if not opens(self.pipeline.editor):
            raise EVLMError("this editor paints each frame by itself: there are no keyframes")
        if not self.video.carries(store.count):
            raise EVLMError(
                f"each of the {store.count} frames is painted (propagate {self.video.propagate}), so "
                "there are no keyframes: choose propagate flow"
            )
        chain = self._carried(reasoned, store, FileFrames(self.clip), 0)
        folder = self.work / "keyframes"
        with self._tuned(reasoned, store):
            write_keys(folder, chain.painted(), store.durations, asked)
        self._keep(chain.notes)
        return folder

    def _tuned(self, reasoned: Reasoned, store: MaskStore) -> AbstractContextManager[None]:
        """While the editor is tuned to the clip, where that was asked for and it paints."""
        if not self.tune or self.handed is not None:
            return nullcontext()
        from .tuning import tuned_to_clip

        editor = self.pipeline.editor
        return tuned_to_clip(
            editor, self.clip, clip_steps(reasoned.trace.plan, editor), store, self.settings, self.video,
            self.tune, self.work / "tuned.safetensors", lambda done, steps: self.tell("tune", done, steps),
        )  # fmt: skip

    def _carried(self, reasoned: Reasoned, store: MaskStore, source: FileFrames, begin: int) -> CarriedChain:
        steps = clip_steps(reasoned.trace.plan, self.pipeline.editor)
        return CarriedChain(
            self.pipeline.editor, steps, store, self.settings, self.video, self.clip, source, self.work,
            begin, lambda done, keys: self.tell("keyframes", done, keys), self.on_step,
        )  # fmt: skip

    @property
    def mask_form(self) -> ClipForm:
        return replace(self.form, alpha=False, deep=False)

    def write_mask(self, reasoned: Reasoned, store: MaskStore, path: Path) -> None:
        """The places alone, before anything is painted. Raises PictureError."""
        size = self.video.window
        masks = (
            store.some(_at_work(reasoned), range(first, min(first + size, store.count)))[..., None].float()
            for first in range(0, store.count, size)
        )
        pictures = (each.expand(-1, -1, -1, 3) for each in masks)
        write_clip(path, pictures, self.form.codec.name, store.durations)

    def write(self, store: MaskStore, edited: Path, mask: Path, sound: Sound | None) -> list[str]:
        """The clip and its mask from what is painted, each with its name only when it is whole. Returns what
        was done to the sound. Raises PictureError."""
        notes: list[str] = []
        try:
            for kind, path, form in (("mask", mask, self.mask_form), ("window", edited, self.form)):
                if not form.codec.encoder:
                    if (self.work / kind).is_dir() or not path.is_dir():  # else an earlier run did it
                        take_place(self.work / kind, path)
                    continue
                segments = sorted(self.work.glob(f"{kind}-*.mkv"))
                if not segments:
                    raise PictureError(
                        f"{self.work}: what was painted was taken out of it; remove that folder, and run "
                        "it again"
                    )
                heard = sound if kind == "window" else None
                notes += join_segments(path, segments, form, store.durations, heard)
        except OSError as error:
            raise unwritten(edited, error, "the same command goes on from there") from error
        return notes

    def keyframes(self) -> Iterator[tuple[int, dict[str, Path]]]:
        """(number, the pictures "original", "edited" and "mask") of each frame that is shown of the clip."""
        for path in sorted(self.work.glob("key-*-original.png")):
            head = path.name.removesuffix("original.png")
            yield (
                int(head.split("-")[1]),
                {kind: self.work / f"{head}{kind}.png" for kind in ("original", "edited", "mask")},
            )

    def sound(self, store: MaskStore) -> Sound | None:
        """What is heard of the file: all of it where the clip is whole, else its own part."""
        if not self.clip.sound:
            return None
        selection = self.clip.selection
        whole = selection.first == 0 and selection.end is None and selection.limit is None
        seconds = None if whole else sum(store.durations, Fraction(0))
        return Sound(self.clip.path, self.clip.begin, seconds)

    def _segment(self, kind: str, first: int, frames: Iterable[Tensor], form: ClipForm) -> None:
        try:
            if form.codec.encoder:
                write_segment(self.work / f"{kind}-{first:08}.mkv", frames, form)
                return
            for number, picture in enumerate(frames, first):
                path, values = self.work / kind / f"{number:08}.png", values_of(picture, form)
                write_atomically(path, lambda file, values=values: write_png(file, values))  # type: ignore[misc]
        except OSError as error:
            raise unwritten(self.work, error, "the same command goes on from there") from error

    def _state(self) -> tuple[int, Path | None]:
        """(the first frame that is not painted yet, the state there)."""
        states: Sequence[Path] = sorted(self.work.glob("state-*.safetensors"))
        if not states:
            return 0, None
        return int(states[-1].stem.split("-")[1]), states[-1]

    def _noted(self) -> list[str]:
        """What an earlier run had to say."""
        path = self.work / "notes.json"
        return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []

    def _keep(self, notes: Sequence[str]) -> None:
        """Notes of this run, with those of the frames that were read, and an earlier run's; the next one has
        them, too."""
        before = self._noted()
        every = list(dict.fromkeys([*before, *self.clip.notes, *notes]))
        if every != before:
            _write_json(self.work / "notes.json", every)
        self._note(every)

    def _note(self, notes: Sequence[str]) -> None:
        self.notes += [note for note in notes if note not in self.notes]

    def tell(self, what: str, done: int, total: int | None = None) -> None:
        if self.on_progress is not None:
            self.on_progress(what, done, max(total or self.clip.count, done))


def _at_work(reasoned: Reasoned) -> list[int]:
    """The steps of the plan that change something."""
    return [at for at, step in enumerate(reasoned.trace.plan.steps) if not step.changes_nothing]


def _drawn(mask: Tensor) -> Tensor:
    """A mask, bool [H, W], as a picture [H, W, 3]."""
    return mask[..., None].float().expand(-1, -1, 3)


def _small(picture: Tensor) -> Tensor:
    """A picture [H, W, 3] as it is shown in the strip."""
    height, width = picture.shape[:2]
    share = _SHOWN / max(height, width, _SHOWN)
    return resize(picture[None], max(round(height * share), 1), max(round(width * share), 1))[0]


def _write_json(path: Path, data: dict[str, Any] | list[str]) -> None:
    text = json.dumps(data, ensure_ascii=False)
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))
