"""Which models there are and where they lie: bundled, in folders that the user names, or in the hub's cache.

Nothing here touches the network; `evlm.models.download` does, and only when asked.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ModelError
from ..files.safe_paths import leads_to_its_kind
from .families import EDITORS, MODEL_TYPES, EditorFamily
from .json_file import read_json
from .safetensors_file import header_start
from .sets import SETS, expand, find_set

ROLES = ("reasoner", "detector", "segmenter", "editor")
BUNDLED = Path(__file__).resolve().parents[1] / "bundled"

MAX_NAMES = 8 << 20
"""Bytes of a file's header in which tensors' names are looked for. SDXL's whole header has 0.4 MB."""

log = logging.getLogger("evlm")
_TEXT_FILES = ("*.json", "*.txt", "*.jinja", "LICENSE*")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[0-9a-f]{40})?")


@dataclass(frozen=True)
class Model:
    """One model that this project knows by name.

    revision: the commit that `download` fetches. files: patterns of what is needed of that repository.
    single_files: names under which users have it as one file (ComfyUI's models/sam2, models/checkpoints).
    size: bytes to download. vram: GB while it works in 16 bits, estimated from its parameters, not measured.
    """

    name: str
    role: str
    repo: str
    revision: str
    licence: str
    size: int
    vram: float
    files: tuple[str, ...] = (*_TEXT_FILES, "*.safetensors")
    single_files: tuple[str, ...] = ()


