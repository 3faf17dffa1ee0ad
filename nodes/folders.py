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
import os
import re
from functools import lru_cache
from pathlib import Path

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
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def register() -> None:
    """Tells ComfyUI about models/evlm, so that extra_model_paths.yaml can add places to it."""
    import folder_paths

    folder_paths.add_model_folder_path("evlm", os.path.join(folder_paths.models_dir, "evlm"))


def roots(kind: str) -> list[Path]:
    """The folders of one kind: those that ComfyUI lists, else models/<kind>."""
    import folder_paths

    if kind in folder_paths.folder_names_and_paths:
        return [Path(each) for each in folder_paths.get_folder_paths(kind)]
    return [Path(folder_paths.models_dir) / kind]


def models(role: str) -> dict[str, Path | None]:
    """What a loader offers: name -> where it lies. First the bundled one, then what is on this machine, then
    the catalogue's models that are not here (None)."""
    from ..evlm.models import zoo

    listed: dict[str, Path | None] = {"bundled": zoo.BUNDLED / role}
    for kind in SEARCHED[role]:
        for root in roots(kind):
            for path in _entries(root):
                if _role(path) == role:
                    listed.setdefault(f"{kind}/{path.relative_to(root).as_posix()}", path)
    for model in zoo.CATALOGUE:
        if model.role == role:
            listed.setdefault(model.name, _catalogued(model.name, role))
    return listed


def adapters() -> dict[str, Path | None]:
    """LoRA files and PEFT folders: name -> where it lies."""
    listed: dict[str, Path | None] = {NO_ADAPTER: None}
    for kind in ADAPTERS:
        for root in roots(kind):
            for path in _entries(root):
                whole_model = path.is_dir() and not (path / "adapter_config.json").is_file()
                if not whole_model and _role(path) is None and _is_adapter(path):
                    listed.setdefault(f"{kind}/{path.relative_to(root).as_posix()}", path)
    return listed


def find(role: str, name: object) -> Path | None:
    """Where the model of this name lies; None when it is known but not here. Raises ModelError for a name
    that no list of ours has."""
    from ..evlm.errors import ModelError

    known = models(role)
    if not isinstance(name, str) or name not in known:
        raise ModelError(unknown(role, name, list(known)))
    return known[name]


def find_adapter(name: object) -> Path | None:
    """As `find`; None for "none"."""
    from ..evlm.errors import ModelError

    known = adapters()
    if not isinstance(name, str) or name not in known:
        raise ModelError(unknown("adapter", name, list(known)))
    return known[name]


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
        return unknown(role, name, list(models(role)))
    path = roots("evlm")[0] / model.name
    files = (
        f" (or the file {' or '.join(model.single_files)} into models/{SEARCHED[role][-1]})"
        if model.single_files
        else ""
    )
    return (
        f"{name} is not on this machine. Turn on `download` to fetch {model.size / 1e9:.1f} GB "
        f"({model.licence}) from {model.repo}, or put {', '.join(model.files)} of it at revision "
        f"{model.revision[:12]} into {path}{files}. Then press R to refresh"
    )


def dataset(name: object) -> Path:
    """The folder of a dataset in ComfyUI's output folder: by its name, or as Rate Edit's output gives it.
    Raises RecordError for a name that is none."""
    output = _output()
    if isinstance(name, str) and name == str(output / os.path.basename(name)):
        name = os.path.basename(name)
    return _inside("dataset", output, checked_name("dataset", name, "it lies in ComfyUI's output folder"))


def run(name: object, key: str) -> Path:
    """The folder of a training in ComfyUI's output folder. key: hexadecimal digits that end its name. Raises
    RecordError for a name that is none."""
    return _inside("name", _output() / RUNS, f"{checked_name('name', name, 'it names the adapter')}-{key}")


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

    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith((".", " ")) or _device(name):
        raise RecordError(
            f"{what} {name!r:.80}: expected a folder's name of letters, digits, space, . _ and - "
            f"(64 at most); {about}"
        )
    return name


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
    digest = hashlib.blake2b(f"{os.path.basename(path)} {size}".encode(), digest_size=16)
    with open(path, "rb") as file:
        if size <= WHOLE:
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            digest.update(f"{changed}".encode() + file.read(1 << 20))
            file.seek(-(1 << 20), os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()


def _output() -> Path:
    import folder_paths

    return Path(folder_paths.get_output_directory()).resolve()


def _inside(what: str, folder: Path, name: str) -> Path:
    from ..evlm.errors import RecordError

    path = folder / name
    if path.resolve() != path:
        raise RecordError(f"{what} {name!r}: {path} is a link out of its place; choose another name")
    return path


def _entries(root: Path) -> list[Path]:
    """Files and folders that may be a model, one folder deep ("owner/name")."""
    if not root.is_dir():
        return []
    entries = []
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        marks = ("config.json", "model_index.json", "adapter_config.json")
        if path.is_dir() and not any((path / mark).is_file() for mark in marks):
            entries += [p for p in sorted(path.iterdir()) if not p.name.startswith(".")]
        else:
            entries.append(path)
    return entries


def _catalogued(name: str, role: str) -> Path | None:
    from ..evlm.errors import ModelError
    from ..evlm.models import zoo

    try:
        return zoo.resolve(name, role, [root for kind in SEARCHED[role] for root in roots(kind)])
    except ModelError:
        return None


def _role(path: Path) -> str | None:
    about = path / "model_index.json" if (path / "model_index.json").is_file() else path / "config.json"
    stamp = about if path.is_dir() and about.is_file() else path
    try:
        info = stamp.stat()
    except OSError:
        return None
    return _read_role(str(path), info.st_size, info.st_mtime_ns)


@lru_cache(4096)
def _read_role(path: str, size: int, changed: int) -> str | None:
    from ..evlm.models import zoo

    return zoo.role_of(Path(path))


def _is_adapter(path: Path) -> bool:
    return (path / "adapter_config.json").is_file() if path.is_dir() else path.suffix == ".safetensors"


def _device(name: str) -> bool:
    """Names that Windows keeps for devices."""
    return bool(re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE))
