"""The detector and the segmenter, each beside the library's own calls around the same modules."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from evlm.files.pictures import to_pil
from evlm.ground.grounder import Grounder
from evlm.segment.segmenter import HfSam2, Segmenter

from .steps import Bar, Setting, Step
from .turns import figures, in_turns

LABELS = ("red circle", "blue square", "wall", "window")
LARGE = {
    "hidden_size": 144,
    "num_attention_heads": 2,
    "image_size": [1024, 1024],
    "blocks_per_stage": [2, 6, 36, 4],
    "embed_dim_per_stage": [144, 288, 576, 1152],
    "num_attention_heads_per_stage": [2, 4, 8, 16],
    "window_size_per_stage": [8, 4, 16, 8],
    "global_attention_blocks": [23, 33, 43],
    "window_positional_embedding_background_size": [7, 7],
}
"""SAM 2.1 large's encoder (sam2's configs/sam2.1/sam2.1_hiera_l.yaml)."""


def steps(setting: Setting) -> list[Step]:
    return [
        Step(
            "find: GroundingDINO-tiny, 4 labels, 800 px", 1.0, lambda: detect(setting), (Bar("ours x", 0.95),)
        ),
        Step("find: SAM 2.1 large, 5 boxes, 1024 px", 1.0, lambda: segment(setting), (Bar("ours x", 0.95),)),
    ]


def detect(setting: Setting) -> dict[str, float]:
    """Grounder.ground beside transformers' processor, model and post-processing, float32 both."""
    side = 64 if setting.toy else 800
    grounder = Grounder(*detector(setting, side))
    frames = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(0))

    def ours() -> None:
        grounder.ground(frames, LABELS)

    def theirs() -> None:
        inputs = grounder.processor(
            images=[to_pil(frames[0])], text=[[*LABELS]], return_tensors="pt"
        ).to(setting.device)  # fmt: skip
        with torch.inference_mode():
            out = grounder.model(**inputs)
        grounder.processor.post_process_grounded_object_detection(
            out, inputs["input_ids"], threshold=0.25, text_threshold=0.25, target_sizes=[(side, side)]
        )

    timed = in_turns({"ours": ours, "transformers": theirs}, setting.device, setting.rounds, setting.warm)
    return figures(timed, "transformers")


def detector(setting: Setting, side: int) -> tuple[Any, Any]:
    """GroundingDINO of the tiny size, as transformers' defaults are, or a toy; a vocabulary of our labels."""
    import transformers as hf

    vocabulary = [f"[unused{number}]" for number in range(1040)]  # the places that the model's code asks for
    vocabulary[0], vocabulary[100:103] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]"]
    vocabulary[1012], vocabulary[1029] = ".", "?"
    words = sorted({word for label in LABELS for word in label.split()})
    vocabulary[1030 : 1030 + len(words)] = words
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "vocab.txt").write_text("\n".join(vocabulary), "utf-8")
        tokenizer = hf.BertTokenizer(str(Path(place) / "vocab.txt"))
    given: dict[str, Any] = {}
    if setting.toy:
        swin = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 4}
        bert = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        given = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
                 "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
                 "num_queries": 12, "max_text_len": 48}  # fmt: skip
    else:  # IDEA-Research/grounding-dino-tiny
        swin = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
        bert = {}
    features = ["stage2", "stage3", "stage4"]
    config = hf.GroundingDinoConfig(
        backbone_config={"model_type": "swin", "image_size": side, "out_features": features, **swin},
        text_config={"model_type": "bert", "vocab_size": max(len(vocabulary), 1100), **bert},
        num_feature_levels=4,
        **given,
    )
    with torch.device(setting.device):
        model = hf.GroundingDinoForObjectDetection(config).eval().requires_grad_(False)
    images = hf.GroundingDinoImageProcessor(size={"shortest_edge": side, "longest_edge": side * 5 // 3})
    return model, hf.GroundingDinoProcessor(images, tokenizer)


def segment(setting: Setting) -> dict[str, float]:
    """Segmenter.segment beside Sam2Processor and Sam2Model under the same autocast."""
    from transformers import Sam2ImageProcessor, Sam2Processor

    model = sam2(setting)
    segmenter = Segmenter(HfSam2(model), setting.half)
    side = model.config.prompt_encoder_config.image_size
    frames = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.5, 0.1, 0.9, 0.4], [0.2, 0.5, 0.5, 0.9],
                            [0.6, 0.6, 0.8, 0.8], [0.0, 0.0, 1.0, 1.0]]) * side  # fmt: skip
    processor = Sam2Processor(Sam2ImageProcessor(size={"height": side, "width": side}), target_size=side)

    def ours() -> None:
        segmenter.segment(frames, corners)

    def theirs() -> None:
        inputs = processor(images=to_pil(frames[0]), input_boxes=[corners.tolist()], return_tensors="pt")
        on = setting.half != torch.float32
        with torch.inference_mode(), torch.autocast(setting.device.type, setting.half, enabled=on):
            out = model(**inputs.to(setting.device), multimask_output=False)
        processor.post_process_masks(out.pred_masks.float().cpu(), inputs["original_sizes"])

    timed = in_turns({"ours": ours, "transformers": theirs}, setting.device, setting.rounds, setting.warm)
    return figures(timed, "transformers")


def sam2(setting: Setting) -> Any:
    """SAM 2.1 large of random weights, or the bundled segmenter's shape as a toy."""
    from transformers import Sam2Config, Sam2Model

    if setting.toy:
        from trainer.bundle.segmenter import make_model

        return make_model().eval().requires_grad_(False).to(setting.device)
    widths = [1152, 576, 288, 144]
    config = Sam2Config(
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": {"model_type": "sam2_hiera_det_model", **LARGE},
            "backbone_channel_list": widths,
            "backbone_feature_sizes": [[256, 256], [128, 128], [64, 64]],
            "fpn_hidden_size": 256,
            "fpn_top_down_levels": [2, 3],
        },
        prompt_encoder_config={"hidden_size": 256, "image_size": 1024, "patch_size": 16},
        mask_decoder_config={"hidden_size": 256, "mlp_dim": 2048, "iou_head_hidden_dim": 256},
    )
    with torch.device(setting.device):
        return Sam2Model(config).eval().requires_grad_(False)
