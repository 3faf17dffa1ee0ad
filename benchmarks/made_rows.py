"""What `data make` makes of pictures is worth what the pictures' own rows are: a training on both, compared.

    python -m benchmarks.made_rows [--rows 600] [--questions 1000] [--steps 40] [--out out/made-rows]

Pairs of the drawn world under a warm lamp, which the bundled reasoner has never seen, lie as a folder of
anybody's photographs, with what somebody asked for (before, after, prompt, references). `data make` asks a
scripted teacher that knows the right trace of each original, and filters, finds masks and writes rows: its
defaults, but for `plan: asked` (where the plan of Table 6 asks in other words and with other people's
pictures beside, the same traces answer something else), and for `duplicates`, for the world's scenes are
alike. The other arm has the world's own rows of the same originals, as many. Both arms: SFT by the recipe
tiny, then the same questions of the world's test split under the lamp. Bar: the mean of exact plans differs
by at most 2 points. Each step is done once: called again, it goes on.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.rated_kto import difference, do
from benchmarks.scripted_teacher import teaching
from evlm.plan.trace import render
from evlm.records import RowWriter
from trainer.demo.maker import TYPES, picture_key
from trainer.world.light import under_lamp
from trainer.world.rows import Recipe, completion_row, pictures_of, question_at
from trainer.world.traces import write_trace

ROOT = Path(__file__).resolve().parents[1]
LAMP = 0.5
BAR = 0.02
KINDS = ("image", "image+text", "text")  # of stills: a clip that another pair lends says nothing of the edit


def main(options: argparse.Namespace) -> int:
    out = options.out.resolve()
    if not (out / "truth.json").is_file():
        draw(out, options.rows)
    made = make(out, options.rows)
    own = world_rows(out, made)
    print(f"{len(made):,} rows made, {own:,} of the world's own of the same originals")
    exact = {arm: answered(out, arm, options) for arm in ("made", "own")}
    mean, low, high = difference(exact["made"], exact["own"], options.seed)
    for arm, values in exact.items():
        print(f"{arm}: {np.mean(list(values.values())):.4f} of {len(values):,} plans exact")
    print(f"made - own: {100 * mean:+.2f} points, 90 % [{100 * low:+.2f}, {100 * high:+.2f}]")
    return int(abs(mean) > BAR)


def recipes() -> list[Recipe]:
    """A seed each: of one seed all kinds would ask about the same originals, and the teacher knows them by
    these."""
    return [Recipe(seed=100 + at, undesired=0, category=kind) for at, kind in enumerate(KINDS)]


def draw(out: Path, count: int) -> None:
    """out/photos, and out/truth.json: {original's key: [which kind, which question, its trace]}."""
    lines, truth = [], {}
    asked = [0 for _ in KINDS]
    for number in range(count):
        at = number % len(KINDS)
        recipe = recipes()[at]
        question = question_at(recipe, asked[at])
        which, asked[at] = asked[at], asked[at] + 1
        before, after = question.edit.pictures(64, 1)
        shown = {"original": before, "edited": after}
        shown |= {f"reference {at}": ref.pixels(64) for at, ref in enumerate(question.refs) if ref.scenes}
        line: dict[str, Any] = {"instruction": question.edit.instruction, "group": f"{number:04d}"}
        line |= {"edit_type": TYPES[question.edit.op], "prompt": question.prompt, "references": []}
        line["texts"] = [ref.text for ref in question.refs if not ref.scenes]
        for name, frames in shown.items():
            pixels, file = lit(frames[0]), f"pictures/{number:04d}-{name.replace(' ', '-')}.png"
            (out / "photos/pictures").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(out / "photos" / file)
            if name in ("original", "edited"):
                line[name] = file
            else:
                line["references"].append(file)
            if name == "original":
                trace = render(write_trace(random.Random(f"teacher {number}"), question))
                truth[picture_key(pixels)] = [at, which, trace]
        lines.append(json.dumps(line))
    assert len(truth) == count, "two questions have one original"
    (out / "photos/pairs.jsonl").write_text("\n".join(lines) + "\n")
    (out / "truth.json").write_text(json.dumps(truth))


def lit(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    frames = under_lamp(torch.from_numpy(np.ascontiguousarray(pixels))[None].float() / 255, LAMP)
    return np.asarray((frames[0] * 255).round().to(torch.uint8).numpy())


def make(out: Path, count: int) -> list[dict[str, Any]]:
    """The rows of out/made, taught by one who knows."""
    rows = out / "made/rows.jsonl"
    if not rows.is_file():
        truth = json.loads((out / "truth.json").read_text())
        with teaching() as teacher:
            teacher.says = lambda body: str(truth[picture_key(first_picture(body))][2])
            settings = {
                "out": str(out / "made"), "rows": count, "plan": "asked", "split": {"test": 0.0},
                "filters": {"duplicates": False},
                "sources": [{"kind": "folder", "path": str(out / "photos"), "license": "Apache-2.0"}],
                "teacher": {"endpoint": teacher.url, "model": "scripted", "terms": "ours", "samples": 1,
                            "hint": "none", "send_pictures": True},
            }  # fmt: skip
            (out / "made.yaml").write_text(json.dumps(settings))
            command = [sys.executable, "-m", "trainer", "data", "make", str(out / "made.yaml")]
            environment = {**os.environ, "EVLM_ALLOW_PRIVATE_ENDPOINTS": "1"}
            if subprocess.run(command, cwd=ROOT, env=environment).returncode not in (0, 1):
                raise SystemExit("data make ended with an error")
    return [json.loads(line) for line in rows.read_text().splitlines()]


def first_picture(body: dict[str, Any]) -> NDArray[np.uint8]:
    content = next(each["content"] for each in body["messages"] if each["role"] == "user")
    url = next(part["image_url"]["url"] for part in content if part["type"] == "image_url")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def world_rows(out: Path, made: list[dict[str, Any]]) -> int:
    """Writes out/own: for each made row the world's desired row of its original, with its own prompt."""
    if (out / "own/rows.jsonl").is_file():
        return len((out / "own/rows.jsonl").read_text().splitlines())
    truth = json.loads((out / "truth.json").read_text())
    written: dict[tuple[int, int], int] = {}
    rows = []
    for each in made:
        with Image.open(out / "made" / each["original"][0]) as picture:
            at, which, _ = truth[picture_key(np.asarray(picture.convert("RGB")))]
        recipe, question = recipes()[at], question_at(recipes()[at], which)
        row = completion_row(recipe, which, question)
        again = written[at, which] = written.get((at, which), 0) + 1
        pictures = pictures_of(recipe, which, question)
        row = type(row)(**{**vars(row), "id": f"{row.id}-{again}", "label": True, "raters": ()})
        lamp = {path: picture if path == row.mask else under_lamp(picture[None], LAMP)[0]
                for path, picture in pictures.items()}  # fmt: skip
        rows.append((row, lamp if again == 1 else {}))
    RowWriter(out / "own").append_all(rows)
    return len(rows)


def answered(out: Path, arm: str, options: argparse.Namespace) -> dict[str, bool]:
    """{question: whether its plan was exact} after the arm's training."""
    run = out / f"run-{arm}-{options.steps}-{options.seed}"
    judged = out / f"eval-{arm}-{options.steps}-{options.seed}-{options.questions}"
    if not (run / "adapter.safetensors").is_file():
        settings = {
            "out": str(run), "seed": options.seed, "model": {"base": "bundled", "attention": "eager"},
            "lora": {"rank": 32, "alpha": 64}, "data": [{"path": str(out / arm)}],
            "phases": [{"kind": "sft", "steps": options.steps, "batch": 16, "lr": 1.0e-3}],
        }  # fmt: skip
        run.with_suffix(".yaml").write_text(json.dumps(settings))
        do("run", str(run.with_suffix(".yaml")))
    if not (judged / "answers.jsonl").is_file():
        do("eval", "bundled", "--adapter", str(run / "adapter.safetensors"), "--rows", str(options.questions),
           "--lamp", str(LAMP), "--seed", str(options.seed + 1), "--out", str(judged))  # fmt: skip
    lines = (json.loads(line) for line in (judged / "answers.jsonl").read_text().splitlines())
    return {each["id"]: bool(each["exact"]) for each in lines}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=600, help="pairs that are drawn")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "out/made-rows")
    sys.exit(main(parser.parse_args()))
