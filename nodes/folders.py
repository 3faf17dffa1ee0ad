"""Which models ComfyUI's folders hold, and where else a node may read or write. Names from a workflow are
looked up in lists that are made here; none of them is ever taken for a path.

    models/evlm          everything of ours: whole models, adapters
    models/loras         adapters               models/sam2          SAM 2 files and folders
    models/checkpoints   IP2P single files      models/diffusers     IP2P folders
    models/LLM           language models that other packs keep there
    models/grounding-dino
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ..evlm.models.listing import Listing, Look

SEARCHED = {
    "reasoner": ("evlm", "LLM"),
    "detector": ("evlm", "grounding-dino"),
    "segmenter": ("evlm", "sam2"),
    "editor": ("evlm", "diffusers", "checkpoints"),
}
ADAPTERS = ("evlm", "loras")
TRAINED = "trained"  # folder in models/evlm for the adapters that EVLM Train makes
RUNS = "evlm_train"  # folder in the output folder for their states and logs
NO_ADAPTER = "none"
PACK = Path(__file__).resolve().parent.parent
WHOLE = 64 << 20  # bytes up to which a file is hashed whole
SAMPLE = "evlm_moving.mp4"  # a clip of the drawn world
LISTING = Listing()
_log = logging.getLogger(__name__)
_ANNOTATED = re.compile(r"(.+?)(?: \[(input|output|temp)\])?", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def register() -> None:
    """Tells ComfyUI about models/evlm, so that extra_model_paths.yaml can add places to it, and begins to
    list what is there."""
    import folder_paths

    folder_paths.add_model_folder_path("evlm", os.path.join(folder_paths.models_dir, "evlm"))
    LISTING.forget()
    for role in SEARCHED:
        models(role)
    adapters()


def roots(kind: str) -> list[Path]:
    """The folders of one kind: those that ComfyUI lists, else models/<kind>."""
    import folder_paths

    if kind in folder_paths.folder_names_and_paths:
        return [Path(each) for each in folder_paths.get_folder_paths(kind)]
    return [Path(folder_paths.models_dir) / kind]


def models(role: str) -> list[str]:
    """What a loader offers, from memory, for it is asked for at every request: the bundled model, then what
    is on this machine, then the catalogue's models, here or not."""
    from ..evlm.models import zoo

    catalogued = [model.name for model in zoo.CATALOGUE if model.role == role]
    return list(dict.fromkeys(["bundled", *_listed(SEARCHED[role], _model, role), *catalogued]))


def adapters() -> list[str]:
    """As `models`: "none", then the LoRA files and PEFT folders that a reasoner may take."""
    return [NO_ADAPTER, *_listed(ADAPTERS, _adapter, "adapter")]


def find(role: str, name: object) -> Path | None:
    """Where the model of this name lies, by a look at that one file; None when it is known but not here.
    Raises ModelError for a name that stands for none."""
    from ..evlm.errors import ModelError
    from ..evlm.models import zoo

    if name == "bundled":
        return zoo.BUNDLED / role
    if any(model.name == name and model.role == role for model in zoo.CATALOGUE):
        return _catalogued(str(name), role)
    path = _named(name, SEARCHED[role], _model, role)
    if path is None:
        raise ModelError(unknown(role, name, models(role)))
    return path


def find_adapter(name: object) -> Path | None:
    """As `find`; None for "none"."""
    from ..evlm.errors import ModelError

    if name == NO_ADAPTER:
        return None
    path = _named(name, ADAPTERS, _adapter, "adapter")
    if path is None:
        raise ModelError(unknown("adapter", name, adapters()))
    return path


def unknown(role: str, name: object, known: list[str]) -> str:
    folders = " or ".join(f"models/{kind}" for kind in SEARCHED.get(role, ADAPTERS))
    return (
        f"{role} {name!r:.80} is not here. Put it into {folders} and press R to refresh, or choose one of: "
        f"{', '.join(known[:20])}{' ...' if len(known) > 20 else ''}"
    )


