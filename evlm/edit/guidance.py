"""Guidance by picture and by instruction, and how the frames of one step go through the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Guidance:
    """InstructPix2Pix's equation 3, with the three predictions in one batch.

        e = e(z, 0, 0) + s_I (e(z, I, 0) - e(z, 0, 0)) + s_T (e(z, I, T) - e(z, I, 0))

    I: the picture's latents (zeros for none), T: the instruction (the empty text for none). It is summed by
    prediction, so that one whose weight is zero is not computed: without guidance (both 1) one remains.

    text: [2, T, D], the instruction and the empty text. picture: [A, C, h, w]. plain: which of the copies in
    the model's batch sees the picture and no words; the first where none does. gate: [K], of the last K
    tokens of the instruction, which the empty text has not; None: it has no such tokens.
    """

    def __init__(
        self, text: Tensor, picture: Tensor, s_text: float, s_image: float, gate: Tensor | None = None
    ) -> None:
        instruction, nothing = text[:1], text[1:]
        terms = [
            (s_text, instruction, picture),
            (s_image - s_text, nothing, picture),
            (1 - s_image, nothing, torch.zeros_like(picture)),
        ]
        terms = [term for term in terms if term[0] != 0]
        self.plain = next(
            (at for at, (_, words, seen) in enumerate(terms) if words is nothing and seen is picture), 0
        )
        self.weights = [weight for weight, _, _ in terms]
        self.words = [words for _, words, _ in terms]
        self.pictures = [seen for _, _, seen in terms]
        self.gates = [
            gate if words is instruction or gate is None else torch.zeros_like(gate) for _, words, _ in terms
        ]

    def __call__(self, unet: Any, noisy: Tensor, time: Tensor, frames: Sequence[int] | None = None) -> Tensor:
        """Noisy latents [n, C, h, w] at `time` -> the guided prediction [n, C, h, w].

        frames: which of the A frames these are; None: all of them. The model's batch is the copies that are
        weighed, one behind the other, each of all n frames.
        """
        pictures = self.pictures if frames is None else [seen[list(frames)] for seen in self.pictures]
        batch = torch.cat([torch.cat([noisy] * len(self.weights)), torch.cat(pictures)], dim=1)
        text = torch.cat([words.expand(len(noisy), -1, -1) for words in self.words])
        more: dict[str, Any] = {}
        if self.gates[0] is not None:
            gates = [gate.expand(len(noisy), -1) for gate in self.gates if gate is not None]
            more["cross_attention_kwargs"] = {"gate": torch.cat(gates)}
        predictions = unet(batch, time, encoder_hidden_states=text, **more).sample.chunk(len(self.weights))
        return torch.stack([w * p for w, p in zip(self.weights, predictions, strict=True)]).sum(0)


Predict = Callable[[Guidance, Any, Tensor, Tensor], Tensor]
"""(guidance, unet, noisy latents [A, C, h, w], time) -> the prediction [A, C, h, w]: how the frames of one
step go through the model, all at once or in parts that see each other."""


def at_once(guidance: Guidance, unet: Any, noisy: Tensor, time: Tensor) -> Tensor:
    """All frames in one batch, none of which sees another."""
    return guidance(unet, noisy, time)
