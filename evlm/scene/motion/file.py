"""A motion as one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ...errors import CheckpointError, SceneError
from ...files.pictures import write_atomically
from ...models.safetensors_file import read_header
from .hex_plane import HexPlane
from .keys import Keys, Motion
from .rigid_bases import RigidBases
from .table import Table

FORMAT = "evlm-motion-1"
KINDS: dict[str, type[RigidBases | HexPlane | Table]] = {
    "bases": RigidBases, "hexplane": HexPlane, "table": Table,
}  # fmt: skip


def save_motion(path: Path, motion: Motion) -> None:
    """Whole or not at all. Raises SceneError: it cannot be written."""
    from safetensors.torch import save

    tensors = {"times": motion.keys.times, **motion.tensors()}
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    whole = _ordered(save(ready, {"format": FORMAT, "kind": motion.kind}))
    try:
        write_atomically(path, lambda file: file.write(whole))
    except OSError as error:
        raise SceneError(f"{path}: the motion cannot be written: {error.strerror or error}") from error


def _ordered(whole: bytes) -> bytes:
    """The same file with its header in order: safetensors writes what is said of a file in any."""
    length = int.from_bytes(whole[:8], "little")
    text = json.dumps(json.loads(whole[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


def load_motion(path: Path, count: int) -> Motion:
    """count: of the Gaussians that it has to be of. Raises SceneError: damaged, of another kind, of another
    scene, or with numbers that are not finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix in (".pth", ".pt", ".pkl", ".ckpt"):
        raise SceneError(
            f"{path}: a pickle may run code and is not opened; only motion.safetensors is read. Fit "
            "the scene from its pictures instead"
        )
    try:
        said = read_header(path).metadata
        tensors = load_file(path)
    except (CheckpointError, SafetensorError, OSError) as error:
        raise SceneError(f"{path}: the motion cannot be read: {error}") from error
    kind = said.get("kind", "")
    if said.get("format") != FORMAT or kind not in KINDS:
        raise SceneError(f"{path}: no motion of ours (kind {kind!r:.40}); expected {' or '.join(KINDS)}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise SceneError(f"{path}: {name} holds numbers that are not finite")
    try:
        keys, moving = Keys(tensors.pop("times")), tensors["moving"]
        if moving.dtype != torch.bool or tuple(moving.shape) != (count,):
            raise SceneError(f"it moves {list(moving.shape)} {moving.dtype} rows, the scene has {count}")
        for name, tensor in tensors.items():
            if name != "moving" and tensor.dtype != torch.float32:
                raise SceneError(f"{name} is {tensor.dtype}, expected torch.float32")
            if name in ("turns", "quats") and bool((tensor == 0).all(-1).any()):
                raise SceneError(f"{name} holds a rotation of 0")
        return KINDS[kind].from_tensors(keys, tensors)
    except KeyError as error:
        raise SceneError(f"{path}: the motion has no {error.args[0]}") from error
    except SceneError as error:
        raise SceneError(f"{path}: {error}") from error
