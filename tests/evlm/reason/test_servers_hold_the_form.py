"""Two hundred answers of a server that holds its model to the schema, and of one that does not."""

from __future__ import annotations

import json
import random
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from chat_server import REQUEST, Server, as_json, event, send, stream

from evlm.errors import EndpointError, TraceError
from evlm.plan.trace import Plan, parse
from evlm.reason.json_form import SCHEMA, SETTING
from evlm.reason.messages import SHORT
from evlm.reason.reasoner import Reasoned, Sampling
from evlm.reason.remote import RemoteReasoner

REQUESTS = 200
WORDS = (
    *(
        "red hat",
        "größer \U0001f642",
        "\u5e3d\u5b50",
        "a\tb",
        "\\n",
        '"quoted"',
        "<output>",
        "</thinking>",
        "line\nend",
    ),
    *("{}[]:,", "cat; dog", "none", "\u2028", "`x`", "scope: global", "\\u0041", "é\u0301", "x" * 40),
)
WIDE_COLON, WIDE_SEMICOLON = "\uff1a", "\uff1b"
PLAIN = (
    "make",
    "the",
    "red",
    "hat",
    "blue",
    "on",
    "left",
    "größer",
    "\u5e3d\u5b50",
    "small",
    "dog's",
    "a-b",
    "42",
)


def words(chance: random.Random, pool: tuple[str, ...], least: int, most: int) -> str:
    return " ".join(chance.choice(pool) for _ in range(chance.randint(least, most)))


def of_schema(schema: dict[str, Any], chance: random.Random, in_range: bool) -> Any:
    """Something random that a schema allows. in_range: False for a server that does not heed minimum and
    maximum."""
    if "anyOf" in schema:
        return of_schema(chance.choice(schema["anyOf"]), chance, in_range)
    if "enum" in schema:
        return chance.choice(schema["enum"])
    if schema["type"] == "object":
        return {name: of_schema(each, chance, in_range) for name, each in schema["properties"].items()}
    if schema["type"] == "array":
        count = chance.randint(schema.get("minItems", 0), schema.get("maxItems", 3))
        return [of_schema(schema["items"], chance, in_range) for _ in range(count)]
    if schema["type"] == "integer":
        return chance.randint(schema["minimum"], schema["maximum"] if in_range else 5000)
    return words(chance, WORDS, 0, 12) if schema["type"] == "string" else None


