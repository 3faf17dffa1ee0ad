"""What the comparisons with TRL share: a tiny Qwen2-VL and rows of the world on disk for both sides, a fresh
process for each training, and the tables.

Both sides see the same rows in the same batches, the same weights and the same adapter, learn in float32 with
AdamW at one rate, and read their pictures from disk. Ours is `trainer.run.loop.run`, theirs a TRL trainer's
`train()`. The clock runs from the end of the steps that are skipped (first calls, and with two epochs all of
the first) to the end of the last one, data, processor and optimiser included: no row comes twice in it.
Tokens are those of the rows, each counted once: prompts and pictures included, padding not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BATCH, RATE = 8, 1e-3
EQUAL = 1e-5
"""Both sides add up in float32 in different orders, and each step starts from weights that the last one
moved: 1e-7 in the first step, more after some; another token, mask or weight would be 1e-2."""
MISSING = 2  # exit code where TRL is not installed
CATEGORIES = ("image", "image+text", "text")  # TRL's collators show no videos
MODULES = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


@dataclass(frozen=True)
class Shape:
    """Of a tiny Qwen2-VL. vocabulary: rows of its embeddings, which are its head too; width, layers, head: of
    the language model; vision_width, vision_depth, vision_head: of the tower."""

    vocabulary: int
    width: int
    layers: int
    head: int
    vision_width: int
    vision_depth: int
    vision_head: int

    def model(self, tokenizer: Any) -> Any:
        from trainer.bundle.tiny_qwen import make_model

        given = {name: value for name, value in asdict(self).items() if name != "vocabulary"}
        model = make_model(tokenizer, **given)
        model.resize_token_embeddings(self.vocabulary, mean_resizing=False)
        return model


SHAPES = {
    # As in real models the head has 9 % of the weights and the tower with its merger 12 % (Qwen2-VL-2B: 11
    # and 30 %, Qwen2-VL-7B: 7 and 8 %).
    "real": Shape(8_000, 320, 16, 64, 192, 6, 32),
    # The head has 75 %: what TRL's fused head costs without Triton.
    "head": Shape(32_000, 160, 4, 32, 96, 3, 16),
}


@dataclass(frozen=True)
class Run:
    """One training. losses: of each step; seconds: CPU seconds of the timed steps, children included;
    tokens: of their rows; libraries, peak: resident memory after the imports, and at most, in bytes."""

    losses: list[float]
    seconds: float
    tokens: int
    libraries: int
    peak: int


# --- before the trainings ---


def prepare(folder: Path, kind: str, steps: int, shape: str, epochs: int = 1) -> None:
    """Writes the model, the adapter, the rows and what each step is made of: in our form and in TRL's, whose
    file has the rows in the order in which our trainer draws them."""
    from evlm.reason.messages import SHORT
    from evlm.records import RowWriter
    from trainer.bundle.tiny_qwen import make_processor, make_tokenizer
    from trainer.config.recipe import Config
    from trainer.config.settings import build
    from trainer.data.conversation import from_row
    from trainer.data.formats import to_trl
    from trainer.data.stream import Source, Stream
    from trainer.learner.learner import load_learner
    from trainer.world.rows import UNDESIRED, Recipe, rows

    tokenizer = make_tokenizer()
    model = SHAPES[shape].model(tokenizer)
    model.save_pretrained(folder / "model")
    make_processor(tokenizer).save_pretrained(folder / "model")
    (folder / "model" / "evlm.json").write_text(json.dumps({"prompt": "short", "mask_codec": "box-spans-8"}))
    writer, wanted = RowWriter(folder / "data"), steps * BATCH // epochs
    for number, category in enumerate(CATEGORIES):
        share = (wanted + number) // len(CATEGORIES)
        recipe = Recipe(seed=1, undesired=0.0 if kind == "sft" else UNDESIRED, category=category)
        writer.append_all(list(rows(recipe, 0, share)))
    learner = load_learner(build(Config, our_recipe(folder, kind, steps)))
    learner.model.save_pretrained(folder / "adapter", selected_adapters=["default"])
    stream, counts = Stream([Source(folder / "data", splits=("train",))], BATCH, 0), []
    with open(folder / "trl.jsonl", "w") as file:
        for step in range(steps):
            samples = stream.batch(step)
            chats = [sample.chat(SHORT) for sample in samples]
            counts.append(learner.collate(chats, [sample.answer for sample in samples]).tokens)
            for sample in samples:
                row = to_trl(from_row(sample.item, SHORT))  # type: ignore[arg-type]
                row["images"] = [str(folder / "data" / path) for path in row["images"]]
                file.write(
                    json.dumps({n: row[n] for n in ("prompt", "completion", "images", "label")}) + "\n"
                )
    skipped = 1 if epochs == 1 else steps // epochs
    (folder / "tokens.json").write_text(json.dumps({"skipped": skipped, "steps": counts}))


def our_recipe(folder: Path, kind: str, steps: int, **phase: Any) -> dict[str, Any]:
    """A constant rate and no weight decay."""
    return {
        "out": str(folder / "out"),
        "model": {"base": str(folder / "model"), "dtype": "fp32", "device": "cpu"},
        "lora": {"rank": 16, "alpha": 32.0},
        "data": [{"path": str(folder / "data")}],
        "phases": [
            {"kind": kind, "steps": steps, "batch": BATCH, "lr": RATE, "warmup": 0, "cooldown": 0.0, **phase}
        ],
        "save_every": 10**6,
        "log_every": 1,
    }


def find_trl(python: str) -> str | None:
    """TRL's version under that interpreter, None where it is not there."""
    asked = "import importlib.metadata as m; print(m.version('trl'))"
    found = subprocess.run([python, "-c", asked], capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None


def missing(python: str) -> int:
    """Says what to do, and gives the exit code."""
    print(
        f"TRL is not installed under {python}: `{python} -m pip install trl datasets`, or name another "
        "interpreter that has it, with --python or EVLM_TRL_PYTHON",
        file=sys.stderr,
    )
    return MISSING


# --- a training, in a process of its own ---


def launch(python: str, module: str, side: str, folder: Path, steps: int) -> Run:
    """Runs one side in a fresh process, whose allocator keeps what is freed unless the side's name has a "*".
    Raises RuntimeError with its last words."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                   "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
    if "*" not in side:  # as our trainer does by itself
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
    command = [python, "-m", module, "--side", side, "--folder", str(folder), "--steps", str(steps)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side}: {done.stderr[-3000:]}")
    return Run(**json.loads(done.stdout.strip().splitlines()[-1]))


class Clock:
    """What a side measures of itself. Made when its libraries are imported."""

    def __init__(self) -> None:
        self.libraries = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.marks: list[float] = []
        self.losses: list[float] = []

    def step(self) -> None:
        """At the end of each optimiser step."""
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        self.marks.append(sum(each.ru_utime + each.ru_stime for each in (own, children)))

    def show(self, folder: Path) -> None:
        """Prints the Run."""
        known = json.loads((folder / "tokens.json").read_text())
        skipped, tokens = known["skipped"], known["steps"][known["skipped"] : len(self.marks)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        seconds = self.marks[-1] - self.marks[skipped - 1]
        print(json.dumps(asdict(Run(self.losses, seconds, sum(tokens), self.libraries, peak))), flush=True)


def train_ours(folder: Path, recipe: dict[str, Any]) -> None:
    """Our side: the trainer's own loop."""
    import shutil

    import torch
    from peft import LoraConfig, get_peft_model  # noqa: F401  # what the trainer imports on its way
    from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor  # noqa: F401

    from trainer.config.recipe import Config
    from trainer.config.settings import build
    from trainer.run.loop import run

    torch.set_num_threads(1)
    clock = Clock()
    shutil.rmtree(recipe["out"], ignore_errors=True)

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            clock.losses.append(event["loss"])
            clock.step()

    run(build(Config, recipe), report)
    clock.show(folder)


def train_theirs(
    folder: Path,
    steps: int,
    trainer: type[Any],
    arguments: Callable[..., Any],
    together: int = BATCH,
    **extra: Any,
) -> None:
    """TRL's side: one of its trainers with its own collator, on the rows in order. together: rows of a
    forward; the gradients of a step's are added up."""
    import torch
    from datasets import Dataset, Image
    from peft import PeftModel
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration, TrainerCallback

    torch.set_num_threads(1)
    clock = Clock()
    parts: list[float] = []

    class Watched(trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            parts.append(float(loss.detach()))
            return loss

    class Marks(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.losses.append(sum(parts))  # each is its share of the step's
            parts.clear()
            clock.step()

    rows = [json.loads(line) for line in (folder / "trl.jsonl").read_text().splitlines()]
    columns = ("prompt", "completion", "images", *extra.pop("columns", ()))
    data = Dataset.from_list([{name: row[name] for name in columns} for row in rows])
    base = Qwen2VLForConditionalGeneration.from_pretrained(folder / "model", dtype="float32")
    model = PeftModel.from_pretrained(base.requires_grad_(False), folder / "adapter", is_trainable=True)
    Watched(
        model,
        args=arguments(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=together,
            gradient_accumulation_steps=BATCH // together,
            max_steps=steps,
            bf16=False,
            use_cpu=True,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            max_length=None,
            dataloader_pin_memory=False,
            logging_steps=10**6,
            **extra,
        ),
        train_dataset=data.cast_column("images", [Image()]),
        processing_class=AutoProcessor.from_pretrained(folder / "model"),
        callbacks=[Marks()],
    ).train()
    clock.show(folder)


# --- after them ---


def interleaved(
    sides: Mapping[str, str], module: str, folder: Path, steps: int, rounds: int, compared: Sequence[str]
) -> dict[str, list[Run]]:
    """`rounds` trainings of each side (name -> interpreter), in turns. A side whose name has a "*" is trained
    in the first round alone. Raises RuntimeError where the losses of `compared` differ by more than EQUAL."""
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for number in range(rounds):
        for side, python in sides.items():
            if number == 0 or "*" not in side:
                runs[side].append(launch(python, module, side, folder, steps))
        if number == 0:
            losses = {side: runs[side][0].losses for side in compared}
            for side in compared[1:]:
                far, near = (
                    apart(losses[side], losses[compared[0]]),
                    apart(losses[side][:1], losses[compared[0]][:1]),
                )
                print(
                    f"  losses, {compared[0]} against {side}: {losses[side][0]:.6f} to "
                    f"{losses[side][-1]:.6f}; "
                    f"greatest relative difference {far:.1e}, of the first step {near:.1e} (bar {EQUAL})"
                )
                if far > EQUAL:
                    raise RuntimeError(
                        "the losses differ: these are not the same training, nothing is compared"
                    )
        for side in sides:
            if len(runs[side]) > number:
                run = runs[side][number]
                print(
                    f"  round {number + 1}, {side}: {run.tokens / run.seconds:,.0f} tokens per CPU-second, "
                    f"peak {run.peak / 2**20:,.0f} MiB",
                    flush=True,
                )
    return runs


def apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Greatest relative difference of two runs' losses, step by step."""
    assert len(ours) == len(theirs), f"{len(ours)} losses against {len(theirs)}"
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def median(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return statistics.median(value(run) for run in runs)


def table(runs: Mapping[str, Sequence[Run]], peers: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Prints each side's medians; side -> peer -> ratios "speed", "memory", "beyond"."""
    values: dict[str, tuple[float, float, float]] = {}
    print(f"\n{'':24} tokens per CPU-second   peak RSS MiB   beyond the libraries")
    for side, each in runs.items():
        values[side] = (
            median(each, lambda r: r.tokens / r.seconds),
            median(each, lambda r: r.peak / 2**20),
            median(each, lambda r: (r.peak - r.libraries) / 2**20),
        )
        spread = [run.tokens / run.seconds for run in each]
        print(
            f"{side:24} {values[side][0]:9,.0f} ({min(spread):,.0f} to {max(spread):,.0f})"
            f" {values[side][1]:14,.0f} {values[side][2]:18,.0f}"
        )
    return {
        side: {
            peer: {
                "speed": values[side][0] / values[peer][0],
                "memory": values[side][1] / values[peer][1],
                "beyond": values[side][2] / values[peer][2],
            }
            for peer in peers
        }
        for side in runs
        if side not in peers
    }


def command(
    description: str,
    compare: Callable[[str, int, int, str], int],
    train: Callable[[str, Path, int], None],
) -> int:
    """The command line of both benchmarks: compare(python, rounds, steps, shape), or in a process of
    its own train(side, folder, steps)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--python", default=os.environ.get("EVLM_TRL_PYTHON", sys.executable))
    parser.add_argument("--shape", choices=SHAPES, default="real")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        train(given.side, given.folder, given.steps)
        return 0
    return compare(given.python, given.rounds, given.steps, given.shape)
