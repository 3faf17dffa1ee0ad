"""A scene of Gaussians from a request to an edited scene: plan, selection, painting, step after step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import __version__
from .boxes import Box, bounding_box
from .edit.crop import resize
from .errors import SceneError
from .plan.doubt import doubt
from .plan.operation import Operation, operation
from .plan.trace import Plan, Trace
from .request import Request
from .scene import Camera, SplatScene
from .scene.edit import SceneEdit, edit_shape
from .scene.edit.journal import FolderJournal, digest_of
from .scene.edit.painters import EditorPainter
from .scene.edit.places import Place, lifted
from .scene.edit.reshape import GROWTH, STEPS, reshaped
from .scene.edit.views import seen
from .scene.motion import posed
from .scene.moving import views_in_time
from .scene.poses import farthest
from .scene.raster import rasterize
from .scene.select import select_rows, vote
from .scene.select.hull import RIM, SHARE
from .segment.region import plan_region

if TYPE_CHECKING:
    from .edit.protocol import EditSettings, OnStep
    from .events import OnEvent
    from .pipeline import Pipeline
    from .reason.reasoner import Reasoned, Sampling
    from .request import Reference

KEPT = 2  # of the form of what is kept on the way; another one begins anew
LEAST = 16  # pixels of a view: less of a thing tells nothing
SAME = 0.25  # of the smaller of two masks that the other has to have, for both to be of one thing
WIDE = 4.0  # times what is expected that a mask drawn from it may cover: a side was seen, not all of it
OnWork = Callable[[str, int, int, "Tensor | None"], None]
"""(what is done: "look", "select", "prepare" or "edit", views that are finished, all as far as is known, one
of them)."""


@dataclass(frozen=True, eq=False)
class Looks:
    """What an edit looks from: cameras of the size in which is painted, and what they show, [H, W, 3] each in
    0..1. photographed: whether those are photographs, and not the scene's own renderings."""

    cameras: tuple[Camera, ...]
    pictures: tuple[Tensor, ...]
    photographed: bool


@dataclass(frozen=True, eq=False)
class StepSelection:
    """What a step of a plan may change. rows: bool [N]. masks: for each view [H, W] in 0..1, or None where
    the thing was not found. notes: decisions, in words. operation: of the plan's words. place: where
    something new is to stand."""

    plan: Plan
    rows: Tensor
    masks: tuple[Tensor | None, ...]
    notes: tuple[str, ...] = ()
    operation: Operation = "repaint"
    place: Place | None = None


