"""Hostile workflows in process, on the stand-in; tests/hostile_server.py sends 300 to a real ComfyUI."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import core_nodes
import hostile
import pytest
import standin
import torch
from comfy_api.input_impl import VideoComponents, VideoFromComponents
from hostile_server import CANARY, SECRET, TRAINED, judge, lay_out

TESTS = Path(__file__).resolve().parent
COUNT = 60
CONVERT = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


class Refused(Exception):
    """What core's validation says before anything runs."""


class Miniature:
    """As much of ComfyUI 0.3.64's execution as these graphs need: converts, checks, runs, keeps results."""

    def __init__(self) -> None:
        self.classes, self.info = standin.nodes(), standin.object_info()
        self.kept: dict[str, Any] = {}

    def answer(self, graph: hostile.GraphDict) -> tuple[str, str, str | None]:
        """As `hostile_server` has it: how it ended, the message, the exception's type."""
        end = list(graph)[-1] if "other" not in graph else list(graph)[-2]
        try:
            for name in graph:
                self._validate(graph, name)
        except Refused as refusal:
            return "validation", str(refusal), None
        try:
            self._result(graph, end)
        except Exception as error:
            return "execution", str(error), f"{type(error).__module__}.{type(error).__name__}"
        return "harmless", "", None

    def _validate(self, graph: hostile.GraphDict, name: str) -> None:
        node = graph[name]
        if node["class_type"] not in self.classes:
            return
        kind = self.classes[node["class_type"]]
        given: dict[str, Any] = {}
        for key, (io_type, options) in hostile.specs(self.info[node["class_type"]]):
            if key not in node["inputs"]:
                continue
            value = node["inputs"][key]
            if isinstance(value, list):
                if len(value) != 2 or not isinstance(value[0], str) or value[0] not in graph:
                    raise Refused(f"bad linked input, expected [node_id, slot_index]: {key}")
                source = graph[value[0]]["class_type"]
                outputs = self.info[source]["output"] if source in self.info else None
                if not isinstance(value[1], int) or (
                    outputs and not -len(outputs) <= value[1] < len(outputs)
                ):
                    raise Refused(f"bad linked input, there is no such output: {key}")
                if outputs and outputs[value[1]] not in io_type.split(","):
                    raise Refused(f"return type mismatch between linked nodes: {key}")
                given[key] = None
                continue
            if isinstance(value, dict) and "__value__" in value:
                value = value["__value__"]
            try:
                value = node["inputs"][key] = CONVERT.get(io_type, lambda same: same)(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise Refused(f"failed to convert an input value: {key}, {value!r:.100}, {error}") from None
            if io_type in ("INT", "FLOAT") and (
                value < options.get("min", value) or value > options.get("max", value)
            ):
                raise Refused(f"value out of bounds, smaller than min or bigger than max: {key}")
            given[key] = value
        # Core asks a node only about the inputs that its own check names.
        if "validate_inputs" in vars(kind):
            asked = list(inspect.signature(kind.validate_inputs).parameters)
            verdict = kind.validate_inputs(**{key: given.get(key) for key in asked})
            if verdict is not True:
                raise Refused(f"custom validation failed for node: {', '.join(asked)} - {verdict}")

    def _result(self, graph: hostile.GraphDict, name: str) -> list[Any]:
        node = graph[name]
        key = _signature(graph, name)
        if key in self.kept:
            return self.kept[key]
        given = {}
        for each, value in node["inputs"].items():
            given[each] = self._result(graph, value[0])[value[1]] if _is_link(graph, value) else value
        if node["class_type"] in self.classes:
            kind = self.classes[node["class_type"]]
            outputs = [
                value[0] if output.is_output_list and value else value
                for output, value in zip(kind.GET_SCHEMA().outputs, kind.execute(**given).args, strict=True)
            ]
        elif node["class_type"] == "TinyCoreModels":
            outputs = [core_nodes.Patcher("SD15_instructpix2pix"), core_nodes.Clip(), core_nodes.Vae()]
        else:
            outputs = [_of_core(node["class_type"], given)]
        if node["class_type"] != "EVLM_RateEdit":
            self.kept[key] = outputs
        return outputs


def _of_core(kind: str, given: dict[str, Any]) -> Any:
    if kind == "SolidMask":
        return torch.full((1, given["height"], given["width"]), given["value"])
    if kind == "EmptyImage":
        return torch.full((given["batch_size"], given["height"], given["width"], 3), 0.5)
    if kind == "CreateVideo":
        return VideoFromComponents(VideoComponents(given["images"], Fraction(given["fps"])))
    if kind == "RepeatImageBatch":
        return given["image"].repeat(given["amount"], 1, 1, 1)
    return None  # a preview


def _is_link(graph: hostile.GraphDict, value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in graph


def _signature(graph: hostile.GraphDict, name: str) -> str:
    node = graph[name]
    inputs = {
        key: [_signature(graph, value[0]), value[1]] if _is_link(graph, value) else repr(value)
        for key, value in node["inputs"].items()
    }
    return json.dumps([node["class_type"], inputs], sort_keys=True)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ComfyUI's folders with the canary beside them, and this process watched."""
    import folder_paths

    folder = tmp_path_factory.mktemp("hostile").resolve()
    lay_out(folder)
    before = folder_paths.base_path
    folder_paths.use(folder / "base")
    # An audit hook stays, deaf after these tests: its file goes with this folder.
    spec = importlib.util.spec_from_file_location("guard", TESTS / "hostile_guard" / "sitecustomize.py")
    assert spec is not None and spec.loader is not None
    guard = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(guard)
    allowed = [str(folder / "base" / each) for each in ("output", "temp", TRAINED)]
    stop = guard.watch(str(folder / "guard.log"), allowed, CANARY)
    yield folder
    stop()
    folder_paths.use(Path(before))


@pytest.fixture(scope="module")
def comfy(work: Path) -> Miniature:
    return Miniature()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "train" else [])
        for name in hostile.LINKS
        if name != "remote"
    ],
)
def test_without_the_hostile_value_the_graph_runs(name: str, comfy: Miniature) -> None:
    assert comfy.answer(hostile.healthy(comfy.info, name)) == ("harmless", "", None)


