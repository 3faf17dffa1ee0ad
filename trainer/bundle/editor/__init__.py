"""The bundled editor: an InstructPix2Pix of seven million parameters, trained from nothing on the world."""

from .check import check
from .train import Recipe, train

__all__ = ["Recipe", "check", "train"]
