"""Workflows that edit a picture."""

from __future__ import annotations

from typing import Any

from described_parts import (
    ABSENT,
    CAUSE,
    IP2P_FILE,
    OUR_FILES,
    QUICK_SIZE,
    REAL,
    REFERENCE,
    RESULT_SIZE,
    WORDS,
    Workflows,
    add_composite,
    add_edit,
    add_plan_and_mask,
    add_quick,
    add_reason,
    add_sampler,
)
from model_files import IP2P, QWEN2_VL_7B, QWEN_IMAGE_EDIT
from ui_graph import Definitions, Graph


def quickstart(definitions: Definitions) -> Graph:
    """Runs as it is: every model lies in the pack."""
    graph = Graph(
        "quickstart",
        "## Quickstart\n\nPress *Run*. It takes seconds, on a CPU too.\n\n**Files:** none.\n\n"
        "A picture, a reference and two words go into **Quick Edit**. It finds out what is meant, writes it "
        "down as a plan, finds the place, and paints there and nowhere else.\n\n"
        "To look first: set `stop` to *stop at the plan*. Change the words, or draw a mask; set it back to "
        "*paint*: it goes on without reasoning again.\n\n"
        "**Your photographs:** choose *photo-8gb* in **Load All** and turn `download` on once (9.6 GB); the "
        "bundled models know only a drawn world. Put **Load Image** in the place of **Example**.\n\n"
        "Each step as a node of its own: the template *step_by_step*.",
        definitions,
        note_height=560,
    )
    models = graph.add(1, "EVLM_LoadAll")
    example = graph.add(1, "EVLM_Example", which=REFERENCE)
    edit = graph.add(
        2,
        "EVLM_QuickEdit",
        pipe=models["pipe"],
        image=example["image"],
        prompt="like this",
        references=example["references"],
        size=QUICK_SIZE,
    )
    edited = graph.add(3, "PreviewImage", title="Edited", images=edit["image"], size=RESULT_SIZE)
    graph.add(3, "PreviewImage", title="Plan: boxes and mask", images=edit["preview"], size=RESULT_SIZE)
    asked = [(example, "which"), (edit, "prompt"), (edit, "seed"), (edit, "evlm_trace")]
    graph.show_as_app(asked, [edited])
    return graph


def step_by_step(definitions: Definitions) -> Graph:
    """The five steps, a node each; the loaders stand below the step that follows them."""
    graph = Graph(
        "step_by_step",
        "## Step by step\n\nThe quickstart's edit, a node for each step. It runs as it is.\n\n"
        "**Reason** finds out what is meant and writes it down as a plan; **Ground** finds the thing that it "
        "names, **Segment** its outline, **Edit** paints there and nowhere else.\n\n"
        "Each step can be replaced: the boxes by another detector's, the mask by a drawn one, the editor by "
        "core's own sampling (see *native_sampling* and *qwen_image_edit*).\n\n"
        "The picture travels with its plan: the later steps take it from **Reason**, so that a batch of "
        "pictures meets its own plans.\n\n**Files:** none.",
        definitions,
        note_height=520,
    )
    example = graph.add(1, "EVLM_Example", which=REFERENCE)
    model = graph.add(1, "EVLM_LoadModel")
    reason = add_reason(graph, 2, model, example["image"], "like this", example["references"])
    add_edit(graph, 3, reason["image"], reason["plan"])
    graph.add(6, "PreviewImage", title="Reference", images=example["reference"], size=RESULT_SIZE)
    return graph


def edit_2d_qwen2vl_sam2_ip2p(definitions: Definitions) -> Graph:
    """The paper's chain on photographs."""
    graph = Graph(
        "edit_2d_qwen2vl_sam2_ip2p",
        "## Edit a photograph by a reference\n\nThe chain of the EVLM paper: Qwen2-VL reasons, Grounding "
        "DINO finds, SAM 2 outlines, InstructPix2Pix paints.\n\n"
        "1. Choose the **original** and the **reference**.\n"
        "2. Say in one to four words what you want, or nothing where the reference says it.\n3. Queue.\n\n"
        f"**Files:**\n{OUR_FILES}- {IP2P_FILE}\n\n"
        f"{ABSENT} With less than 20 GB of VRAM set `quantize` to 4bit, or take qwen2-vl-2b.",
        definitions,
        note_height=540,
    )
    original = graph.add(1, "LoadImage", title="Original", image="example.png")
    reference = graph.add(1, "LoadImage", title="Reference", image="example.png")
    model = graph.add(2, "EVLM_LoadModel", model="qwen2-vl-7b", models=QWEN2_VL_7B)
    shown = graph.add(2, "EVLM_Reference", kind="image", image=reference["image"])
    reason = add_reason(graph, 3, model, original["image"], "like this", shown["references"])
    add_edit(graph, 4, reason["image"], reason["plan"], REAL)
    return graph


