"""EVLM Reason stops where the model is less sure of a plan than it is asked to be, and says what to do."""

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
