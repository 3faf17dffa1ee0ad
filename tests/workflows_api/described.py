"""The workflows of this pack, each said once; tests/workflows_api/build_workflows.py writes the files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model_files import GROUNDING_DINO, IP2P, QWEN2_VL_7B, QWEN_IMAGE_EDIT, SAM2, WAN_VACE
from ui_graph import Definitions, Graph, Link, Node

Chain = dict[str, dict[str, Any]]

SAMPLE, SAMPLE_PROMPT = "evlm_moving.mp4", "pink heart"  # in ComfyUI's input folder
REFERENCE, WORDS, REMOVAL = "1-reference", "2-words", "3-removal"  # the bundled examples
TOY: Chain = {"detector": {}, "segmenter": {}, "editor": {}}
REAL: Chain = {
    "detector": {"model": "grounding-dino-tiny", "models": GROUNDING_DINO},
    "segmenter": {"model": "sam2.1-small", "models": SAM2},
    "editor": {"model": "instruct-pix2pix", "models": IP2P},
}
TRACE_SIZE, RESULT_SIZE, QUICK_SIZE = (420, 440), (380, 400), (420, 900)
OUR_FILES = (
    "- Qwen/Qwen2-VL-7B-Instruct \u2192 `models/evlm/qwen2-vl-7b`\n"
    "- IDEA-Research/grounding-dino-tiny \u2192 `models/evlm/grounding-dino-tiny`\n"
    "- sam2.1_hiera_small.safetensors \u2192 `models/sam2`\n"
)
IP2P_FILE = "instruct-pix2pix-00-22000.safetensors \u2192 `models/checkpoints`"
ABSENT = "Where one is missing, its loader says what goes where; its `download` switch fetches it instead."


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
    reason = _reason(graph, 2, model, example["image"], "like this", example["references"])
    _edit(graph, 3, reason["image"], reason["plan"])
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
    reason = _reason(graph, 3, model, original["image"], "like this", shown["references"])
    _edit(graph, 4, reason["image"], reason["plan"], REAL)
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
    reason, mask = _plan_and_mask(graph, 2, scaled["image"])
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
    sampled = _sample(graph, 8, loaded["model"], *given, **how)
    _composite(graph, 9, sampled, loaded["vae"], reason["image"], mask)
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
    reason, mask = _plan_and_mask(graph, 2, scaled["image"])
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
    sampled = _sample(graph, 8, normed["patched_model"], *given, **how)
    _composite(graph, 9, sampled, coder["vae"], reason["image"], mask)
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
    _quick(graph, 4, models, example["image"], "like this", text["references"])
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
    _quick(graph, 3, models, example["image"], example["prompt"])
    return graph


def rate_and_collect(definitions: Definitions) -> Graph:
    """Ratings become rows that the trainer reads."""
    graph = Graph(
        "rate_and_collect",
        "## Rate edits, collect data\n\nQueue, look, press thumbs up or down in **Rate Edit** and queue "
        "again: the request, the trace, the mask and the result become one row of a dataset in ComfyUI's "
        "`output` folder. While the verdict is *not rated* nothing is written.\n\n"
        "**Train** learns from it, as in the workflow *train_from_ratings*; so does `python -m trainer` in "
        "this pack's folder.\n\n"
        "**Files:** none, it runs as it is.",
        definitions,
    )
    models = graph.add(1, "EVLM_LoadAll")
    example = graph.add(1, "EVLM_Example", which=REMOVAL)
    edit = _quick(graph, 2, models, example["image"], example["prompt"], example["references"])
    _rate(graph, 3, example, edit)
    return graph


def train_from_ratings(definitions: Definitions) -> Graph:
    """Rate, train, load, reason: in one graph."""
    graph = Graph(
        "train_from_ratings",
        "## Train on your ratings\n\nThe whole circle in one queue, in a minute or two on a CPU. The bundled "
        "reasoner would *remove* the square. `instruction` and `targets` of **Quick Edit** say what was "
        "wanted instead, that edit is made, and **Rate Edit** keeps it as *good*; **Train** learns from this "
        "dataset, **Load EVLM** takes the new adapter, and **Reason** plans as you wished.\n\n"
        "It learns one answer by heart. For your own taste: collect dozens of ratings with the workflow "
        "*rate_and_collect*, put `evlm_ratings` into `dataset` of **Train** in place of the link, and set "
        "`steps` to 0.\n\nCancel when you like; the same queue goes on from there.\n\n"
        "**Files:** none, it runs as it is.",
        definitions,
        note_height=560,
    )
    models = graph.add(1, "EVLM_LoadAll")
    example = graph.add(1, "EVLM_Example", which=REMOVAL)
    wish = {"instruction": "make the yellow dotted square blue", "targets": "yellow dotted square"}
    edit = _quick(graph, 2, models, example["image"], example["prompt"], example["references"], **wish)
    rated = _rate(graph, 3, example, edit, verdict="good", dataset="evlm_first_ratings")
    trained = graph.add(
        4, "EVLM_Train", dataset=rated["folder"], steps=32, name="first_taste", size=(400, 640)
    )
    model = graph.add(5, "EVLM_LoadModel", title="Load EVLM, trained", adapter=trained["adapter"])
    again = _reason(graph, 6, model, example["image"], example["prompt"], example["references"])
    again.title = "Reason, trained"
    graph.add(7, "EVLM_ShowTrace", plan=again["plan"], size=TRACE_SIZE)
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
    _edit(graph, 3, example["image"], plan["plan"])
    text = graph.add(3, "EVLM_PlanToText", plan=plan["plan"], form="json")
    graph.add(4, "PreviewAny", title="The plan", source=text["text"], size=(320, 200))
    return graph


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
    reason = _reason(graph, 2, model, clip["video"], SAMPLE_PROMPT)
    track = _tracked(graph, 3, clip["video"], reason["plan"], TOY)
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
    reason = _reason(graph, 2, model, clip["video"], "autumn")
    track = _tracked(graph, 3, clip["video"], reason["plan"], REAL)
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
    reason = _reason(graph, 2, loader, clip["video"], "autumn")
    track = _tracked(graph, 3, clip["video"], reason["plan"], REAL)
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
    sampled = _sample(graph, 8, shifted["model"], *given, **how)
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


WORKFLOWS: tuple[Callable[[Definitions], Graph], ...] = (
    quickstart,
    step_by_step,
    edit_2d_qwen2vl_sam2_ip2p,
    native_sampling,
    qwen_image_edit,
    several_references,
    remote_reasoner,
    rate_and_collect,
    train_from_ratings,
    plan_by_hand,
    edit_video,
    video_native_keyframes,
    video_native_inpaint,
)
BUNDLED = (
    "quickstart",
    "step_by_step",
    "several_references",
    "rate_and_collect",
    "train_from_ratings",
    "plan_by_hand",
    "edit_video",
)  # need no file


def _quick(
    graph: Graph,
    column: int,
    models: Node,
    image: Link,
    prompt: Link | str,
    references: Link | None = None,
    **more: str,
) -> Node:
    """Quick Edit, and what it made beside it."""
    if references is not None:
        more["references"] = references
    edit = graph.add(
        column, "EVLM_QuickEdit", pipe=models["pipe"], image=image, prompt=prompt, size=QUICK_SIZE, **more
    )
    graph.add(column + 1, "PreviewImage", title="Edited", images=edit["image"], size=RESULT_SIZE)
    return edit


def _rate(graph: Graph, column: int, example: Node, edit: Node, **more: str) -> Node:
    asked: dict[str, Any] = {"references": example["references"], "prompt": example["prompt"], **more}
    made: dict[str, Any] = {"plan": edit["plan"], "edited": edit["image"], "mask": edit["step_masks"]}
    return graph.add(column, "EVLM_RateEdit", original=example["image"], **made, **asked)


def _reason(
    graph: Graph,
    column: int,
    model: Node,
    image: Link,
    prompt: Link | str,
    references: Link | None = None,
) -> Node:
    given: dict[str, Any] = {} if references is None else {"references": references}
    return graph.add(column, "EVLM_Reason", model=model["model"], image=image, prompt=prompt, **given)


def _found(graph: Graph, column: int, image: Link, plan: Link, chain: Chain) -> Node:
    """Segment behind Ground. Each one's loader stands below the node before it."""
    given: dict[str, Any] = {"image": image, "plan": plan}
    detector = graph.add(column - 1, "EVLM_LoadDetector", **chain["detector"])
    ground = graph.add(column, "EVLM_Ground", detector=detector["detector"], **given)
    segmenter = graph.add(column, "EVLM_LoadSegmenter", **chain["segmenter"])
    given |= {"boxes": ground["boxes"], "segmenter": segmenter["segmenter"]}
    return graph.add(column + 1, "EVLM_Segment", **given)


