"""What lies on disk: pictures and videos read and written, paths that stay inside a folder."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    pictures="load_picture load_mask save_picture save_mask write_atomically",
    still="Still is_still load_still",
    depth="load_depth",
    edited_still="SavedStill edited_suffix save_edited",
    clips="load_frames",
    clip_reader="iter_clip open_clip",
    clip_sound="Sound",
    clip_writer="write_clip",
    append="append_lines",
    safe_paths="Inside inside",
)
