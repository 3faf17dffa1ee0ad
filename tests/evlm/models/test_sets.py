"""Named sets of models: one model for each role, taken wherever names of models are."""

from __future__ import annotations

from pathlib import Path

import pytest

from evlm.cli.main import main
from evlm.errors import ModelError
from evlm.models.sets import SETS, expand, find_set
from evlm.models.zoo import BUNDLED, ROLES, choose, find


@pytest.mark.parametrize("each", SETS, ids=lambda each: each.name)
def test_a_set_names_one_model_for_each_role(each: object) -> None:
    models = [find(name) for name in each.models]  # type: ignore[attr-defined]
    assert [model.role for model in models if model is not None] == list(ROLES)


def test_a_set_stands_for_its_models_in_place() -> None:
    assert find_set("photo-8gb") is not None and find_set("bundled") is None
    assert expand(["bundled", "photo-8gb", "detector=none"]) == ["bundled", *SETS[0].models, "detector=none"]
    assert expand(["bundled"]) == ["bundled"]


def test_the_command_line_lists_and_fetches_a_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(
        "evlm.models.download.download", lambda name, *rest: fetched.append(name) or Path(name)
    )
    assert main(["models", "--download", "photo-8gb"]) == 0
    assert fetched == list(SETS[0].models)
    assert main(["models"]) == 0
    assert "photo-24gb is qwen2.5-vl-7b, grounding-dino-base" in capsys.readouterr().out


def test_choose_takes_a_set_and_later_names_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"qwen2-vl-2b, .*, instruct-pix2pix .*--download photo-8gb"):
        choose(["photo-8gb"])  # all that is lacking, and one command that fetches it
    with pytest.raises(ModelError, match="one of: photo-8gb, photo-24gb, qwen2-vl-2b"):
        choose(["photo-9gb"])
    named = [f"{role}={BUNDLED / role}" for role in ROLES]
    assert choose(["bundled", *named]) == {role: BUNDLED / role for role in ROLES}
