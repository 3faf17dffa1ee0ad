"""The tiny InstructPix2Pix: diffusers' and transformers' own classes, small enough to train on one core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.bundle.tokens import clip_tokenizer
from trainer.world.scene import CELLS, COLOURS, DIRECTIONS, GROUNDS, SHAPES, SIZES, STYLES, TEXTURES, WEATHERS
from trainer.world.words import editor_words

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

VAE_FACTOR = 2
MULTIPLE = 8  # VAE factor times the UNet's two halvings
TEXT_LENGTH = 24
ORDERS = "make the replace with a remove add at move change weather ground to turn picture into and it of an"


def build_vae(width: int = 32) -> Any:
    """AutoencoderKL with f = 2 and four latent channels; no attention, so that any size costs what it
    measures."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(width, 2 * width),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_unet(widths: tuple[int, int, int] = (64, 96, 128), text_width: int = 128) -> Any:
    """UNet2DConditionModel on [B, 8, h, w]: noisy latents beside the picture's; text is read on the two lower
    levels."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=32,
        in_channels=8,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,  # diffusers takes this for the number of heads
        norm_num_groups=16,
        use_linear_projection=True,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, width: int = 128, layers: int = 2) -> CLIPTextModel:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE with one token for each of the world's words; other text falls into smaller
    pieces."""
    lists = (SHAPES, COLOURS, TEXTURES, SIZES, GROUNDS, WEATHERS, STYLES, CELLS, tuple(DIRECTIONS), (ORDERS,))
    words = {word for entries in lists for entry in entries for word in entry.split()}
    return clip_tokenizer(words, TEXT_LENGTH, pad="<|endoftext|>")


def grown_tokenizer() -> CLIPTokenizer:
    """`build_tokenizer`'s, with the words of every wing: an editor that was trained before is given it by
    `grow.carry_clip`."""
    return clip_tokenizer(editor_words(), TEXT_LENGTH, pad="<|endoftext|>")


def build_scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
