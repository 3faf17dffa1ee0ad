"""InstructPix2Pix with a bridge: edited without cues, or with the gate shut, it is InstructPix2Pix to the
bit.

    editor = BridgedIP2P.load("bridge.safetensors")      # which names the editor that it is for
    editor.with_cues(cues).edit(frames, "give the star the pattern of reference 1", mask)
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ModelError
from ..models.loading import pick_device, pick_dtype
from ..models.zoo import CATALOGUE, resolve
from .bridge import LOW, Bridge, BridgeMeta, Cues, Seen, load_bridge, planned, save_bridge
from .bridge_attention import attach
from .guidance import Guidance
from .ip2p import IP2P
from .parts import Parts, load_parts
from .protocol import EditSettings

NAMES = ("bundled", *(model.name for model in CATALOGUE if model.role == "editor"))


class BridgedIP2P(IP2P):
    """cues: what this one's edits are told beside their instruction; None: nothing."""

    def __init__(self, parts: Parts, bridge: Bridge) -> None:
        super().__init__(parts)
        width = int(self.unet.config.cross_attention_dim)
        if (bridge.shape.out, bridge.shape.word) != (width, width):
            raise ModelError(
                f"a bridge to {bridge.shape.out} channels does not fit an editor whose text has {width}"
            )
        self.bridge = bridge
        self.low = attach(self.unet, bridge.shape.rank)
        self.cues: Cues | None = None

    @classmethod
    def load(
        cls,
        source: str | Path,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        scheduler: str | None = None,
        config: str | Path | None = None,
        base: str | Path | None = None,
    ) -> BridgedIP2P:
        """As `IP2P.load`, of a file that `save` wrote. base: the editor that it is for; None: the one that
        the file names, one of NAMES: a stranger's file opens no folder. Raises ModelError,
        CheckpointError."""
        tensors, meta = load_bridge(source)
        if base is None and meta.base not in NAMES:
            raise ModelError(
                f"{source} is for the editor {meta.base!r:.80}, which is none of {', '.join(NAMES)}; where "
                "you trust it, name it yourself: BridgedIP2P.load(file, base=...)"
            )
        where = pick_device(device)
        auto = torch.float32 if where.type == "cpu" else torch.float16
        parts = load_parts(resolve(base or meta.base, "editor"), pick_dtype(dtype, auto), config)
        editor = cls(parts, planned(meta.shape))
        editor.put(tensors, str(source))
        editor.bridge.eval().to(editor.unet.dtype)
        editor.low.eval().to(editor.unet.dtype)
        return editor.to(where)

    def to(self, device: str | torch.device) -> BridgedIP2P:
        super().to(device)
        return self

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (*super().modules, self.bridge, self.low)

    def tensors(self) -> dict[str, Tensor]:
        """What is learned: the bridge's, and the updates of the editor's cross-attention."""
        low = {f"{LOW}{name}": value for name, value in self.low.state_dict().items()}
        return {**self.bridge.state_dict(), **low}

    def put(self, tensors: dict[str, Tensor], source: str = "these tensors") -> None:
        """Takes what `tensors` gave. Raises CheckpointError where they are of another shape."""
        own = {name: value for name, value in tensors.items() if not name.startswith(LOW)}
        low = {name.removeprefix(LOW): value for name, value in tensors.items() if name.startswith(LOW)}
        try:
            self.bridge.load_state_dict(own, assign=self.bridge.raw_gate.is_meta)
            self.low.load_state_dict(low)
        except RuntimeError as error:
            raise CheckpointError(f"{source}: does not fit this bridge and editor: {error!s:.300}") from None

    def save(self, path: str | Path, base: str = "bundled", training: dict[str, Any] | None = None) -> None:
        """Writes the bridge alone. Raises CheckpointError."""
        save_bridge(path, self.tensors(), BridgeMeta(self.bridge.shape, base, training or {}))

    def with_cues(self, cues: Cues | None) -> BridgedIP2P:
        """The same editor, whose edits are told these. Models are shared."""
        editor = copy.copy(self)
        editor.cues = cues
        return editor

    @torch.no_grad()
    def read(self, instruction: str, notes: list[str]) -> Tensor:
        """[2, T + K, D]: the instruction and the empty text, each with the bridge's K tokens; [2, T, D] where
        there are no cues, or none gets through."""
        text = super().read(instruction, notes)
        if self.cues is None or self.bridge.shut:
            return text
        tokens = self.bridge(self.asked(text[:1]))
        return torch.cat([text, torch.cat([tokens, torch.zeros_like(tokens)]).to(text)], 1)

    def asked(self, text: Tensor) -> Cues:
        """The cues with CLIP's tokens [1, T, D] of the instruction."""
        known = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        given = (self.cues or Cues()).to(text.device, text.dtype)
        return Cues(**{**vars(given), "text": Seen(text, known)})

    def guide(self, text: Tensor, picture: Tensor, settings: EditSettings) -> Guidance:
        own = text.shape[1] == self._text_length
        gate = None if own else self.bridge.gate.detach().to(text)
        return Guidance(text, picture, settings.guidance, settings.image_guidance, gate)

    @torch.no_grad()
    def words(self, labels: tuple[str, ...]) -> Seen | None:
        """CLIP's tokens of the plan's targets, as `Cues.words` wants them; None without targets."""
        if not labels:
            return None
        text = super().read(" , ".join(labels), [])[:1]
        length = len(self.tokenizer(" , ".join(labels)).input_ids)
        return Seen(text, torch.arange(text.shape[1], device=text.device)[None] < length)
