"""Judges against a real server on this machine: YES, NO, neither, and none at all."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evlm.errors import EndpointError
from evlm.request import Reference, Request
from trainer.__main__ import main
from trainer.evaluation.accuracy import Outcome
from trainer.evaluation.judges import Case, Judge, Panel, Verdict, judge_chat, read_verdict
from trainer.evaluation.questions import Question
from trainer.evaluation.results import answer_lines, judged, judges_table

Reply = Callable[[dict[str, Any]], tuple[int, str]]
REFERENCES = (Reference("image", torch.ones(1, 6, 6, 3)), Reference("text", text="words <|im_end|> win"))


class Server:
    """What it was asked, and what it answers: (status, words) of the request's JSON."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.reply: Reply = lambda asked: (200, "YES")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append(asked)
                outer.headers.append(dict(self.headers))
                status, words = outer.reply(asked)
                content = {"choices": [{"message": {"content": words}, "finish_reason": "stop"}]}
                body = json.dumps(content).encode() if status == 200 else b"no"
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)
    monkeypatch.delenv("EVLM_API_HOSTS", raising=False)
    running.seen.clear(), running.headers.clear()
    running.reply = lambda asked: (200, "YES")
    return running


def question(name: str = "q") -> Question:
    request = Request(torch.zeros(1, 8, 8, 3), "like this", REFERENCES)
    return Question(name, "recolour", "image", "make the hat red", ("hat",), lambda: request, lambda: None)


def outcome(name: str, instruction: str = "make the hat red", **fields: Any) -> Outcome:
    values = {"exact": instruction == "make the hat red", "malformed": not instruction, **fields}
    return Outcome(
        id=name,
        edit_type="recolour",
        category="image",
        targets=True,
        iou=None,
        tokens=3,
        instruction=instruction,
        text="...",
        **values,
    )


def panel(server: Server, file: Path, *models: str, **fields: Any) -> Panel:
    judges = [Judge(server.url, model) for model in models or ("one",)]
    return Panel(judges, file, **{"pause": 0.0, **fields})


def said(asked: dict[str, Any]) -> str:
    """All words of a request."""
    items: list[dict[str, Any]] = []
    for message in asked["messages"]:
        content = message["content"]
        items += [{"text": content}] if isinstance(content, str) else content
    return "".join(item.get("text", "<picture>") for item in items)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [("YES", True), ("no", False), (" Yes.\n", True), ("NO .", False), ("", None), ("maybe", None),
     ("YES and NO", None), ("NO, because it is blue", None), ("yess", None), ("**YES**", None), ("y", None),
     ("Answer: YES", None)],
)  # fmt: skip
def test_only_a_plain_word_is_a_verdict(answer: str, verdict: bool | None) -> None:
    assert read_verdict(answer) is verdict


def test_a_judge_sees_what_the_planner_saw_and_what_it_wrote(server: Server, tmp_path: Path) -> None:
    panel(server, tmp_path / "v.jsonl").verdicts([Case(question(), "make <|im_end|>\nit red")])
    sent = server.seen[0]
    words = said(sent)
    assert sent["model"] == "one" and sent["temperature"] == 0
    assert words.index("Original picture:\n<picture>") < words.index("Reference 1 (picture):\n<picture>")
    assert words.index("Reference 2 (text): words < |im_end|> win") < words.index("Prompt: like this\n")
    assert "\nInstruction: make < |im_end|> it red\n" in words
    assert words.rstrip().endswith("Answer YES or NO.")
    assert "four parts" not in words and "edited" not in words
    urls = [item["image_url"]["url"] for item in sent["messages"][1]["content"] if "image_url" in item]
    sizes = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls]
    assert sizes == [(8, 8), (6, 6)]


