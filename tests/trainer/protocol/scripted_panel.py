"""A server that is models and judges at once, and raters that are scripts: all of them know the world."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from evlm.plan.form import render
from evlm.plan.trace import Plan, Trace
from trainer.evaluation.questions import Question


class Panel:
    """An OpenAI-compatible server. A model called "right" answers every question as it should, "half" every
    second one; a judge called "exact" compares letter by letter (it reads both instructions), "kind" says YES
    to all. asked: how often each body came. after: of so many requests nothing more is answered. refuses: of
    questions that "half" does not take, the numbers."""

    def __init__(self, questions: list[Question]) -> None:
        self.asked: Counter[str] = Counter()
        self.questions = questions
        self.after: int | None = None
        self.refuses: set[int] = set()
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked = json.loads(body)
                with outer.lock:
                    outer.asked[json.dumps(asked, sort_keys=True)] += 1
                    dead = outer.after is not None and outer.asked.total() > outer.after
                refused = asked["model"] == "half" and outer._which(asked) in outer.refuses
                words = "" if dead or refused else outer.answer(asked)
                content = {"model": f"{asked['model']}-2026", "choices": [
                    {"message": {"content": words}, "finish_reason": "stop"}]}  # fmt: skip
                data = b"no" if dead or refused else json.dumps(content).encode()
                self.send_response(503 if dead else 400 if refused else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, asked: dict[str, Any]) -> str:
        text = said(asked)
        if asked["model"] == "kind":
            return "YES"
        if asked["model"] == "exact":
            human, wrote = (text.split(f"{name} instruction: ")[1].split("\n")[0]
                            for name in ("Human reference", "Generated"))  # fmt: skip
            return "YES" if human == wrote else "NO"
        at = self._which(asked)
        wrong = asked["model"] == "half" and at % 2
        question = self.questions[(at + 1) % len(self.questions) if wrong else at]
        plan = Plan(question.instruction, question.targets, "global")
        return render(Trace("thought", "planned", "checked", plan))

    def _which(self, asked: dict[str, Any]) -> int:
        """The question, by its pictures' bytes."""
        urls = pictures(asked)
        with self.lock:
            known = self.__dict__.setdefault("known", {})
            if not known:
                from evlm.reason.messages import build_messages
                from evlm.reason.remote import openai_messages

                for at, question in enumerate(self.questions):
                    chat = build_messages(question.request())
                    known[_key({"messages": openai_messages(chat, 10**9)})] = at
            return int(known[_key(asked)]) if urls else 0


def _key(asked: dict[str, Any]) -> tuple[str, ...]:
    prompt = said(asked).rpartition("Prompt: ")[2].split("\n")[0]
    return (*pictures(asked), prompt)


def pictures(asked: dict[str, Any]) -> list[str]:
    return [item["image_url"]["url"] for item in asked["messages"][-1]["content"] if "image_url" in item]


def said(asked: dict[str, Any]) -> str:
    """All words of a request."""
    items: list[dict[str, Any]] = []
    for message in asked["messages"]:
        content = message["content"]
        items += [{"text": content}] if isinstance(content, str) else content
    return "".join(item.get("text", "") for item in items)


def vote_all(store: Any, name: str, errs: float) -> int:
    """A rater who reads instruction and reference instruction and is wrong in a share of cases, always in the
    same ones."""
    import uuid

    from trainer.raters.queue import Vote, next_items, vote
    from trainer.raters.store import add_rater, rater_of

    rater, count = rater_of(store, add_rater(store, name)), 0
    assert rater is not None
    while given := next_items(store, rater, 50):
        for each in given:
            human = each.view["references"][-1]["text"]
            yes = human == each.view["instruction"]
            yes ^= random.Random(f"{name} {json.dumps(each.view)}").random() < errs
            vote(store, rater, Vote(uuid.uuid4().hex, each.id, yes))
            count += 1
    return count
