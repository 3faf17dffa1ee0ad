"""The study's server: a page, its own screens to each participant, and ratings. Methods are never named."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from evlm.errors import ConfigError, EVLMError, RecordError
from evlm.files.safe_paths import inside

from ..data.files import parse
from .app import HEADERS, MOST_BODY
from .study_plan import KINDS, Item, Study
from .study_store import AGES, DoneError, Person, StudyStore

_HERE = Path(__file__).parent
_CONSENT = (
    "You will see pictures and clips that programs have changed, and rate from 1 to 5 how well each does "
    "what was asked for. Nothing about you is kept but your ratings and, if you say it, your age band. You "
    "may stop at any time; 'Withdraw' deletes all that you have given."
)
_POLICY = HEADERS["Content-Security-Policy"] + "; media-src 'self' blob:"


def make_study_app(
    study: Study, items: Sequence[Item], folder: Path, store: StudyStore, beside: Path
) -> FastAPI:
    """folder: of the items' files. beside: of the study's own, where its consent lies. Raises
    ConfigError."""
    by_id = {item.id: item for item in items}
    consent = _text(beside / study.consent) if study.consent else _CONSENT
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def known(request: Request) -> Person:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        person = store.person(token) if kind.lower() == "bearer" and token else None
        if person is None:
            raise HTTPException(401, "no valid link: ask for a new one", {"WWW-Authenticate": "Bearer"})
        return person

    def agreed(person: Person = Depends(known)) -> Person:  # noqa: B008
        if not person.agreed:
            raise HTTPException(403, "the consent comes first")
        return person

    async def form(request: Request) -> dict[str, Any]:
        data = b""
        async for piece in request.stream():
            data += piece
            if len(data) > MOST_BODY:
                raise HTTPException(413, f"more than {MOST_BODY} bytes")
        try:
            found = parse(data)
        except RecordError:
            found = None
        if not isinstance(found, dict):
            raise HTTPException(422, "expected a JSON object")
        return found

    @app.middleware("http")
    async def headers(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        for name, value in {**HEADERS, "Content-Security-Policy": _POLICY}.items():
            response.headers[name] = value
        return response

    @app.exception_handler(EVLMError)
    async def refused(request: Request, error: EVLMError) -> Response:
        if isinstance(error, DoneError):
            return JSONResponse({"detail": str(error)}, 409)
        return JSONResponse({"detail": "it cannot be written just now; tell the owner"}, 503)

    def page(name: str, kind: str) -> Callable[[], Response]:
        data = (_HERE / name).read_bytes()
        return lambda: Response(data, media_type=f"{kind}; charset=utf-8")

    for path, name, kind in (("/", "study.html", "text/html"), ("/study.js", "study.js", "text/javascript"),
                             ("/page.css", "page.css", "text/css")):  # fmt: skip
        app.add_api_route(path, page(name, kind), methods=["GET"], response_model=None)

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    def state_of(person: Person) -> dict[str, Any]:
        plan, done = store.plans[person.number], store.done(person)
        return {
            "agreed": person.agreed,
            "done": done,
            "screens": len(plan),
            "question": study.question,
            "shown": _shown(by_id[plan[done].item], done) if person.agreed and done < len(plan) else None,
        }

    @app.get("/api/state")
    def state(person: Person = Depends(known)) -> Any:  # noqa: B008
        return {**state_of(person), "consent": consent, "ages": AGES}

    @app.post("/api/consent")
    def consented(person: Person = Depends(known), data: dict[str, Any] = Depends(form)) -> Any:  # noqa: B008
        if data.get("agree") is not True or data.get("age", "") not in ("", *AGES):
            raise HTTPException(422, f"agree: expected true; age: one of {', '.join(AGES)}, or nothing")
        store.agree(person, data.get("age", ""))
        return state_of(Person(person.number, True, ""))

    @app.post("/api/ratings")
    def rated(person: Person = Depends(agreed), data: dict[str, Any] = Depends(form)) -> Any:  # noqa: B008
        screen, value, key, ms = (data.get(name) for name in ("screen", "value", "key", "ms"))
        if (
            type(screen) is not int
            or not 0 <= screen < 10**6
            or value not in (1, 2, 3, 4, 5)
            or type(value) is not int
        ):
            raise HTTPException(422, "screen: expected a number, value: 1 to 5")
        if type(key) is not str or not 16 <= len(key) <= 64 or type(ms) is not int or not 0 <= ms < 10**9:
            raise HTTPException(422, "key: expected 16 to 64 characters, ms: milliseconds")
        return {"status": store.rate(person, screen, value, key, ms), **state_of(person)}

    @app.post("/api/back")
    def back(person: Person = Depends(agreed)) -> Any:  # noqa: B008
        store.back(person)
        return state_of(person)

    @app.post("/api/withdraw")
    def withdrawn(person: Person = Depends(known), data: dict[str, Any] = Depends(form)) -> Any:  # noqa: B008
        if data.get("sure") is not True:
            raise HTTPException(422, "sure: expected true")
        store.withdraw(person)
        return {"status": "withdrawn"}

    @app.get("/api/screens/{screen}/{number}")
    def file(screen: int, number: int, person: Person = Depends(agreed)) -> Response:  # noqa: B008
        plan = store.plans[person.number]
        if screen != store.done(person) or screen >= len(plan):
            raise HTTPException(404, "not the one that is shown")
        item = by_id[plan[screen].item]
        output = item.outputs[study.methods.index(plan[screen].method)]
        files = [item.original, *item.references, output]
        if not 0 <= number < len(files):
            raise HTTPException(404, f"it has {len(files)} files")
        path = inside(folder, files[number])
        try:
            return Response(path.read_bytes(), media_type=KINDS[path.suffix.lower()])
        except OSError:
            raise HTTPException(404, "the file is gone; tell the owner") from None

    return app


def _shown(item: Item, screen: int) -> dict[str, Any]:
    """What the page needs of a screen: the files by number, the result last."""
    files = [item.original, *item.references, item.outputs[0]]
    names = ["original", *["reference"] * len(item.references), "result"]
    return {"screen": screen, "text": item.text,
            "files": [{"name": name, "clip": Path(file).suffix.lower() in (".mp4", ".webm")}
                      for name, file in zip(names, files, strict=True)]}  # fmt: skip


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"consent {file}: {error}") from None
