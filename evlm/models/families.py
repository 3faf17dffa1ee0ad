"""What kinds of model each role has: the one list that the zoo, the loaders and the pipeline read.

A new family of reasoners or detectors is a line here. A new editor is a line here and its file in
evlm/edit/.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReasonerFamily:
    """processor: its class in transformers. counts_all_frames: the limit of its video processor is of the
    pixels of all frames together; the others' is of each frame."""

    processor: str
    counts_all_frames: bool = False


@dataclass(frozen=True)
class EditorFamily:
    """Editors of one kind.

    folder_class: `_class_name` in the model_index.json of a diffusers folder.
    module, engine: the file of evlm/edit/ and its class; `engine.load(path, dtype, device)` gives an
        `edit.Editor`.
    weights: folder/stem of each part of the folder that has weights.
    file_tensor, file_channels: the first convolution in the family's single file, and how many channels it
        takes, which tells it from its relatives; "" where there is no such file.
    """

    folder_class: str
    module: str
    engine: str
    weights: tuple[str, ...]
    file_tensor: str = ""
    file_channels: int = 0


# by `model_type` in config.json
REASONERS: dict[str, ReasonerFamily] = {
    "qwen2_vl": ReasonerFamily("Qwen2VLProcessor"),
    "qwen2_5_vl": ReasonerFamily("Qwen2_5_VLProcessor"),
    "qwen3_vl": ReasonerFamily("Qwen3VLProcessor", counts_all_frames=True),
}
GROUNDING_DINO = ("grounding-dino", "mm-grounding-dino")
OWL = ("owlvit", "owlv2")
SAM2 = ("sam2", "sam2_video")
MODEL_TYPES: dict[str, tuple[str, ...]] = {
    "reasoner": tuple(REASONERS),
    "detector": (*GROUNDING_DINO, *OWL),
    "segmenter": SAM2,
}

EDITORS: tuple[EditorFamily, ...] = (
    EditorFamily(
        "StableDiffusionInstructPix2PixPipeline",
        module="ip2p",
        engine="IP2P",
        weights=("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"),
        file_tensor="model.diffusion_model.input_blocks.0.0.weight",
        file_channels=8,  # noise and picture; a plain Stable Diffusion takes 4, one for inpainting 9
    ),
    EditorFamily(  # a file beside an InstructPix2Pix, which it names; there is no such folder
        "",
        module="bridge_editor",
        engine="BridgedIP2P",
        weights=(),
        file_tensor="bridge.version",
        file_channels=1,
    ),
)