def absent(role: str, name: str) -> str:
    """What to do about a model of the catalogue that is not on this machine."""
    from ..evlm.models import zoo

    model = zoo.find(name)
    if model is None:
        return unknown(role, name, models(role))
    files = (
        f" (or the file {' or '.join(model.single_files)} into models/{SEARCHED[role][-1]})"
        if model.single_files
        else ""
    )
    return (
        f"{name} is not on this machine. Turn on `download` to fetch {model.size / 1e9:.1f} GB "
        f"({model.licence}) from {model.repo}, or put {', '.join(model.files)} of it at revision "
        f"{model.revision[:12]} into models/evlm/{model.name}{files}. Then press R to refresh"
    )


def dataset(name: object) -> Path:
    """The folder of a dataset in ComfyUI's output folder: by its name, or as Rate Edit's output gives it.
    Raises RecordError for a name that is none, and for a dataset whose rows lie elsewhere."""
    from ..evlm.errors import RecordError
    from ..evlm.files.append import lock_file
    from ..evlm.records import ROWS_FILE

    output = _output()
    if isinstance(name, str) and name == str(output / os.path.basename(name)):
        name = os.path.basename(name)
    name = checked_name("dataset", name, "it lies in ComfyUI's output folder")
    if name.lower() == RUNS:
        raise RecordError(f"dataset {name!r}: the trainings' own folder is called so; choose another name")
    folder = _inside("dataset", output, name)
    for file in (ROWS_FILE, lock_file(ROWS_FILE)):
        if os.path.islink(folder / file):
            raise RecordError(f"dataset {name!r}: {file} in it is a link; put a file there or take it away")
    return folder


def run(name: object, key: str) -> Path:
    """The folder of a training in ComfyUI's output folder. key: hexadecimal digits that end its name. Raises
    RecordError for a name that is none, and for a folder that holds links: what is written there would follow
    them."""
    from ..evlm.errors import RecordError

    folder = _inside("name", _output() / RUNS, f"{checked_name('name', name, 'it names the adapter')}-{key}")
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise RecordError(f"name {name!r}: {path.name} in {RUNS}/{folder.name} is a link; take it away")
    return folder


def trained(name: str) -> tuple[str, Path]:
    """(name in `adapters`, file) of what the training in the folder `name` makes."""
    return f"evlm/{TRAINED}/{name}.safetensors", roots("evlm")[0] / TRAINED / f"{name}.safetensors"


def recipes() -> dict[str, Path]:
    """The trainer's recipes that are shipped: name -> file."""
    folder = PACK / "trainer" / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def checked_name(what: str, name: object, about: str) -> str:
    """The name, where it is one that a file may have on every system. Raises RecordError."""
    from ..evlm.errors import RecordError

    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith((".", " ")) or is_device(name):
        raise RecordError(
            f"{what} {name!r:.80}: expected a folder's name of letters, digits, space, . _ and - "
            f"(64 at most); {about}"
        )
    return name


def shortened(text: str) -> str:
    """A message without this machine's own paths: "models/loras/x" instead of where that is. What people show
    when they ask for help names neither them nor their disk."""
    import folder_paths

    known = {
        str(root): f"models/{kind}"
        for kind in {*ADAPTERS, *sum(SEARCHED.values(), ())}
        for root in roots(kind)
    }
    known[str(_output())] = known[str(folder_paths.get_output_directory())] = "output"
    known[str(inputs())] = "input"
    known |= {  # the fork has paths where ComfyUI has words
        str(folder_paths.models_dir): "models",
        str(getattr(folder_paths, "base_path", "")): ".",
        str(PACK): PACK.name,
    }
    known |= {str(Path(path).resolve()): name for path, name in known.items()} | {str(Path.home()): "~"}
    for path in sorted(known, key=len, reverse=True):
        if len(path) > 1:
            text = text.replace(path, known[path])
    return text


def fingerprint(path: Path | None) -> str:
    """Changes when the content of a file, or of any file of a folder, does. Files above 64 MB count by size,
    time, beginning and end: reading all of them would take longer than loading them."""
    if path is None:
        return "absent"
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    hashes = []
    for each in files:
        about = each.stat()
        hashes.append(_hash(str(each), about.st_size, about.st_mtime_ns))
    return hashlib.blake2b(" ".join(hashes).encode(), digest_size=16).hexdigest()


