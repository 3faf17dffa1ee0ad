"""Workflows that edit a clip."""

from __future__ import annotations

from typing import Any

from described_parts import (
    ABSENT,
    OUR_FILES,
    REAL,
    RESULT_SIZE,
    SAMPLE,
    SAMPLE_PROMPT,
    TOY,
    Workflows,
    add_reason,
    add_sampler,
    add_track,
)
from model_files import QWEN2_VL_7B, QWEN_IMAGE_EDIT, WAN_VACE
from ui_graph import Definitions, Graph


def edit_video(definitions: Definitions) -> Graph:
    """A clip: one plan, a mask that follows, an edit that does not flicker."""
    graph = Graph(
        "edit_video",
        "## Edit a clip\n\nPress *Run*: a thing on its way gets another colour, and nothing else changes. It "
        "takes about a minute on a CPU.\n\n"
        "**Reason** looks at some frames and plans; **Track** gives a mask that follows the thing; **Edit "
        "Video** paints inside it, the frames together. Each frame keeps its time, and the sound goes "
        "along.\n\n"
        "**Your own clip:** choose it in **Load Video**, and real models in the loaders, as in "
        "*edit_2d_qwen2vl_sam2_ip2p*. A SAM 2 that can track (a `sam2_video` folder) follows things through "
        "what hides them.\n\n"
        "**A long clip:** take **Track** out and connect its loaders to **Edit Video**, which then looks for "
        "the thing by itself, window by window.\n\n"
        "**Files:** none; `evlm_moving.mp4` lies in the input folder.",
        definitions,
        note_height=560,
    )
    clip = graph.add(1, "LoadVideo", file=SAMPLE)
    model = graph.add(1, "EVLM_LoadModel")
    reason = add_reason(graph, 2, model, clip["video"], SAMPLE_PROMPT)
    track = add_track(graph, 3, clip["video"], reason["plan"], TOY)
    editor = graph.add(3, "EVLM_LoadEditor")
    edit = graph.add(
        4,
        "EVLM_EditVideo",
        video=clip["video"],
        plan=reason["plan"],
        mask=track["step_masks"],
        editor=editor["editor"],
    )
    graph.add(5, "SaveVideo", video=edit["video"], filename_prefix="video/evlm", size=RESULT_SIZE)
    return graph


def video_native_keyframes(definitions: Definitions) -> Graph:
    """An editor of core that knows no video edits one: keyframes, and their motion."""
    graph = Graph(
        "video_native_keyframes",
        "## A clip by Qwen-Image-Edit\n\n**Keyframes** gives some frames of the clip out, Qwen-Image-Edit "
        "edits them inside the mask that **Track** made, and **Propagate Keyframes** carries them over the "
        "clip along its motion; times and sound go along.\n\n"
        "Any other editor fits between the two: Flux Kontext in **Native Editor**, or nodes that make "
        "pictures of the same number and size.\n\n"
        "**Files:**\n- qwen_image_edit_fp8_e4m3fn.safetensors \u2192 `models/diffusion_models`\n"
        "- qwen_2.5_vl_7b_fp8_scaled.safetensors \u2192 `models/text_encoders`\n"
        f"- qwen_image_vae.safetensors \u2192 `models/vae`\n{OUR_FILES}\n{ABSENT}",
        definitions,
        note_height=560,
    )
    clip = graph.add(1, "LoadVideo", file=SAMPLE)
    model = graph.add(1, "EVLM_LoadModel", model="qwen2-vl-7b", models=QWEN2_VL_7B)
    reason = add_reason(graph, 2, model, clip["video"], "autumn")
    track = add_track(graph, 3, clip["video"], reason["plan"], REAL)
    keys = graph.add(4, "EVLM_Keyframes", clip=clip["video"], mask=track["mask"])
    unet, texts, coder = QWEN_IMAGE_EDIT
    native = graph.add(
        4,
        "EVLM_NativeEditor",
        model=graph.add(3, "UNETLoader", unet_name=unet["name"], weight_dtype="default", models=[unet])[
            "model"
        ],
        clip=graph.add(3, "CLIPLoader", clip_name=texts["name"], type="qwen_image", models=[texts])["clip"],
        vae=graph.add(3, "VAELoader", vae_name=coder["name"], models=[coder])["vae"],
    )
    edited = graph.add(
        5,
        "EVLM_Edit",
        image=keys["image"],
        plan=reason["plan"],
        mask=keys["mask"],
        editor=native["editor"],
    )
    carried = graph.add(
        6,
        "EVLM_PropagateKeyframes",
        clip=clip["video"],
        edited=edited["image"],
        keys=keys["keys"],
        mask=track["mask"],
        one_look=True,
    )
    graph.add(7, "SaveVideo", video=carried["video"], filename_prefix="video/evlm", size=RESULT_SIZE)
    return graph


