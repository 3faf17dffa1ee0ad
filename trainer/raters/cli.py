"""`python -m trainer data rate | raters | rated`: the rating page, who may use it, and what comes of it."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evlm.errors import ConfigError

from ..config.arguments import check_whole

if TYPE_CHECKING:
    from .store import Store

PORT = 8377


def add_parsers(commands: Any) -> None:
    """Declares the three commands and their flags among those of `data`."""
    text = "serve the page on which people rate a dataset's rows; votes are kept in FOLDER/ratings.sqlite"
    served = commands.add_parser("rate", help=text, description=text)
    _folder(served)
    served.add_argument("--port", type=int, default=PORT, metavar="N", help="default: %(default)s")
    served.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; for other machines put a proxy with TLS before it (default: %(default)s)",
    )
    served.add_argument(
        "--wanted", type=int, default=3, metavar="N", help="votes an item (default: %(default)s)"
    )
    served.add_argument("--seed", type=int, default=0, metavar="S", help="of the items' order (default: 0)")
    served.add_argument("--guidelines", type=Path, metavar="FILE", help="Markdown that raters read, for ours")
    text = "add, list or revoke raters; a token is shown once, when it is made"
    people = commands.add_parser("raters", help=text, description=text)
    _folder(people)
    people.add_argument("action", choices=("add", "list", "revoke"))
    people.add_argument("name", nargs="?", help="of the rater, or admin; adding one again makes a new token")
    people.add_argument("--admin", action="store_true", help="the token opens /admin and rates nothing")
    people.add_argument(
        "--url", default=f"http://127.0.0.1:{PORT}", help="what the link begins with (default: %(default)s)"
    )
    text = (
        "a user study of methods beside each other, rated 1 to 5: serve it, invite people, show what it found"
    )
    study = commands.add_parser("study", help=text, description=text)
    study.add_argument("action", choices=("serve", "invite", "table"))
    study.add_argument(
        "study", type=Path, metavar="STUDY.yaml", help="docs/dataset.md; ratings are kept beside it"
    )
    study.add_argument("--port", type=int, default=PORT + 2, metavar="N", help="default: %(default)s")
    study.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    study.add_argument("--people", type=int, default=1, metavar="N", help="links to make (default: 1)")
    study.add_argument("--url", help="what the links begin with (default: this machine's, by --port)")
    text = "write what was rated as a new dataset: the majority is the label; ties are left out"
    rated = commands.add_parser("rated", help=text, description=text)
    _folder(rated)
    rated.add_argument("out", type=Path, metavar="OUT", help="folder, not there yet")
    rated.add_argument("--partial", action="store_true", help="also rows that have fewer votes than wanted")


def run(options: argparse.Namespace) -> int:
    """0, or 1 where rows are bad. Raises EVLMError."""
    if options.data_command == "study":
        return _study(options)
    return {"rate": _rate, "raters": _raters, "rated": _rated}[options.data_command](options)


def _rate(options: argparse.Namespace) -> int:
    check_whole("--wanted", options.wanted, 1, 99)
    check_whole("--port", options.port, 0, 65535)
    try:
        import uvicorn

        from .app import make_app
    except ImportError as error:
        raise ConfigError(f"the rating page needs {error.name}: pip install 'fastapi' 'uvicorn'") from None
    from .items import load_items
    from .store import add_rater, raters

    listed = _Problems()
    store = _store(options.folder)
    counts = load_items(store, options.folder, options.wanted, options.seed, listed)
    if not counts.get("edit"):
        raise ConfigError(f"{options.folder}: no row that can be rated; {listed.count} bad ones")
    app = make_app(options.folder, store, options.guidelines)
    listener = _listen(options.host, options.port)
    url = _url(options.host, listener)
    print(f"{counts['edit']:,} rows to rate, {counts.get('gold', 0):,} with a known answer among them, "
          f"{counts.get('training', 0):,} to train with; {listed.count:,} bad rows left out")  # fmt: skip
    there = raters(store)
    if not any(each.role == "admin" for each in there):
        taken = {each.name for each in there}
        name = next(name for name in ("admin", "owner", f"admin of {url}") if name not in taken)
        print(f"yours, shown once: {url}/admin#token={add_rater(store, name, 'admin')}")
    if not any(each.role == "rater" for each in there):
        print(f"nobody rates yet: python -m trainer data raters {options.folder} add NAME --url {url}")
    print(f"listening at {url}; Ctrl-C ends it, all votes are kept", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        store.close()
    return 0


def _raters(options: argparse.Namespace) -> int:
    from .store import add_rater, raters, revoke

    store = _store(options.folder, made=options.action != "add")
    if options.action != "list" and not options.name:
        raise ConfigError(f"raters {options.action}: expected a name")
    if options.action == "add":
        token = add_rater(store, options.name, "admin" if options.admin else "rater")
        print(f"{options.url.rstrip('/')}/{'admin' if options.admin else ''}#token={token}")
        print(f"the link of {options.name}; it cannot be shown again")
    elif options.action == "revoke":
        revoke(store, options.name)
        print(f"{options.name}: the token is over, the votes stay")
    else:
        for each in raters(store):
            print(f"{each.pseudonym}  {each.role}  {each.name}")
    return 0


def _rated(options: argparse.Namespace) -> int:
    from .rated import write_rated

    listed = _Problems()
    store = _store(options.folder, made=True)
    count = write_rated(store, options.folder, options.out, listed, options.partial)
    print(f"{options.out}: {count['rows']:,} rows written; left out: {count['ties']:,} ties, "
          f"{count['unfinished']:,} with too few votes, {count['unvoted']:,} without any, "
          f"{count['changed']:,} changed since people saw them, {listed.count:,} bad ones")  # fmt: skip
    if count["unknown"]:
        print(f"{count['unknown']:,} rows came later than the page was started: start `data rate` again")
    return int(listed.count > 0)


def _study(options: argparse.Namespace) -> int:
    from .study_plan import assign, load_study
    from .study_store import FILE, StudyStore
    from .study_table import table

    check_whole("--port", options.port, 0, 65535)
    check_whole("--people", options.people, 1, 10_000)
    study, items, folder = load_study(options.study)
    store = StudyStore(options.study.parent / FILE, assign(study, items))
    try:
        if options.action == "invite":
            url = (options.url or f"http://127.0.0.1:{options.port}").rstrip("/")
            for token in store.invite(options.people):
                print(f"{url}/#token={token}")
            print("one link for each person; they cannot be shown again")
        elif options.action == "table":
            ratings = store.ratings({item.id: item.task for item in items})
            if not ratings:
                raise ConfigError("nobody has rated anything yet")
            print(table(ratings, study.methods))
        else:
            _serve_study(options, store, study, items, folder)
    finally:
        store.close()
    return 0


def _serve_study(options: argparse.Namespace, store: Any, study: Any, items: Any, folder: Path) -> None:
    try:
        import uvicorn

        from .study_app import make_study_app
    except ImportError as error:
        raise ConfigError(f"the study's page needs {error.name}: pip install 'fastapi' 'uvicorn'") from None
    app = make_study_app(study, items, folder, store, options.study.parent)
    listener = _listen(options.host, options.port)
    invited, agreed = store.people()
    print(
        f"{len(items):,} items, {len(study.methods)} methods; {invited} of {study.participants} "
        f"invited, {agreed} agreed"
    )
    print(f"listening at {_url(options.host, listener)}; Ctrl-C ends it, all ratings are kept", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)).run(
        [listener]
    )


class _Problems:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, problem: object) -> None:
        self.count += 1


def _store(folder: Path, made: bool = False) -> Store:
    """made: it must be there. Raises ConfigError, RecordError."""
    from ..data.files import rows_file
    from .store import FILE, Store

    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a dataset folder")
    rows_file(folder)
    if made and not (folder / FILE).is_file():
        raise ConfigError(f"{folder}: nobody has rated here yet; begin with `data rate {folder}`")
    return Store(folder / FILE)


def _listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError: the port is taken, or the address is none of this machine's."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (TypeError, UnicodeError):  # Python cannot even write the name as one of the network's
        listener.close()
        raise ConfigError(f"--host {host!a:.80}: expected an address of this machine") from None
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host}:{port}: {error.strerror or error}; --port names another") from None
    return listener


def _url(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="dataset folder")
