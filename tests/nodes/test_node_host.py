"""Memory, cancel and folders, on the stand-in."""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management as mm
import folder_paths
import pytest
import torch
from standin import call, part
from torch import nn

ROOT = Path(__file__).resolve().parents[2]


class Engine:
    def __init__(self, device: torch.device) -> None:
        self.module = nn.Linear(100, 100)
        self.device = device


def managed(**how: Any) -> Any:
    return part("nodes.host").Managed("toy", Engine, lambda e: [e.module], "detector", **how)


def test_unload_gives_the_weights_back_and_use_builds_them_again() -> None:
    model = managed()
    assert model.size == 100 * 101 * 4
    with model.use() as engine:
        gone = weakref.ref(engine.module)
        with model.use() as same:
            assert same is engine
        weights = weakref.ref(engine.module.weight)
    del engine, same
    mm.unload_all_models()
    assert weights() is None  # at once
    gc.collect()
    assert gone() is None
    with model.use() as engine:
        assert isinstance(engine, Engine)


def test_unloading_lets_no_other_model_drop_out_of_the_list() -> None:
    """ComfyUI pops from its list by numbers that it found before it unloaded."""

    def clean() -> None:
        mm.current_loaded_models[:] = [each for each in mm.current_loaded_models if each.model is not None]

    gc.collect()
    gc.disable()
    try:
        model, forgotten = managed(), managed()
        forgotten.circle = forgotten
        weakref.finalize(forgotten._patcher, clean)
        before = list(mm.current_loaded_models)
        del forgotten
        next(each for each in before if each.model is model._patcher).model_unload()
        assert model._engine is None
        assert mm.current_loaded_models == before
    finally:
        gc.enable()
    gc.collect()
    assert len(mm.current_loaded_models) < len(before)


def test_a_forgotten_model_frees_itself() -> None:
    model = managed()
    with model.use() as engine:
        gone = weakref.ref(engine.module)
    del engine, model
    gc.collect()
    assert gone() is None


def test_cancel_unloads_what_the_run_had_loaded_and_keeps_the_rest() -> None:
    model = managed()
    with pytest.raises(mm.InterruptProcessingException), model.use():
        raise mm.InterruptProcessingException
    assert any(each.model is model._patcher for each in mm.current_loaded_models)  # it was loaded before
    mm.unload_all_models()
    with pytest.raises(mm.InterruptProcessingException), model.use():
        raise mm.InterruptProcessingException
    assert not any(each.model is model._patcher for each in mm.current_loaded_models)


def test_weights_move_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mm, "get_torch_device", lambda: torch.device("meta"))
    model = managed()
    assert next(model._engine.module.parameters()).device.type == "cpu"
    with model.use() as engine:
        assert next(engine.module.parameters()).device.type == "meta"
        assert model._patcher.partially_unload("cpu", 1) == 0


