"""The rating page's server: a page, its items, and votes; every request but for the page carries a token."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from evlm.errors import ConfigError, EVLMError, PictureError

from .agree import summary
from .forms import read_undo, read_vote
from .items import HIDDEN, mask_picture, picture
from .queue import (
    Given,
    KeyUsedError,
    UnknownItemError,
    Vote,
    holds,
    last_votes,
    lesson,
    next_items,
    progress,
    undo,
    view,
    vote,
)
from .store import Rater, Store, rater_of

MOST_BODY = 16_384  # bytes
RATE, BURST = 30.0, 90.0  # requests a second and at once, a token; three items' clips are 60 pictures
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'"
    "; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_log = logging.getLogger(__name__)
_HERE = Path(__file__).parent
_PAGES = {"/": "page.html", "/admin": "admin.html"}
_FILES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".md": "text/plain"}


def make_app(folder: Path, store: Store, guidelines: Path | None = None) -> FastAPI:
    """The application over a dataset's folder and its store.

    guidelines: Markdown that is shown instead of ours. Raises ConfigError: there are no such guidelines.
    """
    words = _text(guidelines or _HERE / "guidelines.md")
    buckets: dict[str, tuple[float, float]] = {}
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def limit(who: str) -> None:
        now = time.monotonic()
        tokens, before = buckets.get(who, (BURST, now))
        tokens = min(BURST, tokens + (now - before) * RATE)
        if tokens < 1:
            raise HTTPException(429, "too many requests", {"Retry-After": "1"})
        if len(buckets) > 10_000:
            buckets.clear()
        buckets[who] = (tokens - 1, now)

    def known(request: Request) -> Rater:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        rater = rater_of(store, token) if kind.lower() == "bearer" and token else None
        if rater is None:
            limit(f"address {request.client.host if request.client else ''}")
            raise HTTPException(401, "no valid token: ask for a new link", {"WWW-Authenticate": "Bearer"})
        limit(f"rater {rater.id}")
        return rater

    def rates(rater: Rater = Depends(known)) -> Rater:  # noqa: B008
        if rater.role != "rater":
            raise HTTPException(403, "this token is for the admin page: /admin")
        return rater

    def admin(rater: Rater = Depends(known)) -> Rater:  # noqa: B008
        if rater.role != "admin":
            raise HTTPException(403, "this page is the owner's")
        return rater

    async def body(request: Request) -> bytes:
        data = b""
        async for piece in request.stream():
            data += piece
            if len(data) > MOST_BODY:
                raise HTTPException(413, f"more than {MOST_BODY} bytes")
        return data

    @app.middleware("http")
    async def headers(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        for name, value in HEADERS.items():
            response.headers[name] = value
        return response

    @app.exception_handler(EVLMError)
    async def refused(request: Request, error: EVLMError) -> Response:
        codes = {UnknownItemError: 404, KeyUsedError: 409, PictureError: 404}
        code = codes.get(type(error), 503)  # 503: the client keeps the vote and sends it again
        words = str(error) if code != 503 else "the votes cannot be written just now; tell the owner"
        return JSONResponse({"detail": words}, code)

    def page(name: str) -> Callable[[], Response]:
        data, kind = (_HERE / name).read_bytes(), _FILES[Path(name).suffix]
        return lambda: Response(data, media_type=f"{kind}; charset=utf-8")

    for path, name in (
        *_PAGES.items(),
        *((f"/{name}", name) for name in ("page.js", "page.css", "player.js", "outbox.js", "admin.js")),
    ):
        app.add_api_route(path, page(name), methods=["GET"], response_model=None)

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/api/state")
    def state(rater: Rater = Depends(known)) -> Any:  # noqa: B008
        more = progress(store, rater)
        known = {"store": store.number, "rater": rater.id, "role": rater.role, "trained": rater.trained}
        return {**known, "guidelines": words, **more}

    @app.get("/api/next")
    def following(n: int = 1, rater: Rater = Depends(rates)) -> Any:  # noqa: B008
        items = [_sent(each) for each in next_items(store, rater, min(max(n, 1), 5))]
        return {"items": items, **progress(store, rater)}

    @app.get("/api/items/{item}/pictures/{number}")
    def seen(item: int, number: int, rater: Rater = Depends(known)) -> Response:  # noqa: B008
        data, kind = _picture(store, folder, rater, item, lambda of: picture(folder, of, number))
        return Response(data, media_type=kind)

    @app.get("/api/items/{item}/mask")
    def mask(item: int, rater: Rater = Depends(known)) -> Response:  # noqa: B008
        data, kind = _picture(store, folder, rater, item, lambda of: (mask_picture(folder, of), "image/png"))
        return Response(data, media_type=kind)

    @app.get("/api/last")
    def newest(rater: Rater = Depends(rates)) -> Any:  # noqa: B008
        return {"votes": last_votes(store, rater, 1)}

    @app.post("/api/votes")
    def voted(rater: Rater = Depends(rates), data: bytes = Depends(body)) -> Any:  # noqa: B008
        return {"status": vote(store, rater, _vote(data)), **progress(store, rater)}

    @app.post("/api/undo")
    def undone(rater: Rater = Depends(rates), data: bytes = Depends(body)) -> Any:  # noqa: B008
        return {"status": "undone", "item": _sent(undo(store, rater, _form(read_undo, data)))}

    @app.post("/api/lessons")
    def learned(rater: Rater = Depends(rates), data: bytes = Depends(body)) -> Any:  # noqa: B008
        return lesson(store, rater, _vote(data))

    @app.get("/api/admin")
    def whole(rater: Rater = Depends(admin)) -> Any:  # noqa: B008
        return summary(store)

    return app


def _sent(given: Given) -> dict[str, Any]:
    shown = {name: value for name, value in given.view.items() if name not in HIDDEN}
    return {"id": given.id, "training": given.training, **shown}


def _picture(
    store: Store, folder: Path, rater: Rater, item: int, read: Callable[[dict[str, Any]], tuple[bytes, str]]
) -> tuple[bytes, str]:
    """Raises UnknownItemError, also for items that are not this rater's: they learn nothing of others."""
    if not 0 <= item < 2**63 or not holds(store, rater, item):
        raise UnknownItemError("no such item")
    try:
        return read(view(store, item))
    except (EVLMError, OSError, ValueError, RuntimeError, MemoryError) as error:
        # No 500, which would be asked for again and again. The name may say who made it: for the owner alone.
        _log.warning("item %d: %s", item, error)
        raise PictureError("picture: it cannot be shown") from None


def _vote(data: bytes) -> Vote:
    return _form(read_vote, data)


def _form(read: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return read(data)
    except ConfigError as error:
        raise HTTPException(422, str(error)) from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"guidelines {file}: {error}") from None