class Model:
    """What random weights write: JSON of the schema where they are held to it, else one of the forms."""

    def __init__(self, heeds: bool) -> None:
        self.heeds = heeds
        self.said: list[Any] = []

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.server.owner.seen[-1]  # type: ignore[attr-defined]
        chance = random.Random(len(self.said))
        form = asked.get(SETTING)
        if self.heeds and form is not None:
            answer = of_schema(form["json_schema"]["schema"], chance, in_range=chance.random() < 0.7)
            for step in answer["output"]["steps"]:
                step["instruction"] += words(chance, PLAIN, 1, 4)
            self.said.append(answer)
            text = json.dumps(answer, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 2]))
        else:
            plan = Plan(
                words(chance, PLAIN, 2, 8),
                tuple(dict.fromkeys(words(chance, PLAIN[2:7], 1, 2) for _ in range(chance.randint(1, 3)))),
                f"box {chance.randint(0, 400)} {chance.randint(0, 400)} {chance.randint(500, 1000)} 900 full",
            )
            self.said.append(plan)
            text = FORMS[len(self.said) % len(FORMS)](plan)
            if len(self.said) % 5 == 0:  # two edits, as the form writes them or as a list
                second = Plan(words(chance, PLAIN, 2, 8), ("hat",), "box 1 2 30 40 full")
                plan = self.said[-1] = Plan.of_steps([plan, second])
                text = SEVERAL[len(self.said) // 5 % len(SEVERAL)](plan)
        stream(text, chance.randint(1, 30))(handler)


PROSE = "<thinking>a</thinking><intermediate>b</intermediate><reflection>c</reflection>"


def numbers(plan: Plan) -> list[int]:
    return [int(each) for each in (plan.mask_text or "").split()[1:5]]


def as_dict(plan: Plan) -> dict[str, Any]:
    named = {"instruction": plan.instruction, "targets": list(plan.targets), "scope": plan.scope}
    return {**named, "mask": plan.mask_text}


def fields(plan: Plan, colon: str = ":", between: str = "; ", lead: str = "") -> str:
    values = (plan.instruction, between.join(plan.targets), plan.scope, plan.mask_text)
    names = ("instruction", "targets", "scope", "mask")
    return "\n".join(f"{lead}{name}{colon} {value}" for name, value in zip(names, values, strict=True))


def draft(plan: Plan) -> str:
    return f"<think>{PROSE}<output>\n{fields(Plan('a draft', ('draft',)))}\n</output>"


def objects(plan: Plan) -> list[dict[str, Any]]:
    boxed = {"label": plan.targets[0], "bbox_2d": numbers(plan)}
    return [boxed, *({"label": label} for label in plan.targets[1:])]


# As in shared/faults/answers_and_servers.md; each says what it is given.
FORMS = (
    lambda plan: f"{PROSE}<output>\n{fields(plan)}\n</output>",
    lambda plan: f"{draft(plan)}</think>\n{PROSE}<output>\n{fields(plan)}",  # A2
    lambda plan: json.dumps(as_dict(plan), ensure_ascii=False, indent=1).replace(
        "\n}", ",\n}  // done"
    ),  # A3
    lambda plan: f"{PROSE}<output>\n```json\n{json.dumps(as_dict(plan))}\n```\n</output>",  # A3
    lambda plan: json.dumps({**as_dict(plan), "mask": None, "targets": objects(plan)}),  # A4
    lambda plan: f"{PROSE}<output>\n{fields(plan, WIDE_COLON)}\n</output>",  # A5
    lambda plan: f"{PROSE}<output>\n{fields(plan, '**:', lead='- **')}\n</output>",  # A5
    lambda plan: f"{PROSE}<output>\n{fields(plan, between=', ')}\n</output>",  # A6
    lambda plan: f"{PROSE}<output>\n{fields(plan, between=WIDE_SEMICOLON)}\n</output>",  # A6
    lambda plan: (
        f"<think>I must write <thinking>, <output>.</think>{PROSE}<output>\n{fields(plan)}\n</output>"
    ),  # A8
    lambda plan: f"Here it is:\n\n**Output**\n{fields(plan)}",
    lambda plan: json.dumps(
        {"thinking": "a", "intermediate": "b", "reflection": "c", "output": as_dict(plan)}
    ),
)


SEVERAL = (
    lambda plan: f"{PROSE}<output>\n" + "\n".join(fields(each) for each in plan.steps) + "\n</output>",
    lambda plan: json.dumps({"steps": [as_dict(each) for each in plan.steps]}, ensure_ascii=False),
    lambda plan: f"{PROSE}<output>{json.dumps([as_dict(each) for each in plan.steps])}</output>",
)


@pytest.fixture(autouse=True)
def owned(server: Server) -> None:
    server.http.owner = server  # type: ignore[attr-defined]


def asked(remote: RemoteReasoner, model: Model) -> list[tuple[Any, Reasoned]]:
    """(what the model meant, what was understood) of each request."""
    return [(model.said[-1], reasoned) for _ in range(REQUESTS) if (reasoned := remote.reason(REQUEST))]


def test_two_hundred_with_a_schema_are_exact(server: Server) -> None:
    model = server.reply = Model(heeds=True)
    understood = asked(RemoteReasoner(server.url, "m"), model)
    for answer, reasoned in understood:
        assert not reasoned.trace.plan.repairs and reasoned.trace.thinking == answer["thinking"].strip()
        for plan, output in zip(reasoned.trace.plan.steps, answer["output"]["steps"], strict=True):
            assert plan.instruction == output["instruction"].strip() and plan.scope == output["scope"]
            assert (plan.mask_text is not None) == (output["box"] is not None and plan.scope == "local")
    assert len(understood) == REQUESTS
    assert {len(reasoned.trace.plan.steps) for _, reasoned in understood} == {1, 2, 3, 4}
    assert len({reasoned.trace.plan.instruction for _, reasoned in understood}) >= 150
    assert server.seen[0][SETTING]["json_schema"]["schema"] == SCHEMA


@pytest.mark.parametrize("name", ["Qwen2-VL-7B-Instruct", "qwen2.5vl:7b", "qwen3-vl:8b"])
def test_each_familys_own_numbers_become_ours(server: Server, name: str) -> None:
    """Whatever a model writes (pixels of a small picture, too): in the plan are thousandths."""
    model = server.reply = Model(heeds=True)
    remote = RemoteReasoner(server.url, name)
    places = 0
    for _ in range(40):
        whole = remote.reason(REQUEST).trace.plan
        plan = whole.steps[-1]
        sides = (model.said[-1]["output"]["steps"][-1]["box"] or [0]) if plan.scope == "local" else [0]
        output = server.seen[-1][SETTING]["json_schema"]["schema"]["properties"]["output"]["properties"]
        most = output["steps"]["items"]["properties"]["box"]
        highest = most["anyOf"][0]["items"]["maximum"]
        assert not whole.repairs
        if max(sides) <= highest and len(sides) == 4 and sides[0] != sides[2] and sides[1] != sides[3]:
            places += 1
            assert plan.mask_text and all(0 <= int(each) <= 1000 for each in plan.mask_text.split()[1:5])
    assert places >= 5


def test_two_hundred_of_a_server_that_heeds_no_schema(server: Server) -> None:
    model = server.reply = Model(heeds=False)
    understood = asked(RemoteReasoner(server.url, "m"), model)
    for plan, reasoned in understood:
        assert reasoned.trace.plan == plan, reasoned.text
    assert len(understood) == REQUESTS
    assert len({reasoned.trace.plan.instruction for _, reasoned in understood}) >= 150


# --- a schema is offered, and taken back ---

REFUSALS = [
    (400, {"error": {"message": "Invalid parameter: 'response_format' of type 'json_schema' is not supported "
                     "with this model.", "param": "response_format"}}),
    (400, {"error": {"message": "This response_format type is unavailable now"}}),
    (400, {"message": "The provided JSON schema contains features not supported by xgrammar."}),
    (400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}),
    (400, {"error": {"code": 400, "message": "Failed to initialize samplers: failed to parse grammar"}}),
    (500, {"error": {"code": 500, "message": 'response_format type must be one of "text" or "json_object", '
                     "but got: json_schema", "type": "server_error"}}),
    (422, {"detail": [{"loc": ["body", "response_format"], "msg": "Extra inputs are not permitted"}]}),
    (400, {"error": "Bad Request"}),
    (400, ""),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), REFUSALS)