@lru_cache(4096)
def _hash(path: str, size: int, changed: int) -> str:
    said = f"{os.path.basename(path)} {size}".encode("utf-8", "surrogatepass")  # a name may be no UTF-8
    digest = hashlib.blake2b(said, digest_size=16)
    with open(path, "rb") as file:
        if size <= WHOLE:
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            digest.update(f"{changed}".encode() + file.read(1 << 20))
            file.seek(-(1 << 20), os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()


def annotated(name: str) -> Path:
    """A file as core's loaders name it: of the input folder, or of the one that stands behind it in brackets.
    Raises PictureError where there is none, or one whose path leads out of that folder."""
    import folder_paths

    from ..evlm.errors import PictureError, RecordError
    from ..evlm.files.safe_paths import inside

    named = _ANNOTATED.fullmatch(name)
    if named is None:
        raise PictureError("no clip is named")
    folder = {
        "output": folder_paths.get_output_directory,
        "temp": folder_paths.get_temp_directory,
    }.get(named[2] or "", folder_paths.get_input_directory)()
    try:
        path = inside(folder, named[1])
    except RecordError as error:
        raise PictureError(f"{name!r:.200}: it leads out of ComfyUI's folder") from error
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise PictureError(f"{name!r:.200}: no such file in ComfyUI's folder")
    return path


def put_sample() -> None:
    """Puts the clip of the workflow edit_video into ComfyUI's input folder, where core's Load Video looks;
    once it is there, it is the user's."""
    import folder_paths

    folder = Path(folder_paths.get_input_directory())
    if not folder.is_dir() or (folder / SAMPLE).exists():
        return
    try:
        shutil.copyfile(PACK / "evlm" / "bundled" / "examples" / SAMPLE, folder / SAMPLE)
    except OSError as error:
        _log.warning("%s could not be put into the input folder: %s", SAMPLE, error)


def temp() -> Path:
    """ComfyUI's folder for what is shown and forgotten: it is emptied when ComfyUI starts."""
    import folder_paths

    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def unfinished() -> Path:
    """For work that was stopped and goes on later, after a new start of ComfyUI, too."""
    folder = in_output("unfinished work", "evlm") / "unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def inputs() -> Path:
    """ComfyUI's folder for what users bring."""
    import folder_paths

    return Path(folder_paths.get_input_directory())


def in_output(what: str, name: str) -> Path:
    """A folder in the output folder, the output folder itself for "". name: checked already. Raises
    RecordError for one that is a link out of its place."""
    return _inside(what, _output(), name)


def _output() -> Path:
    import folder_paths

    return Path(folder_paths.get_output_directory()).resolve()


def _inside(what: str, folder: Path, name: str) -> Path:
    from ..evlm.errors import RecordError

    path = folder / name
    if path.resolve() != path:
        raise RecordError(f"{what} {name!r}: {path} is a link out of its place; choose another name")
    return path


def _listed(kinds: Sequence[str], look: Look, wanted: str) -> dict[str, Path]:
    """kind/name -> path of everything in the folders of these kinds that `look` calls `wanted`."""
    shelves = [(kind, root) for kind in kinds for root in roots(kind)]
    listed: dict[str, Path] = {}
    for index, entry in LISTING.entries([root for _, root in shelves], look):
        if entry.kind == wanted:
            listed.setdefault(f"{shelves[index][0]}/{entry.name}", entry.path)
    return listed


def _named(name: object, kinds: Sequence[str], look: Look, wanted: str) -> Path | None:
    """The path of one name of `_listed`, without a list."""
    kind, _, inner = name.partition("/") if isinstance(name, str) else ("", "", "")
    if kind in kinds:
        for root in roots(kind):
            if LISTING.kind(root, inner, look) == wanted:
                return root / inner
    return None


def _catalogued(name: str, role: str) -> Path | None:
    from ..evlm.errors import ModelError
    from ..evlm.models import zoo

    try:
        return zoo.resolve(name, role, [root for kind in SEARCHED[role] for root in roots(kind)])
    except ModelError:
        return None


def _model(path: Path) -> str | None:
    from ..evlm.models import zoo

    return zoo.role_of(path)


def _adapter(path: Path) -> str | None:
    from ..evlm.adapter.recognise import is_adapter

    return "adapter" if is_adapter(path) else None


def is_device(name: str) -> bool:
    """Names that Windows keeps for devices."""
    return bool(re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE))