def _tracked(graph: Graph, column: int, clip: Link, plan: Link, chain: Chain) -> Node:
    """Track; its loaders stand below the node before it."""
    detector = graph.add(column - 1, "EVLM_LoadDetector", **chain["detector"])
    segmenter = graph.add(column - 1, "EVLM_LoadSegmenter", **chain["segmenter"])
    given: dict[str, Any] = {"detector": detector["detector"], "segmenter": segmenter["segmenter"]}
    return graph.add(column, "EVLM_Track", clip=clip, plan=plan, **given)


def _edit(graph: Graph, column: int, image: Link, plan: Link, chain: Chain = TOY) -> None:
    """The mask, Edit, and the edited picture, shown large."""
    mask = _found(graph, column, image, plan, chain)["step_masks"]
    editor = graph.add(column + 1, "EVLM_LoadEditor", **chain["editor"])
    given: dict[str, Any] = {"image": image, "plan": plan, "mask": mask, "editor": editor["editor"]}
    edited = graph.add(column + 2, "EVLM_Edit", **given)["image"]
    graph.add(column + 3, "PreviewImage", title="Edited", images=edited, size=RESULT_SIZE)


def _plan_and_mask(graph: Graph, column: int, image: Link) -> tuple[Node, Link]:
    """(Reason, mask) by real models, for an editor that is not ours."""
    model = graph.add(column, "EVLM_LoadModel", model="qwen2-vl-7b", models=QWEN2_VL_7B)
    reason = _reason(graph, column + 1, model, image, "autumn")
    return reason, _found(graph, column + 2, reason["image"], reason["plan"], REAL)["mask"]


def _sample(
    graph: Graph, column: int, model: Link, positive: Link, negative: Link, latent: Link, **how: Any
) -> Link:
    given: dict[str, Any] = {"positive": positive, "negative": negative, "latent_image": latent}
    return graph.add(column, "KSampler", model=model, **given, **how)["latent"]


def _composite(graph: Graph, column: int, sampled: Link, vae: Link, original: Link, mask: Link) -> None:
    decoded = graph.add(column - 1, "VAEDecode", samples=sampled, vae=vae)
    made = graph.add(column, "EVLM_Composite", original=original, edited=decoded["image"], mask=mask)
    graph.add(column + 1, "PreviewImage", title="Edited", images=made["image"], size=RESULT_SIZE)