def native_sampling(definitions: Definitions) -> Graph:
    """Core's own sampler makes the edit; ours say what and where."""
    graph = Graph(
        "native_sampling",
        "## Sample with ComfyUI's own nodes\n\nThe plan's instruction becomes the positive prompt of core's "
        "**InstructPixToPixConditioning** and **KSampler**, so that every sampler, LoRA and control of core "
        "works; **Composite in Mask** keeps the rest of the picture as it was.\n\n"
        f"**Files:**\n{OUR_FILES}- {IP2P_FILE}\n\n"
        f"{ABSENT} The checkpoint was trained on 512 × 512; the picture is cut to that first.",
        definitions,
        note_height=480,
    )
    original = graph.add(1, "LoadImage", title="Original", image="example.png")
    size: dict[str, Any] = {"width": 512, "height": 512, "crop": "center", "upscale_method": "lanczos"}
    scaled = graph.add(2, "ImageScale", image=original["image"], **size)
    reason, mask = add_plan_and_mask(graph, 2, scaled["image"])
    loaded = graph.add(5, "CheckpointLoaderSimple", ckpt_name=IP2P[0]["name"], models=IP2P)
    text = reason["instruction"]
    positive = graph.add(6, "CLIPTextEncode", title="Positive", clip=loaded["clip"], text=text)
    negative = graph.add(6, "CLIPTextEncode", title="Negative", clip=loaded["clip"], text="")
    both = graph.add(
        7,
        "InstructPixToPixConditioning",
        positive=positive["conditioning"],
        negative=negative["conditioning"],
        vae=loaded["vae"],
        pixels=reason["image"],
    )
    how: dict[str, Any] = {"cfg": 7.5, "sampler_name": "euler_ancestral", "scheduler": "normal"}
    given = (both["positive"], both["negative"], both["latent"])
    sampled = add_sampler(graph, 8, loaded["model"], *given, **how)
    add_composite(graph, 9, sampled, loaded["vae"], reason["image"], mask)
    return graph


def qwen_image_edit(definitions: Definitions) -> Graph:
    """A large editor of core makes the edit."""
    graph = Graph(
        "qwen_image_edit",
        "## Feed Qwen-Image-Edit\n\nA large editor follows an instruction well, but not a hint: EVLM turns "
        "the vague request into one clear sentence, and **Composite in Mask** keeps what was not meant.\n\n"
        "**Files:**\n- qwen_image_edit_fp8_e4m3fn.safetensors \u2192 `models/diffusion_models`\n"
        "- qwen_2.5_vl_7b_fp8_scaled.safetensors \u2192 `models/text_encoders`\n"
        f"- qwen_image_vae.safetensors \u2192 `models/vae`\n{OUR_FILES}\n{ABSENT} Flux Kontext goes into "
        "the same place: its loaders, core's ReferenceLatent and FluxGuidance. **EVLM Native Editor** does "
        "all this in one node, as the editor of **EVLM Load All**.",
        definitions,
        note_height=540,
    )
    original = graph.add(1, "LoadImage", title="Original", image="example.png")
    scaled = graph.add(2, "FluxKontextImageScale", image=original["image"])
    reason, mask = add_plan_and_mask(graph, 2, scaled["image"])
    unet, clip, vae = QWEN_IMAGE_EDIT
    model = graph.add(5, "UNETLoader", unet_name=unet["name"], weight_dtype="default", models=[unet])
    texts = graph.add(5, "CLIPLoader", clip_name=clip["name"], type="qwen_image", models=[clip])
    coder = graph.add(5, "VAELoader", vae_name=vae["name"], models=[vae])
    shifted = graph.add(6, "ModelSamplingAuraFlow", model=model["model"], shift=3.0)
    seen: dict[str, Any] = {"clip": texts["clip"], "vae": coder["vae"], "image": reason["image"]}
    kind = "TextEncodeQwenImageEdit"
    positive = graph.add(6, kind, title="Positive", prompt=reason["instruction"], **seen)
    negative = graph.add(6, kind, title="Negative", prompt="", **seen)
    normed = graph.add(7, "CFGNorm", model=shifted["model"], strength=1.0)
    latent = graph.add(7, "VAEEncode", pixels=reason["image"], vae=coder["vae"])
    how: dict[str, Any] = {"cfg": 2.5, "sampler_name": "euler", "scheduler": "simple"}
    given = (positive["conditioning"], negative["conditioning"], latent["latent"])
    sampled = add_sampler(graph, 8, normed["patched_model"], *given, **how)
    add_composite(graph, 9, sampled, coder["vae"], reason["image"], mask)
    return graph


