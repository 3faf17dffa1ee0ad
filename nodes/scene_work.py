"""An edit of a scene on its way through the nodes: what it shows of itself, where unfinished work lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import clips, host, scene_views, sockets, unfinished

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.plan.trace import Trace
    from ..evlm.reason.reasoner import Reasoned
    from ..evlm.scene import SplatScene
    from ..evlm.scene_job import Looks, SceneJob, StepSelection

VIEWS, SIZE = 24, 512  # how many views are edited, and their longer side in pixels
SHOWN = 4  # views in a strip
DOING = {"look": "looking", "select": "selecting", "prepare": "preparing", "edit": "painting"}
FEWER = "Look from fewer views (views), or make them smaller (size)"
FIRST = (
    "a scene's plan is of its first view: connect the scene itself to `image` of EVLM Reason, which then "
    "looks at that view"
)


@dataclass
class Work(scene_views.Watch):
    """What a job says while it works: the bar with a picture, a text in the node. Cancels."""

    done: int = 0
    total: int = 1

    def views(self, what: str, done: int, total: int, picture: Tensor | None) -> None:
        """`SceneJob.on_work`."""
        if picture is not None:
            self.picture = picture[None].detach()
        if what == "edit":
            self.done, self.total = done, max(total, 1)
        elif what == "look":
            self.total = max(total, 1)  # as far as is known
        elif what == "prepare":
            self.done = 0
        self(DOING[what], done, total)

    def steps(self, done: int, total: int, preview: Tensor | None) -> None:
        """`SceneJob.on_step`: of the views that are painted together."""
        host.check_cancelled()
        if preview is not None:
            self.picture = preview.detach()
        together = min(TOGETHER, self.total - self.done)
        self("painting", self.done + max(together, 0) * done / max(total, 1), self.total)

    def event(self, event: Any) -> None:
        """`SceneJob.on_event`."""
        host.check_cancelled()


TOGETHER = 8  # views that an editor takes at once


def there(scene: SplatScene) -> SplatScene:
    """The scene on ComfyUI's device, in copies that can be learnt from; for use in `scene_views.learning`.
    Raises SceneError: more Gaussians than are drawn there in bearable time."""
    from ..evlm.scene.motion import Keys

    gaussians = scene_views.own(scene_views.on_device(scene.gaussians))
    chosen = None if scene.selection is None else scene.selection.to(gaussians.means.device, copy=True)
    cameras = tuple(scene_views.own_camera(camera) for camera in scene.cameras)
    motion = None
    if scene.motion is not None:
        copies = {name: each.clone() for name, each in scene.motion.tensors().items()}
        kept = Keys(scene.motion.keys.times.clone())
        motion = type(scene.motion).from_tensors(kept, copies).to(gaussians.means.device)
    return replace(scene, gaussians=gaussians, cameras=cameras, selection=chosen, motion=motion)


def looks_of(job: SceneJob) -> Looks:
    """`SceneJob.looks`. Raises PictureError before anything is drawn, where the views would not fit into
    memory."""
    _, cameras = job.chosen()
    height, width = max(each.height for each in cameras), max(each.width for each in cameras)
    clips.check_size("scene", len(cameras), height, width, FEWER)
    return job.looks()


def check_first(plan: Trace | None) -> None:
    """Raises RequestError for a plan of several pictures, or of one of several: it knows nothing of where
    things are in the first view."""
    from ..evlm.errors import RequestError

    if plan is not None and plan.planned_for not in (None, (1, 1)):
        frames, pictures = plan.planned_for or (1, 1)
        of = f"one of {pictures} pictures" if pictures > 1 else f"{frames} frames together"
        raise RequestError(f"plan: it is of {of}; {FIRST}")


def reasoned_of(plan: Trace) -> Reasoned:
    """A plan as if a reasoner had just written it."""
    from ..evlm.reason.reasoner import Reasoned

    return Reasoned("", 0, 0.0, trace=plan)


def mask_for(mask: Tensor | None, looks: Looks) -> Tensor | None:
    """[1, H, W] in the first view's size, from a mask in any. Raises PictureError as `fit_mask`."""
    from ..evlm.masks import fit_mask

    if mask is None:
        return None
    notes: list[str] = []
    first = looks.pictures[0][None].detach().float().cpu()
    fitted = fit_mask(mask[:1].clone(), first, "mask", notes)
    host.tell(notes)
    return fitted


