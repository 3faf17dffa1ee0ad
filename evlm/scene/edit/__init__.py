"""The selected Gaussians of a scene, changed until its views look as an editor painted them; the rest to the
bit as they were."""

from ...lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    settings="IN_TIME SceneEdit",
    schedules="edit_rows edit_shape Edited",
    views="EditView edit_views",
)
