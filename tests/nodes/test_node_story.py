"""A page that was loaded anew asks what the run has said: nodes/story.py, without a server (N6)."""

from __future__ import annotations

from typing import Any

import pytest
import server
import torch
from comfy_execution.utils import CurrentNodeContext
from standin import call, part

GRAPH = {"5:3": {"class_type": "EVLM_Reason", "inputs": {}}, "7": {"class_type": "EVLM_Ground", "inputs": {}}}


class Routes(list[Any]):
    """The server's table of routes, as aiohttp's."""

    def get(self, path: str) -> Any:
        def keep(handle: Any) -> Any:
            self.append(type("Route", (), {"path": path, "handle": staticmethod(handle)}))
            return handle

        return keep


class Queue:
    def __init__(self) -> None:
        extra = {"extra_pnginfo": {"workflow": {"id": "w-1"}}, "client_id": "me"}
        self.items: list[Any] = [(0, "p-1", GRAPH, extra, ["7"])]

    def get_current_queue_volatile(self) -> tuple[list[Any], list[Any]]:
        return self.items, []


@pytest.fixture()
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = type("Server", (), {"client_id": "me", "send_sync": lambda self, event, data, sid: None})()
    made.routes, made.prompt_queue = Routes(), Queue()
    monkeypatch.setattr(server.PromptServer, "instance", made)
    return made


def told(client: str) -> dict[str, Any]:
    answer: dict[str, Any] = part("nodes.story").STORY.told_to(client)
    return answer


def test_a_page_hears_what_nodes_wrote_and_what_they_ended_with(fake: Any) -> None:
    model = call("EVLM_LoadModel").args[0]
    image, references, prompt, _ = call("EVLM_Example", which="1-reference").args
    with CurrentNodeContext("p-1", "5:3"):
        writing = part("nodes.host").Typing(part("nodes.story").STORY.write)
        writing("<thinking>two ")
        assert told("me")["nodes"] == {"5:3": {"type": "EVLM_Reason", "texts": ["<thinking>two "]}}
        reasoned = call("EVLM_Reason", model=model, image=image, prompt=prompt, references=references)
    answer = told("me")
    assert (answer["prompt_id"], answer["workflow"], answer["running"]) == ("p-1", "w-1", True)
    assert answer["nodes"] == {"5:3": {"type": "EVLM_Reason", "output": reasoned.ui}}
    fake.prompt_queue.items = []
    assert told("me")["running"] is False


def test_nobody_else_hears_it(fake: Any) -> None:
    with CurrentNodeContext("p-1", "5:3"):
        part("nodes.host").Typing(part("nodes.story").STORY.write)("secret")
    assert told("me")["nodes"]
    for other in ("", "you", "me "):
        assert told(other) == {}


def test_the_next_run_forgets_the_last(fake: Any) -> None:
    story = part("nodes.story").STORY
    for prompt, text in (("p-1", "a"), ("p-2", "b")):
        with CurrentNodeContext(prompt, "5:3"):
            story.write(text, False)
    assert told("me")["nodes"]["5:3"]["texts"] == ["b"]
    with CurrentNodeContext("p-2", "5:3"):
        story.write("bc", True)
        story.write("second picture", False)
    assert told("me")["nodes"]["5:3"]["texts"] == ["bc", "second picture"]


def test_a_node_that_runs_for_each_item_of_a_list_tells_of_all(fake: Any) -> None:
    plan = call("EVLM_PlanFromText", text="instruction: make it red\ntargets: car\nscope: global").args[0]
    for item in range(3):
        with CurrentNodeContext("p-1", "7", item):
            call("EVLM_Ground", image=torch.zeros(1, 64, 64, 3), plan=plan)
    assert len(told("me")["nodes"]["7"]["output"]["images"]) == 3


def test_the_server_is_asked_to_answer_once(fake: Any) -> None:
    for _ in range(2):
        part("nodes.story").register()
    assert [each.path for each in fake.routes] == ["/evlm/run"]


def test_what_runs_is_seen_in_the_forks_queue_too(fake: Any) -> None:
    """Its items are dicts around the usual tuple."""

    class Item(dict[str, Any]):
        queue_tuple = fake.prompt_queue.items[0]

    usual = part("nodes.host").running()
    fake.prompt_queue.items = [Item(priority=0, prompt_id="p-1")]
    assert part("nodes.host").running() == usual and list(usual) == ["p-1"]
