"""The editor trained on from weights that are there, with stills of solids and frames of clips among the
pairs. Its autoencoder stays as it is. A run that was cut off goes on from its last epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from evlm.errors import ConfigError

from ..grow import carry_clip
from .models import grown_tokenizer
from .train import Editor, Phase, Recipe, export, run_epochs

# What is known is rehearsed; drawing solids takes longest. Whole pictures are few: they are at their bars.
WHOLE = {"weather": 0.5, "ground": 0.25, "restyle": 0.25}
PHASES = (
    Phase(
        0,
        5120,
        256,
        {"replace": 0.21, "retexture": 0.23, "add": 0.25, "move": 0.1, "recolour": 0.07, "remove": 0.14},
        WHOLE,
        2.5,
    ),
    Phase(  # polish, as from nothing: dots are lost in recolouring
        12,
        5120,
        384,
        {"replace": 0.18, "retexture": 0.19, "add": 0.17, "move": 0.1, "recolour": 0.22, "remove": 0.14},
        WHOLE,
        2.5,
    ),
)
RECIPE = Recipe(
    epochs=12,
    polish=2,
    phases=PHASES,
    batch=64,
    lr_muon=0.01,
    lr_adam=1e-3,
    decay_from=0.3,
    validation=0,
    solids=0.5,
    clips=0.25,
)


def train_editor_on(
    begin: Path,
    out: Path,
    work: Path,
    seed: int = 0,
    log: Callable[[str], None] = print,
    recipe: Recipe = RECIPE,
) -> None:
    """Trains the InstructPix2Pix in the folder `begin` on and writes the diffusers folder `out`, which may be
    the same; its settings (evlm.json) are begin's. Raises ConfigError where `begin` holds none."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        vae = AutoencoderKL.from_pretrained(begin / "vae", local_files_only=True)
        unet = UNet2DConditionModel.from_pretrained(begin / "unet", local_files_only=True)
        text = CLIPTextModel.from_pretrained(begin / "text_encoder", local_files_only=True)
        old = CLIPTokenizer.from_pretrained(begin / "tokenizer", local_files_only=True)
        settings = (begin / "evlm.json").read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{begin}: no editor to begin with ({error!s:.120}); give its folder") from None
    tokenizer = grown_tokenizer()
    text = text.float()
    carry_clip(text, old, tokenizer)
    log(
        f"editor: {len(old)} tokens have become {len(tokenizer)}; {recipe.solids:g} of the pairs of solids, "
        f"{recipe.clips:g} of clips"
    )
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    editor = Editor(unet.float(), text)
    frozen = vae.float().eval().requires_grad_(False)
    run_epochs(editor, frozen, tokenizer, recipe, work, seed, log)
    export(out, frozen, editor, tokenizer)
    (out / "evlm.json").write_bytes(settings)