def test_every_graph_has_an_output_that_comfyui_would_run(comfy: Miniature) -> None:
    core = {"PreviewImage", "PreviewAny"}
    outputs = core | {name for name, kind in comfy.classes.items() if kind.GET_SCHEMA().is_output_node}
    ends = {
        name: {node["class_type"] for node in hostile.healthy(comfy.info, name).values()}
        for name in hostile.LINKS
    }
    assert not [name for name, kinds in ends.items() if not kinds & outputs]


def test_hostile_workflows_end_in_clear_errors_and_touch_nothing(
    work: Path, comfy: Miniature, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVLM_ALLOW_PRIVATE_ENDPOINTS", "EVLM_API_KEY", "EVLM_API_HOSTS", "EVLM_MODELS"):
        monkeypatch.delenv(name, raising=False)
    before = sorted(os.listdir(work / CANARY))
    began, wrong, ends = time.time(), [], []
    for case in hostile.cases(comfy.info, work / CANARY, 9, COUNT, seed=1):
        how, text, error_type = comfy.answer(case.graph)
        assert SECRET not in text
        ends.append(how)
        if problem := judge(case, how, text, error_type):
            wrong.append(f"{case.title} {problem}")
    escapes = [
        line
        for line in (work / "guard.log").read_text(encoding="utf-8").splitlines()
        if json.loads(line)["time"] >= began
    ]
    assert not wrong, "\n".join(wrong)
    assert not escapes, "\n".join(escapes)
    assert sorted(os.listdir(work / CANARY)) == before and not Path("/tmp/evlm-hostile").exists()
    assert len(ends) == COUNT and {"validation", "execution", "harmless"} == set(ends)


def test_the_same_seed_makes_the_same_cases_and_every_node_has_some(comfy: Miniature) -> None:
    cases = hostile.cases(comfy.info, Path("/x") / CANARY, 9, 300, seed=0)
    again = hostile.cases(comfy.info, Path("/x") / CANARY, 9, 300, seed=0)
    assert [repr(case) for case in cases] == [repr(case) for case in again]
    assert len(cases) == 300
    assert {case.node for case in cases} == set(comfy.classes)


def test_the_guard_sees_what_it_is_for(work: Path) -> None:
    began = time.time()
    import socket
    import subprocess

    (work / CANARY / "secret.txt").read_text(encoding="utf-8")
    (work / "outside.txt").write_text("x", encoding="utf-8")
    subprocess.run([sys.executable, "-c", ""], check=True)
    with socket.socket() as other:
        other.connect_ex(("127.0.0.1", 9))
    (work / "base" / "output" / "row.txt").write_text("x", encoding="utf-8")  # allowed
    for place in ("base/output", "."):  # a whole folder goes, its files by their bare names
        (work / place / "gone").mkdir()
        (work / place / "gone" / "inner.txt").touch()
        shutil.rmtree(work / place / "gone")
    lines = [json.loads(line) for line in (work / "guard.log").read_text(encoding="utf-8").splitlines()]
    events = [line for line in lines if line["time"] >= began]
    assert {line["event"] for line in events} >= {"open", "subprocess.Popen", "socket.connect"}
    assert sum("outside.txt" in line["what"] for line in events) == 1
    assert any(line["what"].startswith("canary") for line in events)
    assert not any("row.txt" in line["what"] for line in events)
    gone = [line["what"] for line in events if line["event"] in ("os.remove", "os.rmdir")]
    assert gone == [str(work / "gone" / "inner.txt"), str(work / "gone")], gone