class Keeping(Engine):
    """Keeps something beside its weights."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.kept_bytes = 0

    def forget(self) -> None:
        self.kept_bytes = 0


def test_what_an_engine_keeps_is_counted_goes_first_and_leaves_with_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for device in ("cpu", "meta"):  # weights that are dropped, and weights that move
        monkeypatch.setattr(mm, "unet_offload_device", lambda device=device: torch.device(device))
        model = part("nodes.host").Managed(
            "toy", Keeping, lambda e: [e.module], "reasoner", kept=lambda engine: engine
        )
        with model.use() as engine:
            engine.kept_bytes = 1000
        assert model._patcher.model_size() == model.size + 1000
        assert model._patcher.partially_unload("cpu", 500) == 1000
        assert engine.kept_bytes == 0
        engine.kept_bytes = 1000
        mm.unload_all_models()
        assert engine.kept_bytes == 0
        assert model._patcher.model_size() == model.size


def test_a_second_prompt_on_a_picture_finds_it_until_it_is_unloaded() -> None:
    model = call("EVLM_LoadModel").args[0]
    with model.use() as engine:
        engine.prefixes.nbytes = 5
        assert model.kept_bytes() == 5
    mm.unload_all_models()
    assert engine.prefixes.nbytes == 0


def test_cancel_stops_within_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = call("EVLM_LoadModel").args[0]
    image, references, prompt, _ = call("EVLM_Example", which="1-reference").args
    host, pieces = part("nodes.host"), []
    real = host.Typing.__call__

    def typing(self: Any, piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 5:
            mm.interrupt_current_processing()
        real(self, piece)

    monkeypatch.setattr(host.Typing, "__call__", typing)
    with pytest.raises(mm.InterruptProcessingException):
        call("EVLM_Reason", model=model, image=image, prompt=prompt, references=references)
    assert len(pieces) == 5


def test_text_goes_to_the_browser_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    import server
    from comfy_execution.utils import CurrentNodeContext

    sent: list[tuple[str, dict[str, Any]]] = []
    fake = type(
        "Server",
        (),
        {
            "client_id": "me",
            "send_sync": lambda self, event, data, sid: sent.append((event, {**data, "sid": sid})),
        },
    )()
    monkeypatch.setattr(server.PromptServer, "instance", fake)
    model = call("EVLM_LoadModel").args[0]
    image, references, prompt, _ = call("EVLM_Example", which="1-reference").args
    with CurrentNodeContext("p", "5:3"):
        reasoned = call("EVLM_Reason", model=model, image=image, prompt=prompt, references=references)
    assert {(event, data["node"], data["sid"]) for event, data in sent} == {("evlm.trace", "5:3", "me")}
    last = sent[-1][1]
    assert last["done"] and last["text"] == reasoned.args[4][0]
    assert all(last["text"].startswith(data["text"]) for _, data in sent)


@pytest.mark.parametrize("size", [(2048, 2), (1, 4000), (1, 1), (64, 64)], ids=str)
def test_a_preview_of_any_size_can_be_sent(size: tuple[int, int]) -> None:
    """ComfyUI scales it so; an error there ends the whole server."""
    from comfy import utils
    from PIL import ImageOps

    sent: list[Any] = []
    utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: sent.append(preview))
    try:
        part("nodes.host").Progress(1).end(torch.rand(1, *size, 3))
    finally:
        utils.set_progress_bar_global_hook(None)
    kind, picture, longest = sent[-1]
    shown = ImageOps.contain(picture, (longest, longest))
    assert kind == "JPEG" and min(shown.size) >= 1 and max(shown.size) == longest


@pytest.fixture()
def base(tmp_path: Path) -> Any:
    folder_paths.use(tmp_path)
    part("nodes.folders").register()
    yield tmp_path
    folder_paths.use(tmp_path / "gone")
    part("nodes.folders").register()


def test_models_are_found_where_users_keep_them(base: Path) -> None:
    folders = part("nodes.folders")
    bundled = ROOT / "evlm" / "bundled"
    places = {"reasoner": "LLM/Qwen/tiny", "segmenter": "sam2/tiny", "editor": "diffusers/tiny",
              "detector": "evlm/owl"}  # fmt: skip
    for role, name in places.items():
        shutil.copytree(bundled / role, base / "models" / name)
        assert folders.find(role, name) == base / "models" / name
        until = time.monotonic() + 60  # the list is made beside the server
        while name not in folders.models(role):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert next(iter(folders.models(role))) == "bundled"
        others = places.keys() - {role}
        assert not any(name in folders.models(other) for other in others)
    model = call("EVLM_LoadSegmenter", model="sam2/tiny").args[0]
    assert model.size > 1e6


def test_a_missing_model_says_what_to_do(base: Path) -> None:
    error = part("evlm.errors").ModelError
    with pytest.raises(error, match=r"`download`.*4\.4 GB.*Apache-2\.0.*models/evlm/qwen2-vl-2b") as caught:
        call("EVLM_LoadModel", model="qwen2-vl-2b")
    assert "R to refresh" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../../etc", "/etc/passwd", "https://x/y", "evil/model@" + "0" * 40, "\\\\h\\s", 7, ""]
)
def test_a_name_is_never_a_path(base: Path, name: Any) -> None:
    load = part("nodes.load")
    for node in (load.LoadDetector, load.LoadSegmenter, load.LoadEditor):
        assert "choose one of" in node.validate_inputs(model=name)
    assert "choose one of" in load.LoadModel.validate_inputs(model=name)
    for inputs in ({"model": name}, {"model": "bundled", "adapter": name}):
        with pytest.raises(part("evlm.errors").EVLMError, match=r"choose one of|expected text"):
            call("EVLM_LoadModel", **inputs)


def test_the_fingerprint_follows_the_content(base: Path) -> None:
    load = part("nodes.load")
    folder = base / "models" / "sam2" / "tiny"
    shutil.copytree(ROOT / "evlm" / "bundled" / "segmenter", folder)
    before = load.LoadSegmenter.fingerprint_inputs(model="sam2/tiny", dtype="auto")
    assert load.LoadSegmenter.fingerprint_inputs(model="sam2/tiny", dtype="auto") == before
    (folder / "evlm.json").write_text(json.dumps({"other": 1}))
    assert load.LoadSegmenter.fingerprint_inputs(model="sam2/tiny", dtype="auto") != before


def test_a_file_whose_name_is_no_utf8_has_a_fingerprint(tmp_path: Path) -> None:
    """Linux allows it; an error there would be raised at every queue."""
    folder = tmp_path / os.fsdecode(b"model\xff")
    file = folder / os.fsdecode(b"caf\xe9.json")
    try:
        folder.mkdir()
        file.write_text("{}")
    except OSError:
        pytest.skip("this disk has names in UTF-8 alone")
    asked = {
        "folder": lambda: part("nodes.folders").fingerprint(folder),
        "cameras": lambda: part("nodes.scene_folders").fingerprint(folder),
        "key": lambda: part("nodes.unfinished").key_of(file),
    }
    before = {name: ask() for name, ask in asked.items()}
    assert before == {name: ask() for name, ask in asked.items()}
    file.write_text("[1]")
    assert all(ask() != before[name] for name, ask in asked.items())
    file.rename(folder / os.fsdecode(b"caf\xe8.json"))
    assert len({before["folder"], asked["folder"](), asked["cameras"]()}) == 3


def test_a_linked_name_does_not_change_the_fingerprint(base: Path) -> None:
    """(C15) ComfyUI gives None for it; an error there loads the model at every queue."""
    load, together = part("nodes.load"), part("nodes.load_all").LoadAll.fingerprint_inputs
    for node in (load.LoadDetector, load.LoadSegmenter, load.LoadEditor):
        assert node.fingerprint_inputs(model=None, dtype="auto") == "linked"
    assert load.LoadModel.fingerprint_inputs(model=None, adapter=None) == "linked linked"
    of_the_set = part("nodes.load_all").OF_THE_SET
    names = dict.fromkeys(("reasoner", "detector", "segmenter", "editor"), of_the_set)
    known = together(models="bundled", adapter="none", **names).split()
    assert together(models=None, adapter=None, **names) == " ".join(["linked"] * 5)
    one = together(models="bundled", adapter="none", **{**names, "editor": None}).split()
    assert one == [*known[:3], "linked", known[4]]


def test_others_go_before_weights_that_stay_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """(C16) Weights of 4 bits are made on the card, and it was full of other models."""
    done: list[Any] = []
    monkeypatch.setattr(mm, "get_torch_device", lambda: torch.device("meta"))
    monkeypatch.setattr(
        mm, "free_memory", lambda size, device: done.append((size, str(device))), raising=False
    )

    class Made(Engine):
        def __init__(self, device: torch.device) -> None:
            done.append("made")
            super().__init__(device)

    make = part("nodes.host").Managed
    make("toy", Made, lambda e: [e.module], "reasoner", moves=False, room=12345)
    assert done[:2] == [(12345, "meta"), "made"]
    done.clear()
    make("toy", Made, lambda e: [e.module], "reasoner", room=0)
    assert done[0] == "made"


def test_auto_on_a_cpu_is_the_engines_choice() -> None:
    """(C17) A reasoner of 16 GB was computed in float32."""
    dtype_for = part("nodes.host").dtype_for
    assert dtype_for("auto") == "auto" and dtype_for("auto", half="fp16") == "auto"
    assert dtype_for("bf16") == "bf16"


def test_a_reasoner_gets_room_for_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """(C18) Half a GB, whatever was looked at."""
    from contextlib import contextmanager

    asked: list[int] = []
    host, request = part("nodes.host"), part("evlm.request")
    model = call("EVLM_LoadModel").args[0]
    use = host.Managed.use

    @contextmanager
    def watched(self: Any, working: int = host.WORKING) -> Any:
        asked.append(working)
        with use(self, working) as engine:
            yield engine

    monkeypatch.setattr(host.Managed, "use", watched)
    with model.use() as engine:
        small = request.Request(torch.rand(1, 64, 64, 3), "red")
        large = request.Request(torch.rand(8, 256, 256, 3), "red", fps=8.0)
        assert 0 < engine.working_bytes(small, 8) < engine.working_bytes(small, 4000)
        assert engine.working_bytes(small) < engine.working_bytes(large)
        monkeypatch.setattr(type(engine), "working_bytes", lambda self, request, most: 1 << 30)
    scene = part("evlm.files.pictures").load_picture(request.EXAMPLES / "1-reference.png").view(1, 64, 64, 3)
    call("EVLM_Reason", model=model, image=scene, prompt="make it rain", max_new_tokens=300)
    assert asked[1:] == [host.WORKING, 1 << 30]


def test_a_remote_model_is_checked_when_the_workflow_is() -> None:
    node = part("nodes.remote").RemoteModel
    assert node.validate_inputs(endpoint="https://api.example.com/v1") is True
    for endpoint in ("file:///etc/passwd", "https://", "http://a b/v1", "http://host/v1?key=1"):
        assert isinstance(node.validate_inputs(endpoint=endpoint), str)
    with pytest.raises(part("evlm.errors").RequestError, match="expected the name"):
        call("EVLM_RemoteModel", endpoint="https://api.example.com/v1", model=" ")


def test_trust_reaches_the_remote_model_and_old_workflows_have_none() -> None:
    where = {"endpoint": "https://api.example.com/v1", "model": "m", "timeout": 9}
    assert part("nodes.remote").RemoteModel.execute(**where).args[0].trust == "base"
    pasted = where | {"model": f" {where['model']}\n"}
    assert call("EVLM_RemoteModel", **pasted).args[0].model == where["model"]
    assert call("EVLM_RemoteModel", **where, trust="tuned").args[0].trust == "tuned"
    with pytest.raises(part("evlm.errors").RequestError, match="expected one of base, tuned"):
        call("EVLM_RemoteModel", **where, trust="yes")


def test_where_a_run_is_by_either_hosts_name_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork that installs by pip says task_id for ComfyUI's prompt_id."""
    import comfy_execution.utils as utils

    host = part("nodes.host")
    assert host.place() is None
    for name in ("prompt_id", "task_id"):
        context = SimpleNamespace(**{name: "p-1"}, node_id=7, list_index=None)
        monkeypatch.setattr(utils, "get_executing_context", lambda context=context: context)
        assert host.place() == ("p-1", "7", 0) and host.node_id() == "7"


def test_a_model_that_another_one_displaces_while_it_works_comes_back() -> None:
    """A detector that is asked while a tracker follows may take its place on a small card."""

    class Model:
        here = False

        @contextmanager
        def use(self) -> Any:
            self.here = True
            yield self

        def track(self, frames: range, find: Any) -> list[int]:
            found = []
            for frame in frames:
                found += find(frame)
                assert self.here
            return found

    model = Model()

    def find(frame: int) -> list[int]:
        model.here = False
        return [frame]

    assert part("nodes.borrowed").Borrowed(model, "track").track(range(2), find=find) == [0, 1]