@dataclass
class SceneJob:
    """One edit of one scene.

    prompt, references: as `Request` has them; its original is the first of the views. settings: which views,
    and how they are painted and fitted; edit: the editor's. work: a folder for what is done, so that an edit
    that was stopped goes on there; None keeps nothing. mask: [1, H, W] in 0..1, where the edit goes in the
    first view, given by somebody. identity: of the editor's weights in words, which tell its work from that
    of others. doubt: after `select`, why nothing should be painted by this plan unless
    somebody says so, or empty. notes: grows with what a user should know. home: int64 [M], after `paint`, of
    each row of the result its number in the scene, -1 of a new one; those come last.

    Selected rows are all that can change or go; every other row of the result has the scene's own bits, and
    its order. New rows come where the plan removes, adds, moves or replaces.
    """

    scene: SplatScene
    pipeline: Pipeline
    prompt: str = ""
    references: tuple[Reference, ...] = ()
    settings: SceneEdit = field(default_factory=SceneEdit)
    edit: EditSettings | None = None
    sampling: Sampling | None = None
    threshold: float | None = None
    work: Path | None = None
    mask: Tensor | None = None
    identity: str = ""
    on_event: OnEvent | None = None
    on_work: OnWork | None = None
    on_step: OnStep | None = None
    notes: list[str] = field(default_factory=list)
    doubt: str = ""
    home: Tensor | None = None

    def looks(self) -> Looks:
        """The views of an edit: the scene's first, of which the plan is, and those that differ most; and what
        they show. Raises SceneError: no cameras."""
        photographs, pictures = self.scene.photographs, list[Tensor]()
        which, cameras = self.chosen()
        for done, (at, camera) in enumerate(zip(which, cameras, strict=True), 1):
            if photographs is None:
                picture = self._shown(camera)
            else:  # one at a time in its own size
                picture = resize(photographs[at]()[None], camera.height, camera.width)[0].clamp(0, 1)
            pictures.append(picture)
            self._tell("look", done, len(cameras), picture)
        return Looks(cameras, tuple(pictures), photographs is not None)

    def chosen(self) -> tuple[list[int], tuple[Camera, ...]]:
        """(numbers of the scene's cameras that an edit looks from, which mean nothing where it moves and has
        no photographs; these cameras in the size in which is painted). Raises SceneError: no cameras."""
        scene, settings = self.scene, self.settings
        if not scene.cameras:
            raise SceneError("the scene has no cameras: give its file of cameras, or cameras='orbit:24'")
        if scene.motion is not None and scene.photographs is None:
            pairs = views_in_time(scene.cameras, scene.motion, settings.views, settings.times)
            return [0] * len(pairs), tuple(camera.within(settings.longest) for camera in pairs)
        which = [0, *farthest(scene.cameras, settings.views)[1:]]
        return which, tuple(scene.cameras[at].within(settings.longest) for at in which)

    def request(self, looks: Looks, else_asked: str = "") -> Request:
        """What the reasoner is asked: the first view, the words, `else_asked` where there are none, and the
        references."""
        words = self.prompt if self.prompt.strip() or self.references else else_asked
        return Request(looks.pictures[0][None].float().cpu(), words, self.references)

    def reason(self, looks: Looks) -> Reasoned:
        """The plan. Errors as `Pipeline.reason`'s."""
        return self.pipeline.reason(self.request(looks), self.sampling, self.on_event)

    def select(self, plan: Plan, trace: Trace, looks: Looks) -> StepSelection:
        """Which Gaussians a step may change: those that fill the masks of its targets in the views.

        A step of the whole picture selects all. In the first view the place is the plan's, as for a picture;
        in the others the detector looks for the targets, and where it finds none the segmenter draws what
        lies where the first view's selection is seen; a view counts whose mask is there. Raises SceneError:
        nothing was found.
        """
        gaussians, count, motion = self.scene.gaussians, len(looks.cameras), self.scene.motion
        if plan.scope == "global" and self.mask is None:
            self.doubt = self.doubt or doubt(plan, True)
            rows = torch.ones(len(gaussians), dtype=torch.bool, device=gaussians.means.device)
            return StepSelection(plan, rows, (None,) * count, ("the whole scene is edited",))
        kind = operation(plan)
        camera = looks.cameras[0]
        own = plan_region(plan, camera.height, camera.width).mask if kind == "add" else None
        if own is not None and self.mask is None:
            first = own  # what is not there yet no detector can find
        else:
            first = self._first_mask(plan, trace, looks)
        if kind == "add":
            place = lifted(posed(gaussians, looks.cameras[0], motion), looks.cameras[0], first)
            rows = torch.zeros(len(gaussians), dtype=torch.bool, device=gaussians.means.device)
            said = "something new is added, where the plan's place in the first view stands on what is there"
            return StepSelection(plan, rows, (first, *[None] * (count - 1)), (said,), kind, place)
        whole = first
        if kind != "repaint" and self.mask is None:
            found = self._find(plan, looks.pictures[0])  # the plan's place has room around the thing
            if found is not None and _shared(first >= 0.5, found >= 0.5) >= SAME:
                first = found
        masks: list[Tensor | None] = [first, *[None] * (count - 1)]
        notes: list[str] = []
        core = select_rows(gaussians, vote(gaussians, looks.cameras, masks, motion=motion)).rows
        self._tell("select", 1, count, looks.pictures[0])
        for at in range(1, count):
            masks[at], note = self._mask_in(plan, core, looks.cameras[at], looks.pictures[at])
            notes += [f"view {at}: {note}"] if note else []
            self._tell("select", at + 1, count, looks.pictures[at])
        share = SHARE if kind in ("repaint", "replace") else RIM  # of what goes, its border goes as well
        told = partial(self._tell, "select", count, count, None)
        votes = vote(gaussians, looks.cameras, masks, on_view=lambda *_: told(), motion=motion)
        chosen = select_rows(gaussians, votes, share)
        if not bool(chosen.rows.any()):
            raise SceneError(
                f"no Gaussian lies in the masks of {', '.join(plan.targets) or 'the plan'}: look at the "
                "views, name the target otherwise, or choose cameras that see it"
            )
        alone = all(mask is None for mask in masks[1:])
        notes += (
            ["the first view alone says where it is: what it does not see is not selected"] if alone else []
        )
        said_by_votes = () if alone else chosen.notes
        at_first = posed(gaussians, looks.cameras[0], motion)
        to = lifted(at_first, looks.cameras[0], whole) if kind == "move" else None
        return StepSelection(plan, chosen.rows, tuple(masks), (*notes, *said_by_votes), kind, to)

    def select_in(self, rows: Tensor, plan: Plan, trace: Trace, looks: Looks) -> StepSelection:
        """`select` where somebody has chosen the rows, bool [N]: they are what may change, and of a mask that
        is given those of them that fill it. Where something comes or goes to, the plan or the mask says.
        Raises SceneError: none of them fills the mask."""
        kind, nowhere = operation(plan), (None,) * len(looks.cameras)
        if kind == "move":
            first = posed(self.scene.gaussians, looks.cameras[0], self.scene.motion)
            to = lifted(first, looks.cameras[0], self._first_mask(plan, trace, looks))
            return StepSelection(plan, rows, nowhere, operation=kind, place=to)
        if kind != "add" and self.mask is None:
            return StepSelection(plan, rows, nowhere, operation=kind)
        found = self.select(plan, trace, looks)
        if kind == "add":
            return found
        if not bool((both := found.rows & rows).any()):
            raise SceneError(
                f"nothing of the scene's selection lies in the mask for {plan.instruction!r:.80}: draw it "
                "over what is selected, or give a scene without a selection"
            )
        return replace(found, rows=both)

    def paint(self, selections: list[StepSelection], looks: Looks) -> SplatScene:
        """The edited scene: each step in its turn, its views' sources what the steps before have made."""
        scene, gaussians = self.scene, self.scene.gaussians
        background = torch.tensor(scene.background).to(gaussians.means)
        edited, home = gaussians, torch.arange(len(gaussians), device=gaussians.means.device)
        for number, step in enumerate(selections):
            photographs = looks.pictures if looks.photographed and not number else None
            rows = _carried(step.rows, home)
            if bool(step.rows.any()) and not bool(rows.any()):
                self._note([f"step {number + 1}: an earlier step took away what it is about; it is left out"])
                continue
            kind, settings = step.operation, self.settings
            if kind != "repaint":
                steps, growth = max(settings.steps, STEPS), max(settings.growth, GROWTH)
                growth = growth if scene.motion is None else 1.0  # a copy would not know how it moves
                settings = replace(settings, steps=steps, growth=growth)
            motion = None if scene.motion is None else scene.motion.taken(home)
            shape = reshaped(
                kind, edited, rows, looks.cameras, photographs, background, step.place, settings.seed,
                lambda done, total: self._tell("prepare", done, total, None), motion,
            )  # fmt: skip
            motion = None if motion is None else motion.taken(shape.home)
            painter = EditorPainter(
                self.pipeline.editor, step.plan.instruction, self.edit, on_step=self.on_step
            )
            views, journal = shape.views, None
            if self.work is not None:
                said = [__version__, KEPT, self.identity, step.plan.instruction, settings, painter.settings]
                said += [scene.background, scene.extent, painter.together]
                pictures = [part for view in views for part in (view.source, view.mask)]
                pictures += [part for view in views for part in (view.camera.view, view.camera.intrinsics)]
                if motion is not None:
                    said += [motion.keys.times.tolist(), [view.camera.time for view in views]]
                    pictures += list(motion.tensors().values())
                kept = [*shape.gaussians.tensors().values(), shape.selection, *pictures, *said]
                journal = FolderJournal(self.work, digest_of(kept))
            self._note(step.notes)
            if bool(shape.selection.any()):
                done = edit_shape(
                    shape.gaussians,
                    shape.selection,
                    views,
                    painter,
                    settings,
                    background,
                    scene.extent,
                    journal,
                    lambda done, total, picture: self._tell("edit", done, total, picture),
                    motion,
                )
                edited, from_shape = done.gaussians, done.home
                self._note([*painter.notes, *done.notes])
            else:
                edited, from_shape = shape.gaussians, torch.arange(len(shape.gaussians), device=home.device)
                self._note(["what was removed had nothing behind it that is not there: nothing was painted"])
            was = _numbers(shape.home, from_shape)
            home = _numbers(home, was)
        chosen = torch.zeros(len(gaussians), dtype=torch.bool, device=gaussians.means.device)
        for step in selections:
            chosen |= step.rows
        self.home = home
        changed = (home < 0) | _carried(chosen, home)
        source = scene.source
        if not torch.equal(home, torch.arange(len(gaussians), device=home.device)):
            source = None  # its further columns are of rows that may be others now; `home` says which
            self._note(["rows came or went"] if scene.source is not None else [])
        shown = None if selections else scene.photographs  # they show it as it was before
        motion = None if scene.motion is None else scene.motion.taken(home)
        made = replace(
            scene, gaussians=edited, selection=changed, source=source, photographs=shown, motion=motion
        )
        return made.noted(*self.notes)

    def select_all(self, reasoned: Reasoned, looks: Looks) -> list[StepSelection]:
        """`select`, of each step that changes something."""
        steps = [step for step in reasoned.trace.plan.steps if not step.changes_nothing]
        return [self.select(step, reasoned.trace, looks) for step in steps]

    def _first_mask(self, plan: Plan, trace: Trace, looks: Looks) -> Tensor:
        from .reason.reasoner import Reasoned

        alone = replace(trace, plan=plan)
        reasoned = Reasoned("", 0, 0.0, trace=alone)
        planned = self.pipeline.plan(
            self.request(looks, plan.instruction),
            reasoned,
            self.threshold,
            mask=self.mask,
            on_event=self.on_event,
        )
        self._note(planned.notes)
        self.doubt = self.doubt or planned.doubt
        if planned.mask is None:
            return torch.ones(looks.cameras[0].height, looks.cameras[0].width)
        return planned.mask[0]

    def _mask_in(
        self, plan: Plan, core: Tensor, camera: Camera, picture: Tensor
    ) -> tuple[Tensor | None, str]:
        """(the mask [H, W] in 0..1 of the targets in a view, or None; what was decided, or empty).

        core: bool [N], what the first view selects. Where other things, or its own far side, hide it, a mask
        has to be where it would be seen without them."""
        gaussians = posed(self.scene.gaussians, camera, self.scene.motion)
        expected = seen(gaussians, core, camera).cpu()
        visible = int(expected.sum()) >= LEAST
        if not visible:
            alone = gaussians.rows(core)
            expected = seen(alone, torch.ones_like(core[core]), camera).cpu()
            if int(expected.sum()) < LEAST:
                return None, "what the first view selects is not in it"
        mask, note = self._find(plan, picture), ""
        if mask is None:
            mask = self._drawn(plan, expected, picture) if visible else None
            if mask is None:
                return None, ""
            if int((mask >= 0.5).sum()) > WIDE * int(expected.sum()):
                return None, "nothing was found there, and the segmenter drew far more than is expected"
            note = "nothing was found there; the segmenter drew what lies where the first view's selection is"
        if _shared(expected, mask >= 0.5) < SAME:
            return None, "what was found there is another thing"
        return mask, note

    def _drawn(self, plan: Plan, expected: Tensor, picture: Tensor) -> Tensor | None:
        """The mask [H, W] that the segmenter draws from the box of what is expected; None without one."""
        corners = bounding_box(expected)
        if self.pipeline.segmenter is None or corners is None:
            return None
        left, top, right, bottom = corners
        box = Box(plan.targets[0] if plan.targets else "", 0.0, left, top, right, bottom, by_plan=True)
        return self.pipeline.segmenter.segment(picture[None].float().cpu(), [box]).masks[:, 0].amax(0)

    def _find(self, plan: Plan, picture: Tensor) -> Tensor | None:
        """The mask [H, W] in 0..1 of the targets in a view; None: not found."""
        grounder, segmenter = self.pipeline.grounder, self.pipeline.segmenter
        if grounder is None or segmenter is None or not plan.targets:
            return None
        frames = picture[None].float().cpu()
        boxes = grounder.ground(frames, plan.targets, self.threshold)
        best = [max((box for box in boxes if box.label == label), key=lambda box: box.score, default=None)
                for label in dict.fromkeys(box.label for box in boxes)]  # fmt: skip
        sure = [box for box in best if box is not None]
        if not sure:
            return None
        return segmenter.segment(frames, sure).masks[:, 0].amax(0)

    def _shown(self, camera: Camera) -> Tensor:
        gaussians = posed(self.scene.gaussians, camera, self.scene.motion)
        background = torch.tensor(self.scene.background).to(gaussians.means)
        with torch.no_grad():
            return rasterize(gaussians, camera, background).image.clamp(0, 1)

    def _tell(self, what: str, done: int, total: int, picture: Tensor | None) -> None:
        if self.on_work is not None:
            self.on_work(what, done, total, picture)

    def _note(self, notes: list[str] | tuple[str, ...]) -> None:
        self.notes += [note for note in notes if note not in self.notes]


def _numbers(of: Tensor, which: Tensor) -> Tensor:
    """`of` [N] at the numbers `which` [M]; -1 where those are -1."""
    return torch.where(which >= 0, of[which.clamp(min=0)], which) if len(of) else which


def _carried(rows: Tensor, home: Tensor) -> Tensor:
    """bool [M]: rows, bool [N], for a scene whose rows were once those that `home` [M] says."""
    return (home >= 0) & rows[home.clamp(min=0)] if len(rows) else home >= 0


def _shared(one: Tensor, other: Tensor) -> float:
    """Of two masks, bool [H, W]: how much of the smaller one lies in the other, 0..1."""
    return float((one & other).sum()) / max(1, min(int(one.sum()), int(other.sum())))
