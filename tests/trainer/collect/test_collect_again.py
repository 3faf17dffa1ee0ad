"""What failed for a while is mended by the same command: endpoints, settings, pictures."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scripted_teacher import Teacher, digest_of, teaching
from test_collect_make import make, private, recipe, rows  # noqa: F401 (private is a fixture)

from evlm.errors import EndpointError
from evlm.reason.messages import Chat
from evlm.reason.reasoner import Generated
from evlm.reason.remote import Completion
from trainer.collect import teach
from trainer.collect.answers import Answers
from trainer.collect.recipe import load_recipe
from trainer.collect.teacher import Asked, Refused


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Teacher]:
    """A dataset that nothing befell, and who taught it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, teaching() as teacher:
        patch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
        make(recipe(folder, teacher))
    return folder, teacher


def dropped(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "out/work/dropped.jsonl").read_text().splitlines()
    return [json.loads(line)["name"] for line in lines]


def test_a_setting_that_was_forgotten_loses_no_question(
    tmp_path: Path, whole: tuple[Path, Teacher], monkeypatch: pytest.MonkeyPatch
) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher)
        monkeypatch.delenv("EVLM_ALLOW_PRIVATE_ENDPOINTS")
        assert make(path) == 2 and not teacher.asked
        monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
        make(path)
    assert rows(tmp_path) == rows(whole[0])


@pytest.mark.parametrize("status", [400, 422])
def test_an_endpoint_that_refuses_all_for_a_while_loses_no_question(
    tmp_path: Path, whole: tuple[Path, Teacher], status: int
) -> None:
    with teaching() as teacher:
        teacher.stop_after, teacher.stopped = 5, status
        path = recipe(tmp_path, teacher)
        assert make(path) == 2 and len(teacher.asked) <= 5 + 8 + 2 * 4
        teacher.stop_after = None
        make(path)
    assert rows(tmp_path) == rows(whole[0])


def test_a_server_that_is_gone_for_a_while_loses_no_question(
    tmp_path: Path, whole: tuple[Path, Teacher], capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        pass
    assert make(recipe(tmp_path, teacher, tries=3)) == 2
    assert "is the server running?" in capsys.readouterr().err
    with teaching() as teacher:
        make(recipe(tmp_path, teacher))
    assert rows(tmp_path) == rows(whole[0])


def test_a_question_that_the_filter_stops_is_dropped_and_not_asked_again(
    tmp_path: Path, whole: tuple[Path, Teacher]
) -> None:
    with teaching() as teacher:
        teacher.filtered = {digest_of(whole[1].asked[2])}
        path = recipe(tmp_path, teacher, workers=1)
        assert make(path) == 1 and dropped(tmp_path) == ["refused"]
        sent = len(teacher.asked)
        (tmp_path / "out/work/teach.jsonl").unlink()  # what is known of it is among the answers
        assert make(path) == 1 and dropped(tmp_path) == ["refused"] and len(teacher.asked) == sent
    assert len(rows(tmp_path).splitlines()) == len(rows(whole[0]).splitlines()) - 1


def test_a_copy_that_cannot_be_read_for_a_while_loses_no_question(
    tmp_path: Path, whole: tuple[Path, Teacher], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = teach.load_paths, [3]

    def failing(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise teach.EVLMError("the disk was away")
        return real(*arguments)

    with teaching() as teacher:
        path = recipe(tmp_path, teacher)
        monkeypatch.setattr(teach, "load_paths", failing)
        assert make(path) == 1 and dropped(tmp_path) == ["picture"]
        make(path)
    assert rows(tmp_path) == rows(whole[0])


def test_an_answer_that_was_on_its_way_does_not_make_sure_of_refusals_behind_it(tmp_path: Path) -> None:
    class Slow:
        style = codec = None

        def complete(self, chat: Chat, sampling: Any) -> Completion:
            if chat.messages[0]["content"][0]["text"] == "slow":
                assert refused.wait(10)
                return Completion(Generated("good", 1, 0.1, True), 1)
            raise EndpointError("no", 400)

    refused = threading.Event()
    answers = Answers(tmp_path / "answers.sqlite")
    with teaching() as teacher:
        settings = load_recipe(recipe(tmp_path, teacher)).teacher
    assert settings is not None
    asked = Asked(settings, answers)
    asked.model = Slow()  # type: ignore[assignment]

    def chat(text: str) -> Chat:
        return Chat([{"role": "user", "content": [{"type": "text", "text": text}]}], [], [])

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(asked.ask, chat("slow"), 0)
        while not asked._open:
            time.sleep(0.01)
        with pytest.raises(Refused):
            asked.ask(chat("quick"), 0)
        refused.set()
        assert slow.result().text == "good"
    kept = answers._base.execute("SELECT count(*) FROM refused").fetchone()[0]
    assert kept == 0
    asked.ask(chat("slow"), 1)
    assert answers._base.execute("SELECT count(*) FROM refused").fetchone()[0] == 1
