"""One frame of a clip in ComfyUI's folders, for the page, where somebody clicks into it: /evlm/clip_frame."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from . import clips, folders, host

PATH = "/evlm/clip_frame"
SHOWN = 1024  # pixels, the longer side
TOO_LONG = "EVLM Track holds all frames at once"


def answer_to(query: Mapping[str, str]) -> dict[str, Any]:
    """?video=NAME, as core's Load Video names a file, and &frame=NUMBER -> {"frame": its picture as a data
    URL, "width", "height": of the clip, "count": its frames}, or {"error": why there is none}."""
    from ..evlm.errors import EVLMError
    from ..evlm.files.clip_reader import open_clip
    from ..evlm.files.clips import read_clip
    from ..evlm.files.pictures import to_pil
    from ..evlm.files.selection import Selection

    try:
        path, text = folders.annotated(query.get("video", "")), query.get("frame", "0")
        number = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0
        clip = open_clip(path)
        clips.check_size("clip", clip.count, clip.height, clip.width, TOO_LONG)
        number = min(number, clip.count - 1)
        image = to_pil(read_clip(path, Selection(first=number, limit=1)).frames[0])
    except EVLMError as error:
        return {"error": str(error)}
    image.thumbnail((SHOWN, SHOWN))
    data = BytesIO()
    image.save(data, "JPEG", quality=88)
    url = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return {"frame": url, "number": number, "width": clip.width, "height": clip.height, "count": clip.count}


def register() -> None:
    """Lets the page ask."""
    host.answer(PATH, answer_to, apart=True)