CATALOGUE: tuple[Model, ...] = (
    Model("qwen2-vl-2b", "reasoner", "Qwen/Qwen2-VL-2B-Instruct",
          "895c3a49bc3fa70a340399125c650a463535e71c", "Apache-2.0", 4_430_000_000, 6),
    Model("qwen2-vl-7b", "reasoner", "Qwen/Qwen2-VL-7B-Instruct",
          "eed13092ef92e448dd6875b2a00151bd3f7db0ac", "Apache-2.0", 16_600_000_000, 19),
    Model("qwen2.5-vl-7b", "reasoner", "Qwen/Qwen2.5-VL-7B-Instruct",
          "cc594898137f460bfe9f0759e9844b3ce807cfb5", "Apache-2.0", 16_600_000_000, 19),
    Model("qwen3-vl-4b", "reasoner", "Qwen/Qwen3-VL-4B-Instruct",
          "ebb281ec70b05090aa6165b016eac8ec08e71b17", "Apache-2.0", 8_890_000_000, 11),
    Model("qwen3-vl-8b", "reasoner", "Qwen/Qwen3-VL-8B-Instruct",
          "0c351dd01ed87e9c1b53cbc748cba10e6187ff3b", "Apache-2.0", 17_500_000_000, 20),
    Model("grounding-dino-tiny", "detector", "IDEA-Research/grounding-dino-tiny",
          "a2bb814dd30d776dcf7e30523b00659f4f141c71", "Apache-2.0", 690_000_000, 1.5),
    Model("grounding-dino-base", "detector", "IDEA-Research/grounding-dino-base",
          "12bdfa3120f3e7ec7b434d90674b3396eccf88eb", "Apache-2.0", 934_000_000, 2),
    Model("owlv2-base", "detector", "google/owlv2-base-patch16-ensemble",
          "cfd3195ba4ea9592eec887ded089f4c08eff231d", "Apache-2.0", 623_000_000, 2),
    Model("sam2.1-tiny", "segmenter", "facebook/sam2.1-hiera-tiny",
          "de431c4043854a71d8101e17995dfe596bf101a5", "Apache-2.0", 156_000_000, 1,
          single_files=("sam2.1_hiera_tiny.pt", "sam2.1_hiera_tiny.safetensors")),
    Model("sam2.1-small", "segmenter", "facebook/sam2.1-hiera-small",
          "ee5bba1d82bb8749febdf90f45e84b687142ba03", "Apache-2.0", 184_000_000, 1,
          single_files=("sam2.1_hiera_small.pt", "sam2.1_hiera_small.safetensors")),
    Model("sam2.1-large", "segmenter", "facebook/sam2.1-hiera-large",
          "665f8e2ad61cf5f53d65644ff27c8ee525124610", "Apache-2.0", 898_000_000, 2.5,
          single_files=("sam2.1_hiera_large.pt", "sam2.1_hiera_large.safetensors")),
    Model("instruct-pix2pix", "editor", "timbrooks/instruct-pix2pix",
          "31519b5cb02a7fd89b906d88731cd4d6a7bbf88d", "MIT", 4_270_000_000, 4,
          files=("model_index.json", "scheduler/*", "tokenizer/*", "unet/config.json", "vae/config.json",
                 "text_encoder/config.json", "unet/diffusion_pytorch_model.safetensors",
                 "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"),
          single_files=("instruct-pix2pix-00-22000.safetensors",)),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A row of `list_models`: name, role, licence, where it lies (None: not here) and its size in bytes."""

    name: str
    role: str
    licence: str
    path: Path | None
    size: int
    repo: str
    vram: float


def list_models(folders: Sequence[str | Path] = ()) -> list[Found]:
    """The bundled models, then every model of the catalogue with the place where it was found, if it was."""
    rows = []
    for role in ROLES:
        bundled = BUNDLED / role
        here = bundled if bundled.is_dir() and not missing_files(bundled, role) else None
        rows.append(Found("bundled", role, "Apache-2.0", here, _size(bundled) if here else 0, "", 0.1))
    for model in CATALOGUE:
        path = _locate(model.name, model.role, folders)[0]
        size = _size(path) if path else model.size
        rows.append(Found(model.name, model.role, model.licence, path, size, model.repo, model.vram))
    return rows


def resolve(name: str | Path, role: str, folders: Sequence[str | Path] = ()) -> Path:
    """The folder or file of one model, complete and of the right kind.

    name: "bundled", a path, a name of the catalogue ("qwen2-vl-7b"), or a hub id
    ("Qwen/Qwen2-VL-7B-Instruct", "someone/model@<commit>"). A folder with one subfolder for each role may
    stand for its subfolder.
    folders: where else to look, besides `model_folders()` and the hub's cache.
    Raises ModelError, which names the files that are missing, where they go, and how to fetch them.
    """
    if role not in ROLES:
        raise ModelError(f"there is no role {role!r}; the roles are {', '.join(ROLES)}")
    path, looked = _locate(str(name), role, folders)
    if path is None:
        raise ModelError(_not_found(str(name), role, looked))
    missing = missing_files(path, role)
    if missing:
        raise ModelError(f"{path} is not a whole {role}: it lacks {', '.join(missing)}")
    there = role_of(path)
    if there != role:
        kind = there or "kind of model that is not known here"
        raise ModelError(f"{path} is a {kind}, asked for was {'an' if role == 'editor' else 'a'} {role}")
    return path


def choose(names: Sequence[str], folders: Sequence[str | Path] = ()) -> dict[str, Path]:
    """Several names to one model for each role; a later name wins over an earlier one.

    Each name is what `resolve` takes; the role is read from the model itself, or said: "detector=owlv2-base".
    "detector=none" leaves a role out. "bundled", a folder with subfolders named after roles, and the names of
    `sets` give more.
    """
    chosen: dict[str, Path] = {}
    for name in names:
        _check_set(name, folders)
    for name in expand(names):
        role, sign, value = name.partition("=")
        if sign and role in ROLES:
            chosen.pop(role, None)
            if value != "none":
                chosen[role] = resolve(value, role, folders)
            continue
        for each in _roles_in(name, folders):
            chosen[each] = resolve(name, each, folders)
    return chosen


def _check_set(name: str, folders: Sequence[str | Path]) -> None:
    """Raises ModelError where models of a set are not here, for all of them at once."""
    models = [model for model in CATALOGUE if find_set(name) and model.name in expand([name])]
    absent = [model for model in models if _locate(model.name, model.role, folders)[0] is None]
    if absent:
        names, size = ", ".join(each.name for each in absent), sum(each.size for each in absent) / 1e9
        raise ModelError(
            f"{name}: not on this machine: {names} ({size:.1f} GB). Fetch with: "
            f"python -m evlm models --download {name} [--folder DIR]"
        )


def model_folders() -> tuple[Path, ...]:
    """Folders that the environment variable EVLM_MODELS names, separated as in PATH."""
    return tuple(_home(Path(p)) for p in os.environ.get("EVLM_MODELS", "").split(os.pathsep) if p)


def _home(path: Path) -> Path:
    """With the user's home for a "~", which a shell leaves in `--folder=~/models`."""
    try:
        return path.expanduser()
    except RuntimeError:  # ~somebody, who is not on this machine
        return path


def find(name: str) -> Model | None:
    """The catalogue's entry of this name or hub id (with or without its pinned revision)."""
    for model in CATALOGUE:
        if name.lower() in (model.name, model.repo.lower(), f"{model.repo}@{model.revision}".lower()):
            return model
    return None


def split_hub_id(name: str) -> tuple[str, str] | None:
    """("owner/model", commit) of a pinned hub id; a catalogued name brings its own commit. Else None."""
    model = find(name)
    if model:
        return model.repo, model.revision
    if _HUB_ID.fullmatch(name) and "@" in name:
        repo, _, revision = name.partition("@")
        return repo, revision
    return None


def role_of(path: Path) -> str | None:
    """What a folder or file is, read from its configuration or its tensors' names. None: not known here."""
    if path.is_file():
        header = _header(path)
        if _editor_in(header) is not None:
            return "editor"
        return "segmenter" if path.suffix == ".pt" or b"sam_mask_decoder." in header else None
    if editor_family(path) is not None:
        return "editor"
    kind = _json(path / "config.json").get("model_type")
    return next((role for role, kinds in MODEL_TYPES.items() if kind in kinds), None)


def editor_family(path: Path) -> EditorFamily | None:
    """Which editor a diffusers folder or a safetensors file holds; None: none that is known here."""
    if path.is_file():
        return _editor_in(_header(path))
    folder_class = _json(path / "model_index.json").get("_class_name")
    return next((family for family in EDITORS if family.folder_class == folder_class), None)


def _editor_in(header: bytes) -> EditorFamily | None:
    """The family whose first convolution a safetensors header has, with as many channels."""
    for family in EDITORS:
        name = re.escape(family.file_tensor.encode())
        shape = re.search(
            rb'"%s"\s*:\s*\{[^{}]*"shape"\s*:\s*\[\s*\d{1,9}\s*,\s*(\d{1,9})\s*,' % name, header
        )
        if family.file_tensor and shape is not None and int(shape[1]) == family.file_channels:
            return family
    return None


def missing_files(path: Path, role: str) -> list[str]:
    """Names of the files that a model of this role still needs, relative to `path`. Empty: it is whole."""
    if path.is_file():
        return []
    processor = ["processor_config.json", "preprocessor_config.json"]
    tokenizer = ["tokenizer.json", "vocab.json", "vocab.txt"]
    if role == "editor":
        missing = _lacking(path, ["model_index.json"], ["scheduler/scheduler_config.json"])
        missing += _lacking(path, ["tokenizer/tokenizer.json", "tokenizer/vocab.json"])
        for stem in (editor_family(path) or EDITORS[0]).weights:
            part = stem.partition("/")[0]
            missing += _lacking(path, [f"{part}/config.json"]) + _missing_weights(path, stem)
        return missing
    missing = _lacking(path, ["config.json"]) + _missing_weights(path, "model")
    return missing if role == "segmenter" else missing + _lacking(path, processor, tokenizer)


def _lacking(path: Path, *alternatives: list[str]) -> list[str]:
    return [" or ".join(names) for names in alternatives if not any((path / n).is_file() for n in names)]


def _missing_weights(path: Path, stem: str) -> list[str]:
    """Safetensors only: one file, or an index and every shard that it names."""
    index = path / f"{stem}.safetensors.index.json"
    if index.is_file():
        table = _json(index).get("weight_map")
        shards = list(table.values()) if isinstance(table, dict) else []
        if not shards or not all(isinstance(s, str) and Path(s).name == s for s in shards):
            return [f"a sound {index.name}"]
        return sorted(s for s in set(shards) if not (index.parent / s).is_file())
    whole = [*(path / stem).parent.glob(f"{Path(stem).name}*.safetensors")]
    return [] if whole else [f"{stem}.safetensors"]


def _locate(name: str, role: str, folders: Sequence[str | Path]) -> tuple[Path | None, list[Path]]:
    """The first whole model of this name, else the first that is there at all; and every place looked at."""
    if name == "bundled":
        path = BUNDLED / role
        return (path if path.is_dir() else None), [path]
    given = _given(name)
    if given is not None:
        inner = given / role
        return (inner if inner.is_dir() and role_of(given) is None else given), [given]
    looked = _places(name, role, [*(_home(Path(each)) for each in folders), *model_folders()])
    there = [p for p in looked if _exists(p)]
    whole = [p for p in there if not missing_files(p, role)]
    return next(iter(whole or there), None), looked


def _given(name: str) -> Path | None:
    """What lies under a name that is a path. Raises ModelError for an empty one, which would mean "."."""
    if not name.strip():
        raise ModelError("a model's name is empty; `python -m evlm models` lists the names")
    path = _home(Path(name))
    return path if _exists(path) else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, a NUL in it, or not ours to look at
        return False


def _places(name: str, role: str, folders: Sequence[Path]) -> list[Path]:
    model, pinned = find(name), split_hub_id(name)
    names = [name] if "@" not in name else []
    files: tuple[str, ...] = ()
    if model:
        names, files = [model.name, model.repo, model.repo.split("/")[1]], model.single_files
    elif pinned:
        names = [pinned[0], pinned[0].split("/")[1]]
    places = []
    for folder in folders:
        for root in (folder, folder / role):
            places += [root / n for n in (*names, *files)]
    if pinned:
        try:
            from huggingface_hub.constants import HF_HUB_CACHE
        except ImportError:  # without it there is no such cache; `doctor` says that it is missing
            return places
        repo = "models--" + pinned[0].replace("/", "--")
        places.append(Path(HF_HUB_CACHE) / repo / "snapshots" / pinned[1])
    return places


def _roles_in(name: str, folders: Sequence[str | Path]) -> list[str]:
    model = find(name)
    if model:
        return [model.role]
    if name == "bundled":
        return list(ROLES)
    for role in ROLES:
        path, _ = _locate(name, role, folders)
        if path is None:
            continue
        base = _given(name) or Path(name)
        if role_of(base) is None and any((base / r).is_dir() for r in ROLES):
            return [r for r in ROLES if (base / r).is_dir()]
        there = role_of(path)
        if there is None:
            classes = " or ".join(each.folder_class for each in EDITORS if each.folder_class)
            raise ModelError(
                f"{path} is no model that is known here: expected a folder whose config.json has one of "
                f"the model types {', '.join(sum(MODEL_TYPES.values(), ()))}, or whose "
                f"model_index.json has the class {classes}, or a "
                "SAM 2 or InstructPix2Pix file"
            )
        return [there]
    raise ModelError(_not_found(name, "model", _locate(name, ROLES[0], folders)[1]))


def _not_found(name: str, role: str, looked: Sequence[Path]) -> str:
    if name == "bundled":
        return (
            f"the bundled {role} is not in {looked[0]}; take a whole checkout, "
            "or train it: python -m trainer bundle all"
        )
    where = "; ".join(map(str, looked)) or "nowhere, for no folder was given (--folder, or EVLM_MODELS)"
    text = f"{role} {name!r} is not on this machine. Looked at: {where}. "
    model = find(name)
    if model:
        files = f", or one of the files {', '.join(model.single_files)}" if model.single_files else ""
        size = f"{model.size / 1e9:.1f} GB, {model.licence}"
        return text + (
            f"Fetch it with: python -m evlm models --download {model.name} [--folder DIR] ({size}); or put "
            f"{', '.join(model.files)} of {model.repo} at revision {model.revision[:12]} "
            f"into FOLDER/{model.name}{files}"
        )
    if _HUB_ID.fullmatch(name) and "@" not in name:
        return text + f"A hub id that is not in the catalogue needs its revision: {name}@<commit>"
    if _HUB_ID.fullmatch(name):
        return text + f"Fetch it with: python -m evlm models --download {name}"
    names = [*(each.name for each in SETS), *(each.name for each in CATALOGUE)]
    return f"{text}Names are 'bundled', a path, a hub id, or one of: {', '.join(names)}"


def _header(path: Path) -> bytes:
    """A safetensors file's header as it stands there, unparsed, for it may be anybody's; empty for any other
    file. A damaged one is passed over, and said."""
    if path.suffix != ".safetensors":
        return b""
    try:
        return header_start(path, MAX_NAMES)
    except CheckpointError as error:
        log.warning("passed over: %s", error)
        return b""


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none. A damaged one is passed over, and said."""
    if not path.is_file():
        return {}
    if not leads_to_its_kind(path):
        log.warning("passed over: %s is a link to another kind of file", path)
        return {}
    try:
        return read_json(path, "a model's settings")
    except ModelError as error:
        log.warning("passed over: %s", error)
        return {}


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)
