"""How much memory `edit --video` takes for a short and for a long clip.

    python -m benchmarks.clip_memory [--seconds 10 30] [--height 1080] [--fps 24]

Each clip is read, placed, written and given its sound whole, with the bundled editor; only its first second
has a mask, so that painting costs little. A window has the same size wherever it lies, so what is held while
it is painted is in the figure.

Peak RSS is the whole process's, libraries included. The bars: equal within 5 %, at most 2 GB.
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

import numpy as np
import torch

from evlm.files.clip_writer import write_clip

MOST, APART = 2000, 1.05  # MB, ratio
_PLAN = {"instruction": "make the square blue", "targets": ["square"], "scope": "local"}


def main(seconds: list[float], height: int, fps: int) -> int:
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for each in seconds:
            begun = time.monotonic()
            peaks.append(measure(Path(folder), round(each * fps), height, fps))
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
    sys.exit(main(**vars(parser.parse_args())))
