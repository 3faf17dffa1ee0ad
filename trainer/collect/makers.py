"""Who draws a picture: an OpenAI-compatible images endpoint, a model of this machine, a command."""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from evlm.errors import AnswerError, ConfigError, EndpointError, EVLMError
from evlm.files.pictures import from_pil, load_picture, open_image, to_pil
from evlm.models.zoo import resolve
from evlm.reason.reasoner import Generated
from evlm.reason.remote import Completion

from .pictures import Pictures
from .services import Maker
from .stages import key_of
from .web import Web

Draw = Callable[[str, bytes | None], Completion]
"""(what is asked for, the original as PNG or None for a diptych) -> where the picture lies, as text."""
_FORM = "response_format"  # a setting that some servers need, and some refuse


def maker_of(maker: Maker, pictures: Pictures) -> Draw:
    """Raises ModelError, ConfigError, EndpointError, also where the draw does; AnswerError of one picture."""
    if maker.command:
        draw: Callable[[str, bytes | None], tuple[bytes, int | None, int]] = _Command(maker)
    elif maker.local:
        draw = _Local(maker)
    else:
        draw = _Endpoint(maker)

    def complete(prompt: str, original: bytes | None) -> Completion:
        start = time.perf_counter()
        data, asked, written = draw(prompt, original)
        path = pictures.write(_as_png(data), "png")
        return Completion(Generated(path, written, time.perf_counter() - start, True), asked)

    return complete


