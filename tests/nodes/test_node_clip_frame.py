"""A frame of a clip for the page: from ComfyUI's folders alone, and of clips that EVLM Track holds."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image
from standin import part

pytest.importorskip("av")
COUNT, HEIGHT, WIDTH = 6, 40, 60


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Any:
    before = folder_paths.base_path
    folder_paths.use(tmp_path / "comfy")
    yield
    folder_paths.use(Path(before))


@pytest.fixture
def clip() -> torch.Tensor:
    """Each frame of its own grey, in the input folder and in that of outputs."""
    frames = (torch.arange(COUNT)[:, None, None, None] * 40 / 255).expand(-1, HEIGHT, WIDTH, 3).contiguous()
    for name in (folder_paths.get_input_directory(), folder_paths.get_output_directory()):
        part("evlm.files.clip_writer").write_clip(Path(name) / "sub" / "a.mkv", frames, "ffv1")
    return frames


def asked(video: str, frame: str = "0") -> dict[str, Any]:
    answer: dict[str, Any] = part("nodes.clip_frame").answer_to({"video": video, "frame": frame})
    return answer


@pytest.mark.parametrize("name", ["sub/a.mkv", "sub/a.mkv [input]", "sub/a.mkv [output]"])
def test_a_frame_comes_with_the_clip_s_size_and_length(clip: torch.Tensor, name: str) -> None:
    for frame, wanted in (("0", 0), ("4", 4), ("99", COUNT - 1), ("x", 0)):
        answer = asked(name, frame)
        assert [answer[key] for key in ("number", "width", "height", "count")] == [
            wanted,
            WIDTH,
            HEIGHT,
            COUNT,
        ]
        head, _, data = answer["frame"].partition(",")
        assert head == "data:image/jpeg;base64"
        picture = np.asarray(Image.open(BytesIO(base64.b64decode(data))))
        assert picture.shape == (HEIGHT, WIDTH, 3) and abs(int(picture.mean()) - 40 * wanted) <= 2


@pytest.mark.parametrize(
    "name",
    [
        "",
        "gone.mp4",
        "../comfy/input/sub/a.mkv",
        "/etc/passwd",
        "sub/../../a.mkv",
        "a\0b",
        "text.mp4",
        "a" * 300,
    ],
)
def test_nothing_else_is_read(clip: torch.Tensor, name: str) -> None:
    (Path(folder_paths.get_input_directory()) / "text.mp4").write_text("no clip")
    answer = asked(name)
    assert set(answer) == {"error"} and answer["error"] and "\n" not in answer["error"]


def test_a_link_out_of_the_folder_is_not_followed(clip: torch.Tensor, tmp_path: Path) -> None:
    inputs = Path(folder_paths.get_input_directory())
    (inputs / "sub" / "a.mkv").rename(tmp_path / "away.mkv")
    (inputs / "b.mkv").symlink_to(tmp_path / "away.mkv")
    assert "leads out" in asked("b.mkv")["error"]


def test_what_track_would_refuse_is_refused(clip: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part("evlm.files.clips"), "MAX_TOTAL_PIXELS", HEIGHT * WIDTH * (COUNT - 1))
    assert "EVLM Track holds all frames at once" in asked("sub/a.mkv")["error"]
