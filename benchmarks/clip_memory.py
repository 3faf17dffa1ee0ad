"""How much memory `edit --video` takes for a short and for a long clip, or EVLM Edit Video in ComfyUI.

    python -m benchmarks.clip_memory [--seconds 10 30] [--height 1080] [--fps 24]
    COMFYUI_PYTHON=V/bin/python python -m benchmarks.clip_memory --comfyui FOLDER [...]

Each clip is read, placed, written and given its sound whole, with the bundled editor; only its first second
has a mask, so that painting costs little. A window has the same size wherever it lies, so what is held while
it is painted is in the figure.

In ComfyUI (its folder, and the Python that it runs by) a clip goes from Load Video through EVLM Edit Video to
Save Video, in a server of its own each time; one mask counts for all frames, so that all are painted.

Peak RSS is the whole process's, libraries (and the server) included. The bars: equal within 5 %, at most
2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evlm.files.clip_writer import write_clip

MOST, APART = 2000, 1.05  # MB, ratio
_PLAN = {"instruction": "make the square blue", "targets": ["square"], "scope": "local"}


def main(seconds: list[float], height: int, fps: int, comfyui: Path | None = None) -> int:
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for each in seconds:
            begun = time.monotonic()
            count = round(each * fps)
            if comfyui is None:
                peaks.append(measure(Path(folder), count, height, fps))
            else:
                peaks.append(measure_node(Path(folder) / f"{count}", comfyui, count, height, fps))
            print(
                f"{each:g} s, {round(each * fps)} frames of {width_of(height)} x {height}: "
                f"peak RSS {peaks[-1]:,.0f} MB ({time.monotonic() - begun:.0f} s)",
                flush=True,
            )
    ratio = max(peaks) / min(peaks)
    print(f"{ratio:.3f}x (bar {APART}x), at most {max(peaks):,.0f} MB (bar {MOST:,})")
    return int(ratio > APART or max(peaks) > MOST)


def width_of(height: int) -> int:
    return height * 16 // 9


def measure(folder: Path, count: int, height: int, fps: int) -> float:
    """Peak RSS in MB of a run over so many frames."""
    clip, masks, plan, out = (folder / f"{count}{end}" for end in (".mp4", ".masks.mkv", ".json", ""))
    draw_clip(clip, count, height, fps)
    on = torch.zeros(1, height // 10, width_of(height) // 10, 3)
    on[:, 30:60, 40:80] = 1
    write_clip(masks, (on if at < fps else on * 0 for at in range(count)), "ffv1")
    plan.write_text(json.dumps({"prompt": "blue", "trace": {"plan": _PLAN}}))
    words = ["--video", clip, "--plan", plan, "--mask", masks, "--steps", "1", "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "-m", "evlm", "edit", *map(str, words)]
        child = subprocess.Popen(command, env=environment, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            said.seek(0)
            raise SystemExit(said.read().decode())
    return usage.ru_maxrss * 1024 / 1e6


def measure_node(folder: Path, home: Path, count: int, height: int, fps: int) -> float:
    """As `measure`, of a ComfyUI whose main.py lies in `home`."""
    from PIL import Image

    from .gpu.server import Server

    (folder / "input").mkdir(parents=True)
    draw_clip(folder / "input/clip.mp4", count, height, fps)
    mask = np.zeros((height, width_of(height), 3), np.uint8)
    mask[height // 4 : height // 2, height // 2 : height] = 255
    Image.fromarray(mask).save(folder / "input/mask.png")
    told = {"instruction": "make the square blue", "steps": 1, "guidance": 0.0, "image_guidance": 0.0}
    told |= {"seed": 0, "together": "per-frame", "window": 8, "context": 1.2, "feather": -1, "chunk": 8}
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "1": ("LoadVideo", {"file": "clip.mp4"}),
        "2": ("LoadImageMask", {"image": "mask.png", "channel": "red"}),
        "3": ("EVLM_LoadEditor", {"model": "bundled", "dtype": "auto", "download": False}),
        "4": (
            "EVLM_EditVideo",
            {**told, "anyway": False, "editor": ["3", 0], "video": ["1", 0], "mask": ["2", 0]},
        ),
        "5": (
            "SaveVideo",
            {"video": ["4", 0], "filename_prefix": "edited", "format": "auto", "codec": "auto"},
        ),
    }
    server = Server(home, folder, ["--cpu"])
    try:
        graph = {number: {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in nodes.items()}
        server.run(graph, most=2.0 * count + 300)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
    finally:
        server.stop()
    if len(list((folder / "output").glob("edited*.mp4"))) != 1:
        raise SystemExit(f"no clip was saved: {server.tail()}")
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak) * 1024 / 1e6


def draw_clip(path: Path, count: int, height: int, fps: int) -> None:
    """A square that crosses a textured ground, with a tone."""
    import av

    width = width_of(height)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ground = np.stack(
        [120 + 60 * np.sin(x / 97), 150 + 50 * np.cos(y / 71), 110 + 40 * np.sin((x + y) / 151)], -1
    )
    still = ground.astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        tone = container.add_stream("aac", rate=48000)
        for at in range(count):
            left = (width - height // 4) * at // count
            picture = still.copy()
            picture[height // 3 : height // 3 + height // 4, left : left + height // 4] = (210, 40, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        for start in range(0, count * 48000 // fps, 960):
            wave = np.sin(np.arange(start, start + 960) * 2 * np.pi * 440 / 48000).astype(np.float32)
            samples = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 48000, start, Fraction(1, 48000)
            container.mux(tone.encode(samples))
        container.mux(tone.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 30.0])
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--fps", type=int, default=24)
    parser.add_argument("--comfyui", type=Path, metavar="FOLDER", help="where its main.py lies")
    sys.exit(main(**vars(parser.parse_args())))
