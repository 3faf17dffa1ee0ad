"""One object in a SAM 2 that tracks: prompt it in a frame, step from frame to frame, forget what is far.

Each object has a session of its own, so that it may begin and end when it likes; the picture is encoded once
for all of them. Both libraries keep everything that they ever computed: here only what the model still looks
at stays, its last memories and pointers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

CONDITIONS = 4
"""Prompted frames that a session remembers: the first and the last ones."""

Pixels = Callable[[int], Tensor]
"""Frame number -> the model's normalised input [3, S, S]."""


class Session(Protocol):
    """One object in one shot."""

    def prompt(self, frame: int, points: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> None:
        """In the frame that is stepped into next. points: (xy [P, 2] in the model's pixels, kinds [P]: 1 in,
        0 out, 2 and 3 a box's corners); or mask: float [S, S] of 0 and 1, in their place. Points without a
        box correct what is remembered; anything else, and what comes first, shows the object anew."""

    def step(self, frame: int, reverse: bool = False) -> tuple[Tensor, float]:
        """(mask logits [h, w], logit of being there) in a frame. Neighbours in time follow each other."""

    def size(self) -> int:
        """Numbers (tensor elements) that are remembered."""

    def remembered(self) -> Any:
        """All that is remembered, between two steps: tensors and numbers in dicts and lists."""

    def restore(self, state: Any) -> None:
        """Takes what `remembered` gave, on any device, in a session that has just begun."""


class Memory(Protocol):
    """A SAM 2 that tracks."""

    model: Any
    image_size: int

    def begin(self, pixels: Pixels, count: int) -> Callable[[], Session]:
        """For one clip of `count` frames: a function that begins a session for an object."""


class HfMemory:
    """transformers' `Sam2VideoModel`."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.image_size: int = model.config.image_size

    def begin(self, pixels: Pixels, count: int) -> Callable[[], Session]:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceCache

        device = next(self.model.parameters()).device
        cache = Sam2VideoInferenceCache(inference_device=device, inference_state_device=device)
        return lambda: _HfSession(self.model, cache, pixels)


class _HfSession:
    def __init__(self, model: Any, cache: Any, pixels: Pixels) -> None:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        device = next(model.parameters()).device
        self.model, self.pixels = model, pixels
        self.session = Sam2VideoInferenceSession(
            inference_device=device,
            inference_state_device=device,
            video_storage_device=device,
            dtype=torch.float32,
        )
        self.session.cache = cache
        self.session.obj_id_to_idx(0)
        self.session.processed_frames = {}
        self.corrected = -1

    def prompt(self, frame: int, points: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> None:
        session, tracked = self.session, self.session.frames_tracked_per_obj[0]
        for outputs in session.output_dict_per_obj[0].values():
            outputs.pop(frame, None)
        # Only in a frame that it takes for passed the model looks at its memories beside the points.
        if _corrects(points, session.output_dict_per_obj[0]["cond_frame_outputs"]):
            self.corrected, tracked[frame] = frame, {"reverse": False}
        else:
            tracked.pop(frame, None)
        if mask is not None:
            session.add_mask_inputs(0, frame, mask[None, None])
        else:
            assert points is not None
            xy, kinds = points
            inputs = {"point_coords": xy[None, None].float(), "point_labels": kinds[None, None].int()}
            session.add_point_inputs(0, frame, inputs)
        session.obj_with_new_inputs = [0]

    def step(self, frame: int, reverse: bool = False) -> tuple[Tensor, float]:
        session, outputs = self.session, self.session.output_dict_per_obj[0]
        out = self.model(session, frame=self.pixels(frame)[None], frame_idx=frame, reverse=reverse)
        if frame == self.corrected:  # as SAM 2 was trained: it is a condition, as what was shown first
            outputs["cond_frame_outputs"][frame] = outputs["non_cond_frame_outputs"].pop(frame)
        session.processed_frames.clear()
        session.point_inputs_per_obj[0].clear()
        session.mask_inputs_per_obj[0].clear()
        far = range(self.model.config.max_object_pointers_in_encoder)
        tracked = session.frames_tracked_per_obj[0]
        for other in [other for other in tracked if abs(other - frame) not in far]:
            del tracked[other]
        _forget(
            outputs["cond_frame_outputs"],
            outputs["non_cond_frame_outputs"],
            frame,
            self.model.num_maskmem,
            len(far),
            "object_pointer",
            ("high_res_masks",),
        )
        return out.pred_masks.float().reshape(out.pred_masks.shape[-2:]), float(out.object_score_logits)

    def size(self) -> int:
        return _numbers(self.session.output_dict_per_obj) + len(self.session.frames_tracked_per_obj[0])

    def remembered(self) -> Any:
        session = self.session
        return [session.output_dict_per_obj[0], session.frames_tracked_per_obj[0], self.corrected]

    def restore(self, state: Any) -> None:
        outputs, tracked, self.corrected = state
        self.session.output_dict_per_obj[0] = _moved(outputs, self.session.inference_device)
        self.session.frames_tracked_per_obj[0] = tracked
        self.session.obj_with_new_inputs = []


class MetaMemory:
    """Meta's `SAM2VideoPredictor`."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        model.add_all_frames_to_correct_as_cond = True  # as it was trained
        self.image_size: int = model.image_size

    def begin(self, pixels: Pixels, count: int) -> Callable[[], Session]:
        features: dict[int, Any] = {}
        return lambda: _MetaSession(self.model, features, _Images(pixels, count))


class _Images:
    """What the predictor takes for its loaded video."""

    def __init__(self, pixels: Pixels, count: int) -> None:
        self.pixels, self.count = pixels, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, frame: int) -> Tensor:
        return self.pixels(frame)


