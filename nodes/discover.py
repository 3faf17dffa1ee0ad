"""How the nodes are found and folded in newer ComfyUIs, and what they say again: search words, essentials,
advanced inputs, what a node shows of itself.

Each is given only to a host that has it (`advanced` from 0.10, `search_aliases` from 0.11,
`has_intermediate_output` by 0.33): an older one would refuse it.
"""

from __future__ import annotations

from comfy_api.latest import io

# What people type who do not know the nodes' names.
ALIASES: dict[str, tuple[str, ...]] = {
    "EVLM_LoadAll": ("evlm", "vlm", "llm", "qwen", "qwen vl", "checkpoint", "model loader"),
    "EVLM_QuickEdit": ("edit by words", "edit by text", "instruct", "inpaint", "image edit", "vlm", "llm"),
    "EVLM_LoadModel": ("vlm", "llm", "qwen", "qwen2-vl", "qwen2.5-vl", "qwen3-vl", "vision language model"),
    "EVLM_RemoteModel": ("vlm", "llm", "api", "openai", "vllm", "ollama", "llama.cpp", "endpoint"),
    "EVLM_Reference": ("reference image", "example picture", "depth map", "style reference"),
    "EVLM_Reason": ("vlm", "llm", "qwen", "chain of thought", "prompt enhancer", "caption", "describe"),
    "EVLM_ShowTrace": ("show text", "chain of thought", "thinking"),
    "EVLM_PlanFromText": ("instruction", "edit by words", "json", "parse"),
    "EVLM_PlanToText": ("to string", "json", "show text"),
    "EVLM_LoadDetector": ("groundingdino", "grounding dino", "owl-vit", "owlv2", "object detection"),
    "EVLM_Ground": ("detect", "find by name", "bounding box", "bbox", "grounding", "object detection"),
    "EVLM_LoadSegmenter": ("sam", "sam2", "segment anything", "segmentation model"),
    "EVLM_Segment": ("sam", "sam2", "segment anything", "mask", "cut out", "outline"),
    "EVLM_LoadEditor": ("instructpix2pix", "instruct pix2pix", "ip2p", "image edit model"),
    "EVLM_NativeEditor": (
        "qwen image edit",
        "kontext",
        "flux kontext",
        "instructpix2pix",
        "image edit model",
        "ksampler",
    ),
    "EVLM_Edit": ("inpaint", "edit by words", "edit by text", "instructpix2pix", "ip2p", "pix2pix"),
    "EVLM_Composite": ("inpaint", "paste back", "blend in mask", "image composite masked"),
    "EVLM_Example": ("demo", "sample request"),
    "EVLM_RateEdit": ("thumbs up", "feedback", "dataset", "label"),
    "EVLM_Train": ("train lora", "finetune", "fine-tune", "learn from ratings"),
    "EVLM_Track": ("sam2 video", "video mask", "follow", "rotoscope", "segment video", "tracking"),
    "EVLM_EditVideo": ("video edit", "vid2vid", "video to video", "edit by words", "ip2p", "tune-a-video"),
    "EVLM_Keyframes": ("video frames", "extract keyframes", "qwen image edit video", "ebsynth"),
    "EVLM_PropagateKeyframes": ("ebsynth", "interpolate", "video from keyframes", "optical flow"),
    "EVLM_Steadiness": ("flicker", "warp error", "temporal consistency", "video metrics"),
    "EVLM_LoadScene": ("gaussian splatting", "3dgs", "splat", "ply", "spz", "ksplat", "load 3d", "colmap"),
    "EVLM_RenderScene": ("gaussian splatting", "3dgs", "render splat", "orbit", "turntable", "novel view"),
    "EVLM_FitScene": ("gaussian splatting", "3dgs", "train splat", "colmap", "nerf", "reconstruct"),
    "EVLM_SaveScene": ("gaussian splatting", "3dgs", "save splat", "ply", "spz", "viewer", "save 3d"),
    "EVLM_SceneToSplat": ("gaussian splatting", "3dgs", "splat"),
    "EVLM_SelectInScene": ("gaussian splatting", "3dgs", "segment splat", "sam 3d", "select gaussians"),
    "EVLM_ExampleScene": ("demo", "sample scene", "gaussian splatting", "3dgs"),
    "EVLM_EditScene": (
        "gaussian splatting",
        "3dgs",
        "edit splat",
        "instruct nerf2nerf",
        "in2n",
        "gaussian editor",
        "edit 3d",
    ),
}
ESSENTIALS = {"EVLM_QuickEdit": "Image Tools"}
# What few need: folded away until it is asked for.
ADVANCED: dict[str, frozenset[str]] = {
    "EVLM_LoadModel": frozenset(("dtype", "attention", "quantize", "max_pixels", "compile")),
    "EVLM_LoadAll": frozenset(("quantize", "dtype")),
    "EVLM_RemoteModel": frozenset(("timeout", "trust", "boxes")),
    "EVLM_LoadDetector": frozenset(("dtype",)),
    "EVLM_LoadSegmenter": frozenset(("dtype",)),
    "EVLM_LoadEditor": frozenset(("dtype",)),
    "EVLM_NativeEditor": frozenset(
        ("image_guidance", "sampler", "scheduler", "denoise", "negative", "resolution")
    ),
    "EVLM_QuickEdit": frozenset(("ask_below",)),
    "EVLM_Reason": frozenset(("max_new_tokens", "top_p", "repair", "guided", "ask_below", "style")),
    "EVLM_PlanFromText": frozenset(("plain",)),
    "EVLM_Ground": frozenset(("text_threshold",)),
    "EVLM_Edit": frozenset(("scheduler", "context", "feather", "chunk", "seamless")),
    "EVLM_EditVideo": frozenset(("together", "window", "context", "feather", "chunk", "seamless")),
    "EVLM_Track": frozenset(("points", "frame")),
    "EVLM_Steadiness": frozenset(("flow",)),
    "EVLM_LoadScene": frozenset(("size", "background", "photographs")),
    "EVLM_RenderScene": frozenset(("antialias",)),
    "EVLM_FitScene": frozenset(("max_gaussians", "degree", "points")),
    "EVLM_EditScene": frozenset(("schedule", "rounds", "strength", "ask_below")),
}
# No end of a chain, but their pictures and texts are said again with a cached run, as an output node's are.
SHOWN = frozenset(
    f"EVLM_{name}"
    for name in (
        "QuickEdit",
        "NativeEditor",
        "Reason",
        "Ground",
        "Segment",
        "Edit",
        "Composite",
        "Example",
        "Track",
        "EditVideo",
        "Steadiness",
        "Keyframes",
        "PropagateKeyframes",
        "RenderScene",
        "FitScene",
        "SelectInScene",
        "EditScene",
        "ExampleScene",
    )
)


def discoverable(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The same node class, whose schema says all this to a host that has a place for it."""
    plain = node.define_schema.__func__

    def define_schema(cls: type[io.ComfyNode]) -> io.Schema:
        schema: io.Schema = plain(cls)
        if hasattr(schema, "search_aliases"):
            schema.search_aliases = list(ALIASES.get(schema.node_id, ()))
        if hasattr(schema, "essentials_category"):
            schema.essentials_category = ESSENTIALS.get(schema.node_id)
        if hasattr(schema, "has_intermediate_output"):
            schema.has_intermediate_output = schema.node_id in SHOWN
        for each in schema.inputs or ():
            if hasattr(each, "advanced") and each.id in ADVANCED.get(schema.node_id, ()):
                each.advanced = True
        return schema

    node.define_schema = classmethod(define_schema)
    return node