def test_a_server_that_takes_no_schema_is_asked_for_text_from_then_on(
    server: Server, status: int, body: Any
) -> None:
    model = Model(heeds=False)

    def reply(handler: BaseHTTPRequestHandler) -> None:
        (as_json(body, status) if SETTING in server.seen[-1] else model)(handler)

    server.reply = reply
    remote = RemoteReasoner(server.url, "m")
    first, second = remote.reason(REQUEST), remote.reason(REQUEST)
    assert [SETTING in each for each in server.seen] == [True, False, False]
    assert all(
        any(SETTING in note and "text form" in note for note in each.notes) for each in (first, second)
    )
    systems = [each["messages"][0]["content"] for each in server.seen]
    assert "one JSON object" in systems[0] and "JSON" not in systems[1] == systems[2]


def test_what_was_not_the_schemas_fault_is_not_remembered(server: Server) -> None:
    server.reply = as_json({"error": {"message": "the image is too large", "param": "messages"}}, 400)
    remote = RemoteReasoner(server.url, "m")
    with pytest.raises(EndpointError, match="image is too large"):
        remote.reason(REQUEST)
    assert [SETTING in each for each in server.seen] == [True, False]
    server.reply = Model(heeds=True)
    assert remote.reason(REQUEST).notes == () and SETTING in server.seen[-1]


@pytest.mark.parametrize(
    "how", [{"sampling": Sampling(guided="never")}, {"style": SHORT}, {"trust": "tuned"}]
)
def test_no_schema_for_a_tuned_model_nor_where_nobody_wants_it(server: Server, how: dict[str, Any]) -> None:
    server.reply = Model(heeds=True)
    settings = {name: value for name, value in how.items() if name != "sampling"}
    RemoteReasoner(server.url, "m", **settings).reason(REQUEST, how.get("sampling"))
    assert SETTING not in server.seen[0] and "JSON" not in json.dumps(server.seen[0])