class _MetaSession:
    def __init__(self, model: Any, features: dict[int, Any], images: _Images) -> None:
        self.model, self.features = model, features
        size = model.image_size
        self.state: dict[str, Any] = {
            "images": images,
            "num_frames": len(images),
            "offload_video_to_cpu": True,
            "offload_state_to_cpu": False,
            "video_height": size,
            "video_width": size,
            "device": model.device,
            "storage_device": model.device,
            "constants": {},
            "obj_id_to_idx": {},
            "obj_idx_to_id": {},
            "obj_ids": [],
        }
        for name in (
            "point_inputs_per_obj",
            "mask_inputs_per_obj",
            "cached_features",
            "output_dict_per_obj",
            "temp_output_dict_per_obj",
            "frames_tracked_per_obj",
        ):
            self.state[name] = {}
        model._obj_id_to_idx(self.state, 0)

    def prompt(self, frame: int, points: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> None:
        tracked = self.state["frames_tracked_per_obj"][0]
        for outputs in self.state["output_dict_per_obj"][0].values():
            outputs.pop(frame, None)
        if _corrects(points, self.state["output_dict_per_obj"][0]["cond_frame_outputs"]):
            tracked[frame] = {"reverse": False}
        else:
            tracked.pop(frame, None)
        with self._features():
            if mask is not None:
                self.model.add_new_mask(self.state, frame, 0, mask)
                return
            assert points is not None
            xy, kinds = points
            self.model.add_new_points_or_box(
                self.state, frame, 0, points=xy, labels=kinds, normalize_coords=True
            )

    def step(self, frame: int, reverse: bool = False) -> tuple[Tensor, float]:
        outputs = self.state["output_dict_per_obj"][0]
        with self._features(), torch.inference_mode():
            self.model.propagate_in_video_preflight(self.state)
            out = outputs["cond_frame_outputs"].get(frame)
            if out is None:
                out, _ = self.model._run_single_frame_inference(
                    inference_state=self.state,
                    output_dict=outputs,
                    frame_idx=frame,
                    batch_size=1,
                    is_init_cond_frame=False,
                    point_inputs=None,
                    mask_inputs=None,
                    reverse=reverse,
                    run_mem_encoder=True,
                )
                outputs["non_cond_frame_outputs"][frame] = out
        tracked, far = self.state["frames_tracked_per_obj"][0], self.model.max_obj_ptrs_in_encoder
        tracked[frame] = {"reverse": reverse}
        for other in [other for other in tracked if abs(other - frame) >= far]:
            del tracked[other]
        self.state["point_inputs_per_obj"][0].clear()
        self.state["mask_inputs_per_obj"][0].clear()
        logits = out["pred_masks"].float().reshape(out["pred_masks"].shape[-2:])
        score = float(out["object_score_logits"])
        _forget(
            outputs["cond_frame_outputs"],
            outputs["non_cond_frame_outputs"],
            frame,
            self.model.num_maskmem,
            far,
            "obj_ptr",
            (),
        )
        return logits, score

    def _features(self) -> Any:
        """The encoded picture goes from session to session."""
        from contextlib import contextmanager

        @contextmanager
        def lent() -> Any:
            self.state["cached_features"] = dict(self.features)
            yield
            kept = dict(self.state["cached_features"])
            self.features.clear()
            self.features.update(kept)
            self.state["cached_features"] = {}

        return lent()

    def size(self) -> int:
        return _numbers(self.state["output_dict_per_obj"]) + len(self.state["frames_tracked_per_obj"][0])

    def remembered(self) -> Any:
        return [self.state["output_dict_per_obj"][0], self.state["frames_tracked_per_obj"][0]]

    def restore(self, state: Any) -> None:
        outputs, self.state["frames_tracked_per_obj"][0] = state
        self.state["output_dict_per_obj"][0] = _moved(outputs, self.state["device"])


def _corrects(points: tuple[Tensor, Tensor] | None, conditions: dict[int, Any]) -> bool:
    """Whether a prompt adds to what is remembered: clicks, where something is."""
    return points is not None and bool(conditions) and not bool((points[1] > 1).any())


def _forget(
    conditions: dict[int, Any],
    others: dict[int, Any],
    frame: int,
    memories: int,
    pointers: int,
    pointer: str,
    unused: tuple[str, ...],
) -> None:
    """Drops what no frame beyond this one looks at: whole outputs beyond `pointers` frames, all of them but
    their pointer beyond `memories`."""
    for other in list(others):
        away = abs(other - frame)
        if away >= pointers:
            del others[other]
        elif away >= memories and len(others[other]) > 1:
            others[other] = {pointer: others[other][pointer]}
    prompted = sorted(conditions)
    for other in prompted[1 : max(len(prompted) - CONDITIONS + 1, 1)]:
        del conditions[other]
    for output in (*conditions.values(), *others.values()):
        for name in unused:
            output.pop(name, None)
        for name, value in output.items():  # as it lies when it comes back from the disk
            output[name] = _dense(value)


def _dense(value: Any) -> Any:
    if isinstance(value, list):
        return [_dense(each) for each in value]
    return value.contiguous() if isinstance(value, Tensor) else value


def _moved(value: Any, device: Any) -> Any:
    """Nested tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    return [_moved(each, device) for each in value] if isinstance(value, list) else value


def _numbers(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, dict):
        return sum(_numbers(each) for each in value.values())
    return sum(_numbers(each) for each in value) if isinstance(value, (list, tuple)) else 0
