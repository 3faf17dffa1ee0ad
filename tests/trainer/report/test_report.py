"""The report: one page that shows the run and nothing that a dataset's words could turn into markup."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evlm.errors import EVLMError, RecordError
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import render
from evlm.reason.messages import FULL, SHORT, build_messages
from trainer.__main__ import main
from trainer.learner.rows import Example
from trainer.report.curves import curve
from trainer.report.events import json_line
from trainer.report.page import report
from trainer.report.samples import SIDE, keep_samples
from trainer.world.rows import Recipe, completion_row, question_at, to_request

EVIL = "</pre></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
CODEC = BoxSpans(8)


def example(number: int, style: Any = SHORT) -> Example:
    recipe = Recipe(seed=3)
    question = question_at(recipe, number)
    row = completion_row(recipe, number, question, 0)
    region = question.edit.region(recipe.size, question.frames)
    mask = None if region is None else torch.from_numpy(region).float()
    return Example(
        build_messages(to_request(question), CODEC, style), render(row.trace()), True, mask, row.id
    )


EXAMPLES = [example(number) for number in range(16)]
MASKED = next(each for each in EXAMPLES if each.mask is not None)
GLOBAL = next(each for each in EXAMPLES if each.mask is None)


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def write_run(run: Path, *more: dict[str, Any]) -> None:
    (run / "samples").mkdir(parents=True, exist_ok=True)
    events: list[dict[str, Any]] = [{"event": "start", "steps": 30, "trainable": 409600}]
    for at in range(1, 31):
        events.append(
            {
                "event": "step",
                "stage": int(at > 20),
                "kind": "sft" if at <= 20 else "rkto",
                "step": at,
                "loss": 2.0 / at,
                "loss_reflection": 0.1,
                "eta0": 0.0,
                "tokens_per_second": 900.0,
                "norm": float("nan") if at == 9 else 1.0,
            }
        )
    events += [
        {"event": "dropped", "stage": 1, "step": 25, "loss": "nan", "why": "not finite"},
        {"event": "memory", "step": 26, "micro_batch": 4},
        *more,
    ]
    (run / "log.jsonl").write_text("".join(json_line(event) + "\n" for event in events))
    (run / "recipe.yaml").write_text(f"out: runs/x\nnote: {EVIL}\n")


def test_the_page_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "my run"
    samples = keep_samples(run, 30, [MASKED, GLOBAL], [MASKED.answer, "nonsense"])
    write_run(
        run,
        samples,
        {"event": "eval", "step": 30, "exact": 0.625, "iou": {"mean": 0.5}},
        {"event": "done", "adapter": "runs/x/adapter.safetensors"},
    )
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert "page.html" in capsys.readouterr().out
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    for expected in (
        "my run",
        "finished",
        "30 of 30",
        "409,600",
        "loss_reflection",
        "0.625",
        "iou/mean",
        "1 of 2 right",
        f"mask IoU {samples['items'][0]['iou']:.2f}",
        "nonsense",
        MASKED.answer,
        "out: runs/x",
        "900",
        "not finite",
        "4 since step 26",
    ):
        assert expected in page.text, expected
    assert len(page.all("svg")) == 10 and len(page.all("img")) == 2 and len(page.all("rect")) == 20
    assert all(str(each["src"]).startswith("data:image/png;base64,") for each in page.all("img"))
    allowed = (
        "html head meta title style body main footer h1 h2 h3 p b i dl div dt dd span figure figcaption svg "
        "rect line text polyline circle table thead tbody tr th td section details summary pre img"
    )
    assert {tag for tag, _ in page.tags} <= set(allowed.split())
    assert not [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("href", "onerror", "onload") or (name == "src" and not str(value).startswith("data:"))
    ]


def test_words_of_a_dataset_stay_words(tmp_path: Path) -> None:
    run = tmp_path / f"run {EVIL.replace('/', '')}"
    item = {"prompt": EVIL, "answer": EVIL, "expected": EVIL, "right": EVIL, "iou": EVIL, "picture": EVIL}
    write_run(
        run,
        {"event": "sample", "step": 30, "items": [item, 3, None]},
        {"event": "eval", "step": 30, EVIL: 1.0},
        {"event": "step", "stage": 2, "kind": EVIL, "step": 31, EVIL: 1.0},
        {"event": "dropped", "step": 32, "loss": EVIL},
        {"event": "done", "adapter": EVIL},
    )
    text = report(run)
    page = Page(text)
    assert "<script" not in text.lower() and not page.all("script") and not page.all("img")
    assert page.text.count("alert(1)") >= 9


@pytest.mark.parametrize(
    "name",
    [
        "../outside.png",
        "/etc/passwd",
        "samples/../../outside.png",
        "samples/text.png",
        "samples/gone.png",
        "samples/link.png",
        "samples",
        "sam\x00ples/a.png",
    ],
)
def test_only_pngs_of_the_runs_own_samples_are_shown(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    write_run(run, {"event": "sample", "step": 1, "items": [{"picture": name, "right": False}]})
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (run / "samples/text.png").write_text("secret")
    (run / "samples/link.png").symlink_to(tmp_path / "outside.png")
    page = Page(report(run))
    assert not page.all("img") and "is not there" in page.text and "secret" not in page.text


def test_an_early_run_and_no_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError):
        report(tmp_path)
    (tmp_path / "log.jsonl").write_text(json_line({"event": "start", "steps": 9, "trainable": 1}) + "\n")
    assert "No step was logged yet" in report(tmp_path)
    assert main(["report", str(tmp_path / "gone")]) == 2


def test_curves_are_sound_svg_for_any_numbers() -> None:
    for values in ([1.0], [0.0, 0.0], [5e-324, 1e-300], [-1e30, 1e30], [1e-9 + 1.0, 1.0], list(range(5000))):
        points = [(float(at), float(value)) for at, value in enumerate(values)]
        root = ET.fromstring(curve("a<b", [points, points[:1]], float(len(points))))
        lines = root.findall("polyline")
        assert lines
        for line in lines:
            places = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
            assert len(places) <= 300 and all(0 <= x <= 360 and 0 <= y <= 150 for x, y in places)


def test_samples_are_judged_and_drawn(tmp_path: Path) -> None:
    wrong = MASKED.answer.replace("instruction: ", "instruction: do not ")
    event = keep_samples(
        tmp_path, 7, [MASKED, MASKED, GLOBAL, MASKED], [MASKED.answer, wrong, GLOBAL.answer, ""]
    )
    assert event == json.loads(json.dumps(event)) and (event["event"], event["step"]) == ("sample", 7)
    items = event["items"]
    assert [item["right"] for item in items] == [True, False, True, False]
    assert items[0]["iou"] == items[1]["iou"] > 0.8 and items[2]["iou"] is None and items[3]["iou"] == 0.0
    for item, each in zip(items, [MASKED, MASKED, GLOBAL, MASKED], strict=True):
        with Image.open(tmp_path / item["picture"]) as picture:
            pictures = len(each.chat.images) + len(each.chat.videos) + 2
            assert picture.size == (pictures * (SIDE + 4) - 4, SIDE)
    assert "[image]" in items[0]["prompt"] and items[0]["picture"].startswith("samples/")
    again = keep_samples(tmp_path, 7, [MASKED], [MASKED.answer])
    assert again["items"][0] == items[0], "a resumed run draws the same file again"
    unknown = keep_samples(tmp_path, 8, [replace(MASKED, mask=None)], [MASKED.answer])
    assert unknown["items"][0]["iou"] == 1.0, "held against the answer's own mask"
    told = keep_samples(tmp_path, 9, [example(0, FULL)], ["x"])["items"][0]["prompt"]
    assert "You are an image editing planner" not in told


def test_samples_on_a_full_disk_say_so(tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("in the way")
    with pytest.raises(EVLMError, match="cannot be written"):
        keep_samples(tmp_path, 1, [MASKED], [MASKED.answer])