def sent(file: Path, max_pixels: int) -> bytes:
    """A picture as PNG, as a reasoner sees it, of at most so many pixels. Raises PictureError."""
    from PIL import Image

    upright = to_pil(load_picture(file)[0])
    width, height = upright.size
    if width * height > max_pixels:
        scale = (max_pixels / (width * height)) ** 0.5
        upright = upright.resize(
            (max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.LANCZOS
        )
    return _png(upright)


class _Endpoint:
    """POST {base}/images/edits with a form, or /images/generations with JSON."""

    def __init__(self, maker: Maker) -> None:
        self.maker, self.web = maker, Web(maker.endpoint, maker.timeout)
        self._plain = False  # whether the server refuses to be told the form of its answer

    def __call__(self, prompt: str, original: bytes | None) -> tuple[bytes, int | None, int]:
        if not self._plain:
            try:
                return self._asked(prompt, original, {_FORM: "b64_json"})
            except EndpointError as error:
                if error.status not in (400, 422) or _FORM not in str(error):
                    raise
                self._plain = True
        return self._asked(prompt, original, {})

    def _asked(
        self, prompt: str, original: bytes | None, more: dict[str, str]
    ) -> tuple[bytes, int | None, int]:
        size = {"size": self.maker.size} if self.maker.size else {}
        if original is None:
            body = {"model": self.maker.model, "prompt": prompt, "n": 1, **size, **more}
            answer = self.web.json("POST", "/images/generations", body)
        else:
            fields = {"model": self.maker.model, "prompt": prompt, "n": "1", **size, **more}
            answer = self.web.form("/images/edits", fields, {"image": ("original.png", original)})
        usage = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        asked, written = usage.get("input_tokens"), usage.get("output_tokens")
        picture = _picture(answer, self.maker.name)
        if type(asked) is not int or type(written) is not int:
            return picture, None, 0
        return picture, asked, written


def _picture(answer: dict[str, Any], name: str) -> bytes:
    try:
        first = answer["data"][0]
        said = first.get("b64_json") or first["url"]
        if said.startswith("data:"):
            said = said.partition(",")[2]
        elif said.startswith("http"):
            raise EndpointError(f"{name} answers with links, which are not followed; have it send b64_json")
        return base64.b64decode(said.encode("ascii", "replace"), validate=True)
    except (LookupError, TypeError, AttributeError, binascii.Error):
        raise AnswerError(f"{name} answered with no picture: {str(answer)[:200]}") from None


class _Local:
    """An editor for originals, a diffusers folder for diptychs; loaded when first needed, used by one at a
    time."""

    def __init__(self, maker: Maker) -> None:
        self.maker, self._lock = maker, threading.Lock()
        self._editor: Any = None
        self._pipeline: Any = None

    def __call__(self, prompt: str, original: bytes | None) -> tuple[bytes, int | None, int]:
        seed = int(key_of(prompt)[:7], 16)
        with self._lock:
            return (
                (self._painted(prompt, seed) if original is None else self._edited(prompt, original, seed)),
                0,
                0,
            )

    def _edited(self, prompt: str, original: bytes, seed: int) -> bytes:
        from dataclasses import replace

        from evlm.edit.load import load_editor

        if self._editor is None:
            self._editor = load_editor(resolve(self.maker.local, "editor"))
        with tempfile.TemporaryDirectory() as folder:  # Windows opens no file twice
            file = Path(folder) / "original.png"
            file.write_bytes(original)
            frames = load_picture(file)
        settings = replace(self._editor.defaults, seed=seed)
        return _png(to_pil(self._editor.edit(frames, prompt, settings=settings).frames[0]))

    def _painted(self, prompt: str, seed: int) -> bytes:
        import torch

        if self._pipeline is None:
            self._pipeline = _pipeline(self.maker.local)
        more = {}
        if self.maker.size:
            width, _, height = self.maker.size.partition("x")
            if not (width.isdecimal() and height.isdecimal()):
                raise ConfigError(f"maker.size {self.maker.size!r:.40}: expected WIDTHxHEIGHT, as 1024x512")
            more = {"width": int(width), "height": int(height)}
        generator = torch.Generator().manual_seed(seed)
        return _png(self._pipeline(prompt, generator=generator, **more).images[0])


def _pipeline(name: str) -> Any:
    """Raises ConfigError."""
    import torch
    from diffusers import AutoPipelineForText2Image

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.float16 if device == "cuda" else torch.float32
    try:
        folder = os.path.expanduser(name)  # as in `teacher.local`, and in all that `resolve` finds
        pipeline = AutoPipelineForText2Image.from_pretrained(folder, local_files_only=True, torch_dtype=kind)
    except Exception as error:  # whatever a foreign folder makes it raise
        raise ConfigError(
            f"maker.local {name!r:.80}: no diffusers folder of text to image ({error!s:.200})"
        ) from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


class _Command:
    """A program that is started for each picture, without a shell."""

    def __init__(self, maker: Maker) -> None:
        self.maker = maker

    def __call__(self, prompt: str, original: bytes | None) -> tuple[bytes, int | None, int]:
        with tempfile.TemporaryDirectory() as folder:
            before, out = Path(folder) / "original.png", Path(folder) / "out.png"
            if original is not None:
                before.write_bytes(original)
            given = {
                "{prompt}": prompt,
                "{original}": str(before) if original is not None else "",
                "{out}": str(out),
            }
            words = [_filled(word, given) for word in self.maker.command]
            try:
                done = subprocess.run(
                    words, capture_output=True, text=True, errors="replace", timeout=self.maker.timeout
                )
            except (OSError, ValueError) as error:
                raise ConfigError(f"maker.command: {words[0]} cannot be started ({error})") from None
            except subprocess.TimeoutExpired:
                raise AnswerError(f"{words[0]} was not done after {self.maker.timeout:g} seconds") from None
            if done.returncode or not out.is_file():
                last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
                raise AnswerError(f"{words[0]} ended with {done.returncode} and drew nothing: {last:.200}")
            return out.read_bytes(), 0, 0


def _filled(word: str, given: dict[str, str]) -> str:
    """With what stands in braces put in once: a prompt's own braces stay as they are."""
    for name, value in given.items():
        before, sign, after = word.partition(name)
        if sign:
            return _filled(before, given) + value + _filled(after, given)
    return word


def _as_png(data: bytes) -> bytes:
    """Raises AnswerError for what is no picture."""
    try:
        with open_image(BytesIO(data)) as image:
            return _png(to_pil(from_pil(image)[0]))
    except (EVLMError, OSError, ValueError, SyntaxError) as error:
        raise AnswerError(f"the maker's picture cannot be read ({error})") from None


def _png(image: Any) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