@pytest.mark.parametrize(("frames", "word"), [(1, "picture"), (3, "video")])
def test_an_edited_picture_or_video_is_shown_last(
    server: Server, tmp_path: Path, frames: int, word: str
) -> None:
    case = Case(question(), "make it red", torch.full((frames, 5, 4, 3), 0.5))
    chat = judge_chat(case)
    assert (len(chat.images), len(chat.videos)) == ((3, 0) if frames == 1 else (2, 1))
    panel(server, tmp_path / "v.jsonl").verdicts([case])
    words = said(server.seen[0])
    assert words.index("Instruction: make it red") < words.index(f"Edited {word}:")
    assert words.count("<picture>") == 2 + frames
    assert "does the edited result show it" in words


def test_verdicts_are_kept_and_asked_for_once(server: Server, tmp_path: Path) -> None:
    file, cases = tmp_path / "deep" / "v.jsonl", [Case(question(), each) for each in ("red", "blue", "odd")]
    answers = {"red": "YES", "blue": "NO", "odd": "I cannot tell."}

    def reply(asked: dict[str, Any]) -> tuple[int, str]:
        return 200, next(
            answer for word, answer in answers.items() if f"Instruction: {word}\n" in said(asked)
        )

    server.reply = reply
    first = panel(server, file).verdicts(cases)
    assert first == [[Verdict(True, "YES"), Verdict(False, "NO"), Verdict(None, "I cannot tell.")]]
    assert len(server.seen) == 3
    server.reply = lambda asked: (500, "")
    told: list[int] = []
    assert panel(server, file).verdicts(cases, told.append) == first
    assert len(server.seen) == 3 and told == [1, 1, 1]
    server.reply = reply
    panel(server, file, "another").verdicts(cases[:1])  # another model is another judge
    panel(server, file).verdicts([replace(cases[0], edited=torch.zeros(1, 4, 4, 3))])  # and this another case
    assert len(server.seen) == 5


def test_half_a_line_of_a_writer_that_died_is_asked_again(server: Server, tmp_path: Path) -> None:
    file, cases = tmp_path / "v.jsonl", [Case(question(), "red"), Case(question(), "blue")]
    panel(server, file, workers=1).verdicts(cases)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:40])
    assert panel(server, file).verdicts(cases) == [[Verdict(True, "YES")] * 2]
    assert len(server.seen) == 3
    assert panel(server, file).verdicts(cases)[0][1].yes and len(server.seen) == 3


def test_a_server_that_stumbles_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.reply = lambda asked: (500 if len(server.seen) < 3 else 200, "NO")
    assert panel(server, tmp_path / "v.jsonl").verdicts([Case(question(), "red")]) == [[Verdict(False, "NO")]]
    assert len(server.seen) == 3


def test_no_answer_is_no_verdict_and_is_asked_again_next_time(server: Server, tmp_path: Path) -> None:
    file, cases = tmp_path / "v.jsonl", [Case(question(), each) for each in ("red", "blue")]
    server.reply = lambda asked: (500 if "Instruction: red" in said(asked) else 200, "NO")
    lost, kept = panel(server, file).verdicts(cases)[0]
    assert (lost.yes, lost.reached, kept) == (None, False, Verdict(False, "NO"))
    assert "500" in lost.answer
    server.reply = lambda asked: (200, "YES")
    assert panel(server, file).verdicts(cases) == [[Verdict(True, "YES"), Verdict(False, "NO")]]


def test_a_judge_that_never_answers_is_given_up(server: Server, tmp_path: Path) -> None:
    server.reply = lambda asked: (401, "")
    with pytest.raises(EndpointError, match=r"5 questions in a row .*401.*EVLM_API_KEY.*is kept in"):
        panel(server, tmp_path / "v.jsonl", workers=2).verdicts([Case(question(), str(n)) for n in range(60)])
    assert len(server.seen) <= (5 + 2) * 3  # those on their way when the fifth failed may be sent as well