@pytest.mark.parametrize(
    ("heeds", "guided", "count"), [(False, "always", 1), (False, "auto", 0), (True, "always", 0)]
)
def test_always_says_where_it_was_not_to_be_had(server: Server, heeds: bool, guided: Any, count: int) -> None:
    server.reply = Model(heeds)
    notes = RemoteReasoner(server.url, "m").reason(REQUEST, Sampling(guided=guided)).notes
    assert len([note for note in notes if "wrote freely" in note]) == count


def test_it_is_heard_while_it_comes_and_the_callback_can_stop_it(server: Server) -> None:
    server.reply = Model(heeds=True)
    heard: list[str] = []
    reasoned = RemoteReasoner(server.url, "m").reason(REQUEST, on_token=heard.append)
    assert "".join(heard) == reasoned.text and heard[0].startswith("<thinking>\n")
    assert parse("".join(heard), repair=False) == reasoned.trace
    assert len(heard) >= reasoned.tokens, "it is called for pieces that show nothing yet"


def test_thoughts_before_the_schema_are_thoughts(server: Server) -> None:
    """What a thinking model says in its own field is no answer, whatever it holds."""
    output = {"instruction": "make it red", "targets": [], "scope": "global", "box": None}
    prose = {"thinking": "", "intermediate": "b", "reflection": "c"}
    answer = {**prose, "output": {"steps": [output]}}
    drafted = json.dumps({**prose, "output": {"steps": [{**output, "instruction": "a draft"}]}})
    for thought in (
        {"reasoning_content": drafted},
        {"reasoning": drafted},
        {"content": f"<think>{drafted}</think>"},
    ):
        delta = b"data: " + json.dumps({"choices": [{"delta": thought}]}).encode() + b"\n\n"
        server.reply = send(delta + event(json.dumps(answer)) + event(finish_reason="stop"))
        heard: list[str] = []
        reasoned = RemoteReasoner(server.url, "m").reason(REQUEST, on_token=heard.append)
        assert reasoned.trace.plan == Plan("make it red", (), None, "global")
        assert "".join(heard) == reasoned.text


def test_json_that_was_cut_off_says_so(server: Server) -> None:
    answer = json.dumps({"thinking": "a", "intermediate": "b", "reflection": "c"})[:-4]
    server.reply = send(event(answer) + event(finish_reason="length"))
    with pytest.raises(TraceError, match="raise max_new_tokens"):
        RemoteReasoner(server.url, "m").reason(REQUEST)


# --- models that think ---


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "content"])
@pytest.mark.parametrize("heeds", [True, False])
def test_what_is_thought_is_the_thinking(server: Server, name: str, heeds: bool) -> None:
    """Where the answer has none of its own; never the answer, whatever it holds."""
    thought = 'Perhaps <output>\ninstruction: draft\n</output> or {"instruction": "draft"}'
    said = f"<think>\n{thought}\n</think>\n" if name == "content" else thought
    output = {"instruction": "make it red", "targets": ["hat"], "scope": "local", "box": None}
    answer = json.dumps(
        {"thinking": " ", "intermediate": "b", "reflection": "c", "output": {"steps": [output]}}
    )
    if not heeds:
        answer = (
            "<intermediate>b</intermediate><reflection>c</reflection><output>\ninstruction: make it red\n"
        )
        answer += "targets: hat\nscope: local\n</output>"
    delta = b"data: " + json.dumps({"choices": [{"delta": {name: said}}]}).encode() + b"\n\n"
    server.reply = send(delta + event(answer) + event(finish_reason="stop"))
    trace = RemoteReasoner(server.url, "m").reason(REQUEST).trace
    assert trace.thinking == thought and trace.plan == Plan("make it red", ("hat",))


@pytest.mark.parametrize("guided", ["auto", "never"])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "content"])
def test_thoughts_that_use_up_all_tokens_are_an_error_with_a_remedy(
    server: Server, name: str, guided: Any
) -> None:
    said = "<think>hm, so" if name == "content" else "hm, so"
    delta = b"data: " + json.dumps({"choices": [{"delta": {name: said}}]}).encode() + b"\n\n"
    server.reply = send(delta + event(finish_reason="length"))
    with pytest.raises(EndpointError, match=r"thought until max_new_tokens, 1,234, .* raise max_new_tokens"):
        RemoteReasoner(server.url, "m").reason(REQUEST, Sampling(1234, guided=guided))