def chosen_steps(job: SceneJob, plan: Trace, looks: Looks) -> list[StepSelection]:
    """Where each step of a plan goes: in the scene's own selection where it has one, else by what is found.
    Raises SceneError."""
    from ..evlm.place import doubt_steps

    selection = job.scene.selection
    if selection is None:
        return job.select_all(reasoned_of(plan), looks)
    if job.mask is None:
        job.doubt = doubt_steps(plan.plan, [False] * len(plan.plan.steps))
    steps = [step for step in plan.plan.steps if not step.changes_nothing]
    return [job.select_in(selection, step, plan, looks) for step in steps]


def union(selections: Sequence[StepSelection]) -> Tensor:
    """bool [N]: all that the steps may change."""
    return torch.stack([each.rows for each in selections]).any(0)


def shown(scene: SplatScene, looks: Looks) -> tuple[Tensor, Tensor]:
    """(pictures [n, H, W, 3], how much of what is seen is selected [n, H, W]) of some of an edit's views, the
    first among them, in 0..1 on the CPU."""
    some = some_of(looks)
    cameras = scene_views.alike([looks.cameras[at] for at in some])
    drawn = list(scene_views.drawn(scene, scene.gaussians, cameras))
    return torch.stack([picture for picture, _ in drawn]), torch.stack([mask for _, mask in drawn])


def some_of(looks: Looks) -> list[int]:
    """Numbers of at most SHOWN views, spread evenly, from the first."""
    return sorted({at * len(looks.cameras) // SHOWN for at in range(SHOWN)})


def finished(scene: SplatScene, source: SplatScene) -> SplatScene:
    """A scene for the nodes that follow: on the CPU, with the cameras that came."""
    return replace(scene, gaussians=scene.gaussians.detached(), cameras=source.cameras).to("cpu")


@contextmanager
def work_folder(scene: SplatScene, editor: Any, *parts: Any) -> Iterator[tuple[Path, str]]:
    """(where finished paintings and fits lie, the editor in words). What was cancelled or failed goes on
    there; where the editor's file is known, after a new start of ComfyUI, too."""
    said = getattr(editor, "said", "") or unfinished.model(editor)
    lasts = bool(getattr(editor, "said", ""))
    places = [part for camera in scene.cameras for part in (camera.view, camera.intrinsics)]
    sizes = [(camera.width, camera.height) for camera in scene.cameras]
    chosen = None if scene.selection is None else scene.selection
    if scene.motion is not None:
        places += [*scene.motion.tensors().values(), scene.motion.keys.times]
        parts = (*parts, [camera.time for camera in scene.cameras])
    key = unfinished.key_of(
        *scene.gaussians.tensors().values(), chosen, *places, sizes, scene.background, said, *parts
    )
    with unfinished.work_folder(key, _worth, lasts) as folder:
        begun = _worth(folder)
        if begun:
            host.tell(["what was painted and fitted in the run before is taken from there"])
        try:
            yield folder, said
        except BaseException:
            if _worth(folder):
                host.tell(["what is painted is kept: queue the same again, and it goes on there"])
            raise


def _worth(folder: Path) -> bool:
    return next(folder.rglob("*.safetensors"), None) is not None


def note_of(selections: Sequence[StepSelection], looks: Looks) -> list[str]:
    """What was selected, step by step, in words."""
    said = []
    for each in selections:
        voted = sum(mask is not None for mask in each.masks)
        views = f", by {voted} of {len(looks.cameras)} views" if voted else ""
        said.append(f"“{each.plan.instruction}”: {int(each.rows.sum()):,} Gaussians{views}")
        said += each.notes
    return said


def size_inputs(io: Any) -> list[Any]:
    """views and size, of the nodes that look at a scene alike."""
    return [
        io.Int.Input(
            "views",
            default=VIEWS,
            min=1,
            max=1000,
            tooltip="So many of the cameras at most are taken: the first, and those that differ most.",
        ),
        io.Int.Input(
            "size",
            default=SIZE,
            min=16,
            max=4096,
            tooltip="The longer side of a view is at most this, in pixels.",
        ),
    ]


def check_views(views: int, size: int) -> None:
    """Raises RequestError for numbers outside of their limits."""
    sockets.within("views", views, 1, 1000)
    sockets.within("size", size, 16, 4096)
