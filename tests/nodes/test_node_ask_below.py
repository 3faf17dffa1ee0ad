"""Reason and Quick Edit stop where the model is less sure of a plan than wanted, and say what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from standin import call, part


@pytest.fixture(scope="module")
def model() -> Any:
    return call("EVLM_LoadModel").args[0]


@pytest.fixture()
def texts_shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", texts.append)
    return texts


def test_it_stops_below_and_goes_on_above(model: Any, texts_shown: list[str]) -> None:
    image, references, prompt, _ = call("EVLM_Example", which="1-reference").args
    said = {"model": model, "image": image, "prompt": prompt, "references": references}
    free = call("EVLM_Reason", **said)
    sure = free.args[0][0].plan.confidence
    assert 0 < sure < 1
    assert free.ui["evlm_trace"][0]["confidence"] == sure
    assert call("EVLM_Reason", **said, ask_below=sure).block_execution is None
    assert not any("sure of" in text for text in texts_shown)
    stopped = call("EVLM_Reason", **said, ask_below=(1 + sure) / 2)
    assert not stopped.args and stopped.ui == free.ui  # its trace is shown
    assert "sure of" in stopped.block_execution and "Say more in the prompt" in stopped.block_execution
    assert stopped.block_execution in texts_shown[-1]


@pytest.mark.slow  # one picture stops above
def test_the_least_sure_of_a_batch_stops_it(model: Any) -> None:
    image, references, prompt, _ = call("EVLM_Example", which="1-reference").args
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    said = {"model": model, "prompt": prompt, "references": references}
    both = call("EVLM_Reason", **said, image=torch.cat([image, noise]))
    good, bad = (trace.plan.confidence for trace in both.args[0])
    assert bad < good
    middle = (bad + good) / 2
    assert call("EVLM_Reason", **said, image=image, ask_below=middle).block_execution is None
    stopped = call("EVLM_Reason", **said, image=torch.cat([image, noise]), ask_below=middle).block_execution
    assert both.args[1][1] in stopped


def test_of_a_model_behind_an_endpoint_nothing_is_known(texts_shown: list[str]) -> None:
    class Elsewhere:
        def reason(self, request: Any, *_: Any) -> Any:
            trace = part("evlm.plan.trace").parse("instruction: make it red")
            reasoner = part("evlm.reason.reasoner")
            return reasoner.Reasoned("", 1, 0.0, trace=trace)

    plan = call("EVLM_Reason", model=Elsewhere(), image=torch.rand(1, 32, 32, 3), prompt="red", ask_below=0.9)
    assert plan.block_execution is None and plan.args[1] == ["make it red"]
    assert "has no effect" in texts_shown[-1]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return call("EVLM_LoadAll").args[0]


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    image, references, prompt, _ = call("EVLM_Example", which="1-reference").args
    return {"image": image, "references": references, "prompt": prompt, "steps": 1}


def test_quick_edit_stops_below_with_the_plan_shown(
    pipe: Any, example: dict[str, Any], texts_shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = call("EVLM_QuickEdit", pipe=pipe, **example)
    sure = free.args[2][0].plan.confidence
    assert 0 < sure < 1
    assert call("EVLM_QuickEdit", pipe=pipe, **example, ask_below=sure).block_execution is None
    assert not any("sure of" in text for text in texts_shown)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is looked for in a plan that is asked about")

    with monkeypatch.context() as patched:
        patched.setattr(part("evlm.pipeline").Pipeline, "plan", never)
        stopped = call("EVLM_QuickEdit", pipe=pipe, **example, ask_below=(1 + sure) / 2)
    assert not stopped.args and stopped.ui == {"evlm_trace": free.ui["evlm_trace"]}
    assert "sure of" in stopped.block_execution and "'paint anyway'" in stopped.block_execution
    assert stopped.block_execution in texts_shown[-1]


@pytest.mark.parametrize("said", [{"stop": "paint anyway"}, {"stop": "stop at the plan"}])
def test_quick_edit_goes_on_where_somebody_says_so(
    pipe: Any, example: dict[str, Any], texts_shown: list[str], said: dict[str, str]
) -> None:
    edited = call("EVLM_QuickEdit", pipe=pipe, **example, **said, ask_below=1.0)
    assert edited.block_execution is None and len(edited.args[0]) == 1
    assert "sure of" in texts_shown[-1]


def test_quick_edit_does_not_ask_about_somebodys_own_words(
    pipe: Any, example: dict[str, Any], texts_shown: list[str]
) -> None:
    edited = call("EVLM_QuickEdit", pipe=pipe, **example, instruction="make it blue", ask_below=1.0)
    assert edited.args[2][0].plan.instruction == "make it blue"
    assert not any("sure of" in text for text in texts_shown)