def video_native_inpaint(definitions: Definitions) -> Graph:
    """A video model of core paints what is in the mask; ours say what and where."""
    graph = Graph(
        "video_native_inpaint",
        "## A clip by Wan VACE\n\nA video model of core paints all frames at once: the plan's instruction is "
        "its prompt, and what **Track** follows is grey in the clip that it is shown and white in its mask. "
        "**Composite in Mask** keeps the rest of each frame, bit for bit and at its own size; the sound goes "
        "along.\n\n"
        "**Your own clip:** in **Resize** give a size of its shape, both sides multiples of 16; in "
        "**WanVaceToVideo** a `length` of 4n + 1 that is not below its number of frames, 81 at most. Frames "
        "follow each other evenly in the result.\n\n"
        "**Files:**\n- wan2.1_vace_1.3B_fp16.safetensors (or 14B) \u2192 `models/diffusion_models`\n"
        "- umt5_xxl_fp8_e4m3fn_scaled.safetensors \u2192 `models/text_encoders`\n"
        f"- wan_2.1_vae.safetensors \u2192 `models/vae`\n{OUR_FILES}\n{ABSENT}",
        definitions,
        note_height=680,
    )
    clip = graph.add(1, "LoadVideo", file=SAMPLE)
    parts = graph.add(1, "GetVideoComponents", video=clip["video"])
    loader = graph.add(1, "EVLM_LoadModel", model="qwen2-vl-7b", models=QWEN2_VL_7B)
    reason = add_reason(graph, 2, loader, clip["video"], "autumn")
    track = add_track(graph, 3, clip["video"], reason["plan"], REAL)
    size: dict[str, Any] = {"upscale_method": "area", "crop": "disabled"}
    scaled = graph.add(3, "ImageScale", title="Resize", image=parts["images"], width=480, height=480, **size)
    shape = graph.add(4, "GetImageSize", image=scaled["image"])
    side: dict[str, Any] = {"width": shape["width"], "height": shape["height"]}
    drawn = graph.add(4, "MaskToImage", mask=track["mask"])
    fitted = graph.add(4, "ImageScale", title="Resize the mask", image=drawn["image"], **side, **size)
    mask = graph.add(4, "ImageToMask", image=fitted["image"], channel="red")
    grey = graph.add(5, "EmptyImage", title="Grey", width=64, height=64, color=0x7F7F7F)
    hidden = graph.add(
        5,
        "ImageCompositeMasked",
        title="Grey in the mask",
        destination=scaled["image"],
        source=grey["image"],
        mask=mask["mask"],
        resize_source=True,
    )
    unet, texts, coder = WAN_VACE
    model = graph.add(5, "UNETLoader", unet_name=unet["name"], weight_dtype="default", models=[unet])
    words = graph.add(5, "CLIPLoader", clip_name=texts["name"], type="wan", models=[texts])["clip"]
    vae = graph.add(5, "VAELoader", vae_name=coder["name"], models=[coder])["vae"]
    shifted = graph.add(6, "ModelSamplingSD3", model=model["model"], shift=8.0)
    positive = graph.add(6, "CLIPTextEncode", title="Positive", clip=words, text=reason["instruction"])
    negative = graph.add(6, "CLIPTextEncode", title="Negative", clip=words, text="")
    vace = graph.add(
        7,
        "WanVaceToVideo",
        positive=positive["conditioning"],
        negative=negative["conditioning"],
        vae=vae,
        **side,
        length=17,
        control_video=hidden["image"],
        control_masks=mask["mask"],
    )
    how: dict[str, Any] = {"cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple"}
    given = (vace["positive"], vace["negative"], vace["latent"])
    sampled = add_sampler(graph, 8, shifted["model"], *given, **how)
    trimmed = graph.add(8, "TrimVideoLatent", samples=sampled, trim_amount=vace["trim_latent"])
    decoded = graph.add(8, "VAEDecode", samples=trimmed["latent"], vae=vae)
    many = graph.add(
        8,
        "ImageFromBatch",
        title="As many as the clip has",
        image=decoded["image"],
        batch_index=0,
        length=shape["batch_size"],
    )
    made = graph.add(9, "EVLM_Composite", original=parts["images"], edited=many["image"], mask=track["mask"])
    video = graph.add(9, "CreateVideo", images=made["image"], fps=parts["fps"], audio=parts["audio"])
    graph.add(10, "SaveVideo", video=video["video"], filename_prefix="video/evlm", size=RESULT_SIZE)
    return graph


WORKFLOWS: Workflows = (edit_video, video_native_keyframes, video_native_inpaint)
BUNDLED = ("edit_video",)
