"""ComfyUI's inside: memory, progress, cancel, messages. No other file of this pack imports `server`, and only
core.py and patcher.py beside it `comfy.*` (`folder_paths` is for folders.py), when they are first needed.

Models. `Managed` holds a way to build an engine (a reasoner, a detector, ...) and a `ModelPatcher` that
counts it. On an accelerator the weights move between the card and RAM as ComfyUI asks. Where they cannot move
(a CPU, 4 bit) "unload" drops them, and the next use builds them again: that is what gives the memory back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..evlm.clips.trim import trim
from .patcher import EVLMModel, make_patcher, make_room

Engine = TypeVar("Engine")
MESSAGE_EVERY = 0.1  # seconds between two texts sent to the browser
WORKING = 512 << 20  # bytes beside a model's weights where nobody knows better
PREVIEW = 512  # pixels, the longer side of a preview

log = logging.getLogger("evlm")


class Kept(Protocol):
    """What an engine keeps on its device beside its weights, and can do without."""

    @property
    def kept_bytes(self) -> int: ...

    def forget(self) -> None: ...


class Managed(Generic[Engine]):
    """An engine whose memory ComfyUI manages. It is what the model sockets carry.

    name: for messages. build(device): makes the engine. modules(engine): its weights.
    role: "reasoner", "detector", "segmenter" or "editor".
    moves: False for weights that stay where they were made (4 bit); room: for so many bytes of them others
    go first. kept(engine): what is counted with the weights, goes before them when memory is short, and
    leaves the device with them.
    said: what was loaded and how, in words that are the same when it is loaded anew; "": nobody can tell.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[torch.device], Engine],
        modules: Callable[[Engine], list[nn.Module]],
        role: str,
        moves: bool = True,
        kept: Callable[[Engine], Kept] | None = None,
        said: str = "",
        room: int = 0,
    ) -> None:
        import comfy.model_management as mm

        self.name, self.role, self.said = name, role, said
        self._build, self._modules, self._kept = build, modules, kept
        self._engine: Engine | None = None
        self.load_device: torch.device = mm.get_torch_device()
        offload: torch.device = mm.unet_offload_device()
        self._moves = moves and self.load_device != offload
        if not self._moves:
            offload = self.load_device
            if room and offload.type != "cpu":
                make_room(room)
        self._shell = EVLMModel(offload)
        self._make(offload)  # a file that does not fit is the loader's error, not a later node's
        size = sum(t.nbytes for m in modules(self._need()) for t in m.state_dict().values())
        self._patcher = make_patcher(self._shell, self.load_device, offload, max(1, size), self)
        if not self._moves:
            mm.load_models_gpu([self._patcher])  # counted from now on, and gone with "Unload Models"

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return int(self._patcher.size)

    @contextmanager
    def use(self, working: int = WORKING) -> Iterator[Engine]:
        """The engine on its device, with `working` bytes beside it for activations. A run that is cancelled
        leaves it as it was: what was not loaded before is unloaded again."""
        import comfy.model_management as mm

        before = any(each.model is self._patcher for each in mm.current_loaded_models)
        mm.load_models_gpu([self._patcher], memory_required=working)
        if self._engine is None:
            self._make(self.load_device)
        try:
            yield self._need()
        except _cancelled():
            if not before:
                self.unload()
            raise

    def unload(self) -> None:
        """As ComfyUI's "Unload Models", for this one."""
        import comfy.model_management as mm

        ours = [each for each in mm.current_loaded_models if each.model is self._patcher]
        mm.current_loaded_models[:] = [each for each in mm.current_loaded_models if each not in ours]
        for each in ours:
            each.model_unload()
        mm.soft_empty_cache()

    def _need(self) -> Engine:
        if self._engine is None:
            raise RuntimeError(f"{self.name} is not loaded")
        return self._engine

    def _make(self, device: torch.device) -> None:
        self._engine = self._build(device)
        if self._moves:
            self._shell.parts.extend(self._modules(self._engine))

    def kept_bytes(self) -> int:
        """Of what the engine keeps beside its weights."""
        return 0 if self._engine is None or self._kept is None else self._kept(self._engine).kept_bytes

    def forget(self) -> int:
        """Drops what the engine keeps beside its weights; so many bytes are free then."""
        size = self.kept_bytes()
        if size and self._engine is not None and self._kept is not None:
            self._kept(self._engine).forget()
        return size

    def drop(self) -> None:
        """The model leaves the device."""
        self.forget()
        if self._moves or self._engine is None:
            return
        # The weights go now, whoever holds a module. By gc.collect() dead models, too, would drop out of
        # ComfyUI's list, which it is walking by number.
        for part in (part for module in self._modules(self._engine) for part in module.modules()):
            part._parameters.clear()
            part._buffers.clear()
        self._engine = None
        trim()


