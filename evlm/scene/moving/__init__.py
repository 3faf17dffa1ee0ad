"""Scenes that move, on disk: our folder, sequences of .ply, and the times at which they are drawn."""

from ...lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    load="LoadedScene is_moving load_scene",
    folder="holds_a_scene save_folder",
    sequence="save_sequence",
    times="paired times_of views_in_time",
)