def several_references(definitions: Definitions) -> Graph:
    """References are chained: a picture says how, a text says which."""
    graph = Graph(
        "several_references",
        "## Several references\n\n**Reference** nodes are chained: each one adds a picture, a video, a depth "
        "map or a text to those before it. Here a picture shows a green cross, and a text says that its "
        "colour alone is meant, and for which thing.\n\nThe `note` of a reference tells the model "
        "what to look at.\n\n**Files:** none, it runs as it is.",
        definitions,
    )
    example = graph.add(1, "EVLM_Example", which=REFERENCE)
    picture = graph.add(2, "EVLM_Reference", title="A picture", kind="image", image=example["reference"])
    models = graph.add(3, "EVLM_LoadAll")
    text = graph.add(
        3,
        "EVLM_Reference",
        title="A text",
        kind="text",
        text="only the colour of the blue ring",
        references=picture["references"],
    )
    add_quick(graph, 4, models, example["image"], "like this", text["references"])
    return graph


def what_if(definitions: Definitions) -> Graph:
    """A request that names a cause; the plan says what follows, one step after the other."""
    graph = Graph(
        "what_if",
        "## What if ...?\n\nThe words name a cause and no edit: *what if the square were taken away?* The "
        "reasoner finds out what follows, here two steps: the square goes, and what stood on it falls. Each "
        "step is grounded and painted by itself; outside both places no pixel changes.\n\n"
        "Try other causes: *tonight*, *what if the diamond were dropped?*, *someone pushed the diamond "
        "left*.\n\n**Files:** none, it runs as it is.\n\n"
        "**Your photographs:** choose *photo-8gb* in **Load All**; how well a general model guesses what "
        "follows was not measured here.",
        definitions,
        note_height=480,
    )
    example = graph.add(1, "EVLM_Example", which=CAUSE)
    models = graph.add(1, "EVLM_LoadAll")
    edit = add_quick(graph, 2, models, example["image"], "what if the square were taken away ?")
    graph.add(3, "PreviewImage", title="Plan: boxes and mask", images=edit["preview"], size=RESULT_SIZE)
    return graph


def remote_reasoner(definitions: Definitions) -> Graph:
    """The reasoner behind an OpenAI-compatible endpoint."""
    graph = Graph(
        "remote_reasoner",
        "## A reasoner somewhere else\n\n**Remote EVLM** speaks to any OpenAI-compatible server that takes "
        "pictures: vLLM, llama.cpp, a hosted one. It is sent the picture, the references and the prompt.\n\n"
        "What a workflow may not decide is set in ComfyUI's environment:\n"
        "- `EVLM_API_KEY`: the key, where one is needed\n"
        "- `EVLM_ALLOW_PRIVATE_ENDPOINTS=1`: addresses in this machine or its network, as here\n\n"
        "**Files:** none here. The server: `vllm serve Qwen/Qwen2.5-VL-7B-Instruct`.",
        definitions,
        note_height=460,
    )
    model = graph.add(
        1, "EVLM_RemoteModel", endpoint="http://127.0.0.1:8000/v1", model="Qwen/Qwen2.5-VL-7B-Instruct"
    )
    models = graph.add(2, "EVLM_LoadAll", custom_reasoner=model["model"])
    example = graph.add(2, "EVLM_Example", which=WORDS)
    add_quick(graph, 3, models, example["image"], example["prompt"])
    return graph


def plan_by_hand(definitions: Definitions) -> Graph:
    """No reasoner: the plan is written by hand, or comes from another pack's text node."""
    graph = Graph(
        "plan_by_hand",
        "## A plan by hand\n\n**Plan from Text** takes a plain instruction and the things it is about, or a "
        "whole trace, and puts it where a reasoner's plan would be. Connect the text of any other language "
        "model to it, and its words enter the chain.\n\n**Plan to Text** shows what was understood.\n\n"
        "**Files:** none, it runs as it is.",
        definitions,
    )
    example = graph.add(1, "EVLM_Example", which=WORDS)
    plan = graph.add(
        2, "EVLM_PlanFromText", text="make the purple striped circle green", targets="purple striped circle"
    )
    add_edit(graph, 3, example["image"], plan["plan"])
    text = graph.add(3, "EVLM_PlanToText", plan=plan["plan"], form="json")
    graph.add(4, "PreviewAny", title="The plan", source=text["text"], size=(320, 200))
    return graph


WORKFLOWS: Workflows = (
    quickstart,
    step_by_step,
    edit_2d_qwen2vl_sam2_ip2p,
    native_sampling,
    qwen_image_edit,
    several_references,
    what_if,
    remote_reasoner,
    plan_by_hand,
)
BUNDLED = ("quickstart", "step_by_step", "several_references", "what_if", "plan_by_hand")