def free_memory() -> None:
    """As ComfyUI's "Unload Models": every model leaves the device, those of other packs too."""
    import gc

    import comfy.model_management as mm

    mm.unload_all_models()
    gc.collect()
    mm.soft_empty_cache()
    trim()


def device_name() -> str:
    """Where ComfyUI computes, as torch names it: "cpu", "cuda:0", "mps"."""
    import comfy.model_management as mm

    return str(mm.get_torch_device())


def card_memory() -> float | None:
    """GB of the device on which ComfyUI computes; None where that is the CPU."""
    import comfy.model_management as mm

    device = mm.get_torch_device()
    return None if device.type == "cpu" else mm.get_total_memory(device) / 1e9


def dtype_for(dtype: str, half: str = "bf16") -> str:
    """A dtype's name. For "auto" ComfyUI's choice on its card: `half` ("bf16" or "fp16") where that is fast,
    else what is fast; on a CPU "auto", which is the engine's, by size; any other name as it is."""
    import comfy.model_management as mm

    device = mm.get_torch_device()
    if dtype != "auto" or device.type == "cpu":
        return dtype
    tests = {"bf16": mm.should_use_bf16, "fp16": mm.should_use_fp16}
    for name in (half, *(n for n in tests if n != half)):
        if tests[name](device):
            return name
    return "fp32"


def _cancelled() -> type[BaseException]:
    """ComfyUI's exception for a cancel. The fork that installs by pip has it in a module of its own."""
    import comfy.model_management as mm

    if not hasattr(mm, "InterruptProcessingException"):
        import comfy.interruption as mm
    interrupt: type[BaseException] = mm.InterruptProcessingException
    return interrupt


def check_cancelled() -> None:
    """Raises ComfyUI's own exception when the user has cancelled."""
    import comfy.model_management as mm

    mm.throw_exception_if_processing_interrupted()


class Progress:
    """The bar of the running node, with a picture where there is one; cancels as well."""

    def __init__(self, total: int) -> None:
        from comfy.utils import ProgressBar

        self._bar, self._last = ProgressBar(max(1, total)), 0.0

    def __call__(self, done: int, total: int | None = None, preview: Tensor | None = None) -> None:
        """preview: [F, h, w, 3] in 0..1; its first frame is shown."""
        check_cancelled()
        if time.monotonic() - self._last < MESSAGE_EVERY / 2 and done < (total or self._bar.total):
            return  # nobody sees more, and every picture costs
        self._last = time.monotonic()
        picture = None
        if preview is not None and len(preview):
            picture = ("JPEG", _shown(preview[0]), PREVIEW)
        self._bar.update_absolute(done, total, picture)

    def end(self, result: Tensor) -> None:
        """The page goes on showing the last preview instead of the output: let that be the result."""
        self(self._bar.total, None, result)


def _shown(frame: Tensor) -> Any:
    """A frame [h, w, 3] as large as a preview. ComfyUI's scaling leaves 0 pixels of a side that is a thousand
    times shorter than the other, and that ends the whole server."""
    from ..evlm.files.pictures import to_pil

    picture = to_pil(frame.detach().float().cpu().nan_to_num().clamp(0, 1))
    scale = PREVIEW / max(picture.size)
    return picture.resize(tuple(max(1, round(side * scale)) for side in picture.size))


