"""Cameras and their photographs from other programs' files, or around a scene; and which to look from."""

from ...lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    load="load_cameras",
    loaded="LoadedCameras",
    clip_frames="decoded",
    orbits="common_up orbit cone",
    views="farthest views_that_see",
    comfy_info="from_comfy_info",
)