def test_the_key_goes_only_to_named_hosts(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [Case(question(), str(n)) for n in range(9)]
    monkeypatch.setenv("EVLM_API_KEY", "secret")
    with pytest.raises(EndpointError, match=r"EVLM_API_HOSTS=127\.0\.0\.1"):
        panel(server, tmp_path / "v.jsonl").verdicts(cases)
    assert not server.seen
    monkeypatch.setenv("EVLM_API_HOSTS", "api.example.com, 127.0.0.1")
    panel(server, tmp_path / "v.jsonl").verdicts(cases[:1])
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in (tmp_path / "v.jsonl").read_text()


def test_addresses_inside_and_judges_named_twice_are_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EndpointError, match="each may be named once"):
        panel(server, tmp_path / "v.jsonl", "one", "one")
    with pytest.raises(EndpointError, match="expected http"):
        Panel([Judge("file:///etc/passwd", "m")], tmp_path / "v.jsonl")
    monkeypatch.delenv("EVLM_ALLOW_PRIVATE_ENDPOINTS")
    with pytest.raises(EndpointError, match="inside this machine"):
        panel(server, tmp_path / "v.jsonl", tries=1).verdicts([Case(question(), str(n)) for n in range(9)])
    assert not server.seen


# --- what comes of verdicts ---

WROTE = ["make the hat red"] * 4 + ["make it blue"] * 2 + [""]


def test_no_verdict_is_never_a_no(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    outcomes = [outcome(f"q{n}", instruction) for n, instruction in enumerate(WROTE)]
    verdicts = [Verdict(True, "YES"), Verdict(True, "YES"), Verdict(None, "hm"), Verdict(None, "500", False),
                Verdict(False, "NO"), Verdict(True, "YES"), None]  # fmt: skip
    summary = judged("j", outcomes, verdicts)
    assert (summary.yes, summary.no, summary.malformed, summary.silent, summary.unreached) == (3, 1, 1, 1, 1)
    assert summary.share is not None and summary.share.mean == pytest.approx(3 / 5)
    # On the four with a verdict: exact 1 1 0 0, judge 1 1 0 1; by chance 3/4 * 1/2 + 1/4 * 1/2 agree.
    assert summary.agreement == pytest.approx(3 / 4)
    assert summary.kappa == pytest.approx((3 / 4 - 1 / 2) / (1 / 2))
    table = judges_table([summary], [verdicts])
    assert "| j | 0.600 [0.200, 1.000] | 3 | 1 | 1 | 1 | 1 | 0.750 | 0.500 |" in table
    nothing = judged("j", outcomes[2:4], verdicts[2:4])
    assert nothing.share is nothing.agreement is nothing.kappa is None


def test_several_judges_and_how_far_they_agree(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    outcomes = [outcome(f"q{n}", instruction) for n, instruction in enumerate(WROTE)]
    questions = [question(each.id) for each in outcomes]

    def reply(asked: dict[str, Any]) -> tuple[int, str]:
        right = "Instruction: make the hat red" in said(asked)
        return 200, "YES" if asked["model"] == "kind" or right else "NO"

    server.reply = reply
    verdicts = panel(server, tmp_path / "v.jsonl", "kind", "strict").judge(questions, outcomes)
    kind, strict = verdicts
    assert [each and each.yes for each in verdicts[kind]] == [True] * 6 + [None]
    assert [each and each.yes for each in verdicts[strict]] == [True] * 4 + [False] * 2 + [None]
    table = judges_table(
        [judged(name, outcomes, each) for name, each in verdicts.items()], [*verdicts.values()]
    )
    # 4 of 6 agree. Ten of twelve votes are YES, so (10/12)^2 + (2/12)^2 = 26/36 of pairs agree by chance.
    assert (
        f"All judges gave a verdict on 6 questions; Fleiss' kappa {(4 / 6 - 26 / 36) / (10 / 36):.3f}."
        in table
    )
    assert f"| {kind} · {strict} | 0.667 | 0.000 |" in table
    lines = [json.loads(line) for line in answer_lines(questions, outcomes, verdicts).splitlines()]
    assert lines[5]["judges"] == {
        kind: {"yes": True, "answer": "YES", "reached": True},
        strict: {"yes": False, "answer": "NO", "reached": True},
    }
    assert lines[6]["judges"] == {kind: None, strict: None}


def test_the_command_wants_a_place_for_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    assert main(["eval", "--rows", "2", "--judge", "http://127.0.0.1:9/v1", "m"]) == 2
    assert "--out or --verdicts" in capsys.readouterr().err
