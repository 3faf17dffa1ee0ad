"""Boxes of a damaged MP4 are walked once, whatever lengths they say."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

from evlm.files.cut_off import cut_off


def test_a_box_of_no_length_does_not_hold_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "endless.mp4"
    head = (24).to_bytes(4, "big") + b"ftypisom" + bytes(4) + b"isommp41"
    path.write_bytes(head + (1).to_bytes(4, "big") + b"mdat" + bytes(64))
    said: list[str] = []
    walk = Thread(target=lambda: said.append(cut_off(path)), daemon=True)
    walk.start()
    walk.join(20)
    assert said and "it is cut off" in said[0]
