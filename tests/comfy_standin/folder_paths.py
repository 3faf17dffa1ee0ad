"""ComfyUI's folders, below one base that a test chooses by `use`. Nothing is created."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

base_path = models_dir = ""
folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {}


def use(base: Path) -> None:
    """Not ComfyUI's: forget every folder, and start again below `base`."""
    global base_path, models_dir
    base_path, models_dir = str(base), str(base / "models")
    folder_names_and_paths.clear()
    for name in ("checkpoints", "loras", "diffusers", "vae"):
        add_model_folder_path(name, os.path.join(models_dir, name))


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    paths = folder_names_and_paths.setdefault(folder_name, ([], set()))[0]
    if full_folder_path not in paths:
        paths.insert(0 if is_default else len(paths), full_folder_path)


def get_folder_paths(folder_name: str) -> list[str]:
    return list(folder_names_and_paths[folder_name][0])


def get_output_directory() -> str:
    return os.path.join(base_path, "output")


def get_input_directory() -> str:
    return os.path.join(base_path, "input")


def get_temp_directory() -> str:
    return os.path.join(base_path, "temp")


use(Path(tempfile.gettempdir()) / f"comfy-standin-{os.getpid()}")