class Typing:
    """Text that grows in the browser, in the running node: the event "evlm.trace".

    kept(text, begun): is told the same, for a page that comes later.
    """

    def __init__(self, kept: Callable[[str, bool], None] = lambda text, begun: None) -> None:
        self._node, self._text, self._last = node_id(), "", 0.0
        self._kept, self._begun = kept, False

    def __call__(self, piece: str) -> None:
        self._text += piece
        now = time.monotonic()
        if now - self._last >= MESSAGE_EVERY:
            self._last = now
            self._send(False)

    def done(self) -> None:
        self._send(True)

    def _send(self, done: bool) -> None:
        from server import PromptServer

        self._kept(self._text, self._begun)
        self._begun = True
        server = getattr(PromptServer, "instance", None)
        if server is not None and self._node is not None:
            data = {"node": self._node, "text": self._text, "done": done}
            server.send_sync("evlm.trace", data, server.client_id)  # to who queued it, and nobody else


def say(text: str) -> None:
    """A short text in the running node, which stays there until the page is loaded anew."""
    from server import PromptServer

    server, node = getattr(PromptServer, "instance", None), node_id()
    if server is not None and node is not None:
        server.send_progress_text(text, node, server.client_id)


def preview(frames: Tensor, cls: Any) -> Any:
    """Frames [F, h, w, 3] as what a node shows of itself."""
    from comfy_api.latest import ui

    return ui.PreviewImage(frames, cls=cls)


_told: ContextVar[list[str] | None] = ContextVar("evlm_told", default=None)


@contextmanager
def telling() -> Iterator[None]:
    """A node's run: what is told in it stands in the node together."""
    token = _told.set([])
    try:
        yield
    finally:
        _told.reset(token)


def tell(notes: Iterable[str]) -> None:
    """Decisions that a user should know: in the running node, and on the server's console."""
    told = _told.get()
    new = [note for note in dict.fromkeys(notes) if told is None or note not in told]
    for note in new:
        log.info("%s", note)
    if told is not None and new:
        told += new
        say("\n".join(told))


class Place(NamedTuple):
    """Where a run is: its id, the node's, and the item of a list that the node runs for (0: no list)."""

    prompt: str
    node: str
    item: int


def place() -> Place | None:
    """None outside a run."""
    from comfy_execution.utils import get_executing_context

    here = get_executing_context()
    if here is None:
        return None
    prompt = here.prompt_id if hasattr(here, "prompt_id") else here.task_id  # as the fork calls it
    return Place(prompt, str(here.node_id), here.list_index or 0)


def node_id() -> str | None:
    """The id of the node that runs; None outside a run."""
    here = place()
    return None if here is None else here.node


def client_id() -> str | None:
    """The page that queued the run at hand."""
    from server import PromptServer

    client = getattr(getattr(PromptServer, "instance", None), "client_id", None)
    return client if isinstance(client, str) else None


def blocked(why: str) -> Any:
    """In the place of an output: nodes behind it do not run, and the reason is shown."""
    from comfy_execution.graph_utils import ExecutionBlocker

    return ExecutionBlocker(why)


class Queued(NamedTuple):
    """workflow: its id, where the page sent one. kinds: the nodes' numbers -> their types."""

    workflow: str | None
    kinds: dict[str, str]


def running() -> dict[str, Queued]:
    """The prompts that run now."""
    from server import PromptServer

    queue = getattr(getattr(PromptServer, "instance", None), "prompt_queue", None)
    found = {}
    for item in queue.get_current_queue_volatile()[0] if queue is not None else ():
        _, prompt, graph, extra, *_ = getattr(item, "queue_tuple", item)  # the fork wraps it in a dict
        workflow = ((extra or {}).get("extra_pnginfo") or {}).get("workflow")
        name = workflow.get("id") if isinstance(workflow, dict) else None
        kinds = {str(node): str(each.get("class_type")) for node, each in graph.items()}
        found[prompt] = Queued(name if isinstance(name, str) else None, kinds)
    return found


def answer(path: str, reply: Callable[[Mapping[str, str]], dict[str, Any]], apart: bool = False) -> None:
    """Lets the server answer GET `path`: the query -> what is sent as JSON. Asked twice, it is done once.
    apart: in a thread of its own, for what takes long."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    routes = getattr(server, "routes", None)
    if routes is None or any(getattr(route, "path", None) == path for route in routes):
        return

    async def handle(request: Any) -> Any:
        from aiohttp import web

        if apart:
            return web.json_response(await asyncio.to_thread(reply, request.query))
        return web.json_response(reply(request.query))

    routes.get(path)(handle)
