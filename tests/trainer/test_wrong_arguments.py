"""Two hundred wrong argument sets for each command, a third of them in the fast suite: a sentence and an exit
code, never somebody else's exception, and nothing written. Most are refused before anything is loaded, so
they take milliseconds."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_rows import draw_pictures, many, write_rows

from trainer.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
COUNT, PROCESSES = 200, 10
NO_NUMBERS = ("", "abc", "nan", "inf", "1.5", "1e3", "0x10", "9" * 5000, "--", "½", " ")
NO_COUNTS = (*NO_NUMBERS, "0", "-1", "-99999999999999999999")
BEGUN = {
    "new",
    "new.jsonl",
    "new/run.lock",
    "new/log.jsonl",
    "new/tensorboard",
}  # of a run without a model, of rows without a good one
NO_FLAGS = ("--nonsense", "--rows=", "-x", "--help-me", "extra", "--seed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What wrong arguments point at: a file, an empty folder, a dataset, a broken one, files that lie."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "file").write_text("a file")
    (folder / "empty").mkdir()
    write_rows(draw_pictures(folder / "data") / "rows.jsonl", many(2))
    (folder / "broken").mkdir()
    (folder / "broken" / "rows.jsonl").write_text('{"id": 3}\n[]\n{')
    for name in ("lie.safetensors", "lie.parquet", "lie.json", "lie.jsonl"):
        (folder / name).write_bytes(b"\x93\0\xff not what its name says")
    (folder / "lie.yaml").write_bytes(b"\xff\xfe\0")
    (folder / "list.yaml").write_text("- 1\n- 2\n")
    (folder / "deep.yaml").write_text("[" * 1500)
    (folder / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    (folder / "peft").mkdir()
    (folder / "peft" / "adapter_config.json").write_text('{"r": "many"}')
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text("data: 3\n")
    (folder / "protocol.yaml").write_text(
        f"questions: {{world: true, rows: 2}}\nmodels: [{{name: a, base: bundled}}]\nout: {folder / 'new'}\n"
    )
    (folder / "locked").mkdir()
    (folder / "locked").chmod(0o500)
    return folder


def sets(command: str, place: Path) -> Iterator[list[str]]:
    """Argument sets that are wrong in at least one place, the same every time: each flag's wrong values, then
    two or three of them at once, then flags that there are not."""
    gone, file, long = str(place / "gone"), str(place / "file"), str(place / ("n" * 300))
    paths = (gone, file, "", long, str(place / "empty"), f"{file}/below", "nul\0byte", "/dev/null/x")
    lies = [str(place / name) for name in ("lie.safetensors", "lie.parquet", "lie.json", "lie.jsonl")]
    outs = (file, f"{file}/below", "nul\0byte", "/proc/nowhere/out", long, "/dev/null/x")
    new = str(place / "new")
    good: list[str]
    wrong: dict[str, tuple[str, ...]]
    if command == "world":
        good = [new, "--rows", "0"]
        wrong = {
            "OUT": outs,
            "--rows": (*NO_NUMBERS, "-1"),
            "--seed": NO_NUMBERS,
            "--size": (*NO_COUNTS, "15", "1025", "9999999999"),
            "--undesired": ("", "abc", "nan", "inf", "-1", "1e9", "--"),
            "--split": ("", "all", "Train", "3"),
            "--op": ("", "destroy", "Add"),
            "--category": ("", "sound", "image "),
        }
    elif command == "data":
        yield from data_sets(place, paths, outs, lies)
        return
    elif command == "eval":
        good = ["bundled", "--rows", "1", "--tokens", "4"]
        wrong = {
            "BASE": (gone, "nonsense", long, str(place / "empty"), lies[0], "nul\0byte"),
            "--rows": NO_COUNTS,
            "--tokens": (*NO_COUNTS, "65537", "99999999999"),
            "--seed": (*NO_NUMBERS, "-1", str(2**31)),
            "--split": ("", "all", "Train"),
            "--lamp": ("", "abc", "nan", "inf", "-0.1", "1.1"),
            "--data": (gone, file, "", long, str(place / "empty"), str(place / "broken"), *lies),
            "--out": outs,
            "--judge": ("http://127.0.0.1:9",),
        }
    elif command == "run":
        good = ["tiny", "phases=[{kind: sft, steps: 1, batch: 1}]", f"out={new}"]
        wrong = {
            "RECIPE": (
                *paths,
                *lies,
                *(str(place / f"{name}.yaml") for name in ("lie", "list", "deep", "twice")),
                "tiny.yaml",
                "Tiny",
            ),
            "SETTING": (
                *(f"out={each}" for each in outs),
                *(
                    f"seed={each}"
                    for each in ("-1", "nan", "abc", "[", "9" * 5000, "1.5", str(2**31), "null")
                ),
                *(
                    f"phases.0.steps={each}"
                    for each in ("0", "-1", "nan", ".inf", "abc", "1e3", "10000000000")
                ),
                *(f"phases.0.lr={each}" for each in ("0", "-1", ".nan", ".inf", "abc", "11", "[]")),
                *(f"phases.0.{each}=0" for each in ("batch", "micro_batch", "clip", "lrr", "explode")),
                *(f"data={each}" for each in ("3", "[]", "[3]", "[{}]", "[{path: 3}]", "{", "[{world: 1}]")),
                *(
                    f"data=[{{path: {each}}}]"
                    for each in (gone, file, place / "empty", place / "broken", long)
                ),
                *(
                    f"data=[{{world: true, {each}}}]"
                    for each in ("heldout: 0.5", "lamp: 2", "rows: -1", "form: trl")
                ),
                *(
                    f"model.{each}"
                    for each in ("base=", f"base={gone}", "dtype=fp8", "device=abacus", "max_pixels=1")
                ),
                *(
                    f"lora.{each}"
                    for each in ("rank=0", "rank=.nan", "alpha=0", "dropout=1", "targets=[]", "targets=x")
                ),
                *(
                    "phases=",
                    "phases=3",
                    "phases=[]",
                    "phases=[{kind: sft}]",
                    "phases=[{kind: ppo, steps: 1}]",
                ),
                *(
                    "phases.9.steps=1",
                    "phases.x=1",
                    "=1",
                    ".=1",
                    "a..b=1",
                    "seed.x=1",
                    "cycles=0",
                    "save_every=0",
                ),
                "wandb=[]",
                f"model.adapter={gone}",
                f"model.adapter={lies[0]}",
            ),
            "--progress": ("", "none", "BAR"),
        }
    elif command == "export":
        good = [str(place / "peft"), new, "--to", "adapter"]
        wrong = {
            "SOURCE": (*paths, *lies, str(place / "peft"), str(place / "run"), str(place / "data")),
            "OUT": outs,
            "--to": ("", "gguf", "Merged"),
            "--base": ("", gone, "nonsense", file, long),
        }
    elif command == "report":
        good = [str(place / "empty")]
        wrong = {"RUN": (*paths, str(place / "run"), *lies), "--out": outs}
    elif command == "study":
        good = ["table4", "--out", new, "--seeds", "1", "--steps", "1", "--questions", "1"]
        wrong = {
            "STUDY": ("", "table5", "Table4", "--"),
            "SETTING": (
                *("phases=[]", "phases=3", "phases.0=3", "phases=[{kind: sft, steps: 1}]", "seed=abc", "="),
                *(
                    "data=3",
                    "data=[]",
                    "data=[3]",
                    "data.0.lamp=abc",
                    "data.0.lamp=7",
                    f"data=[{{path: {gone}}}]",
                ),
                *("nonsense=1", "lora.rank=0", "phases.1.kind=ppo", "model.dtype=fp8", "phases.7.lr=1"),
            ),
            **dict.fromkeys(("--seeds", "--steps", "--questions", "--jobs"), (*NO_COUNTS, "9" * 12)),
            "--split": ("", "train", "all"),
            "--out": outs,
        }
    elif command == "protocol":
        good = [str(place / "protocol.yaml"), "--only", "tables"]
        wrong = {
            "PROTOCOL": (*paths, *lies, *(str(place / f"{name}.yaml") for name in ("lie", "list", "deep"))),
            "SETTING": (
                *(f"out={each}" for each in outs),
                *(f"questions.rows={each}" for each in ("0", "-1", "nan", "abc", "1.5", "9" * 400, "[]")),
                *(f"questions.seed={each}" for each in ("-1", "abc", str(2**31))),
                *(f"questions.{each}" for each in ("lamp=2", "strata=all", "split=all", "world=false")),
                *(f"questions={{data: {each}}}" for each in (gone, file, place / "empty", place / "broken")),
                *("models=[]", "models=3", "models=[{name: a}]", "models.0.name=", "models.0.base=nonsense"),
                *("models.0.style=loud", "models.0.tokens=0", "models.0.workers=0", f"models.0.base={gone}"),
                *("models.0.endpoint=x", "models.0.adapter=" + gone, "models.0.endpoint=http://127.0.0.1:9"),
                *("judges=3", "judges=[{endpoint: 'file:///x', model: m}]", "judging=maybe", "planted=0.9"),
                *("humans=3", "humans.wanted=0", f"study={gone}", "seed=-1", "asking.workers=0", "nope=1"),
            ),
            "--only": ("", "everything", "Tables"),
        }
    elif command == "bench":
        good = ["pairs", "--data", str(place / "empty"), "--out", new]
        wrong = {
            "BENCH": ("", "risebench", "Rise", "--"),
            "--data": (*paths, *lies),
            "--out": outs,
            "--edits": ("", "red", "=x", f"copy={place}", f"a/b={place}", f"red={gone}"),
            "--chain": ("nonsense", gone),
            "--comfyui": ("", "x", "http://127.0.0.1:9", "file:///x"),
            "--workflow": (*paths, *lies),
            "--limit": NO_COUNTS,
            "--seed": (*NO_NUMBERS, "-1", str(2**31)),
            "--judge": ("http://127.0.0.1:9",),
        }
    elif command == "start":
        good = [str(place / "data"), "--out", f"{new}.yaml"]
        wrong = {
            "FOLDER": (*paths, *lies, str(place / "empty"), str(place / "broken")),
            "--out": outs,
            "--base": ("", " ", "a\nb", "nul\0byte"),
        }
    elif command == "retention":
        good = [gone, "--base", "Qwen/Qwen2-VL-7B-Instruct", "--out", new]
        wrong = {
            "RUN": (gone, "", long, "nul\0byte"),
            "--base": ("", " ", "a\nb"),
            "--out": outs,
            "--limit": NO_COUNTS,
        }
    else:
        assert command == "bundle"
        good = ["check", "--out", str(place / "empty"), "--only", "detector"]
        wrong = {
            "WHAT": ("", "everything", "Check", "--"),
            "--out": outs,
            "--work": outs,
            "--seed": (*NO_NUMBERS, "-1", str(2**31), "9" * 30),
            "--rows": NO_COUNTS,
            "--only": ("", "eyes", "all"),
        }
    yield from combined(command, good, wrong)


def combined(command: str, good: list[str], wrong: dict[str, tuple[str, ...]]) -> Iterator[list[str]]:
    """The good words with wrong ones in their place: one, then several, then flags that do not exist."""
    positional = [name for name in wrong if not name.startswith("--")]

    def put(words: list[str], name: str, value: str) -> list[str]:
        if name == "--judge":
            return [*words, name, value]
        if name.startswith("--"):
            return [*words, name, value]
        if name == "SETTING":
            return [*words, value]
        at = positional.index(name)
        return [*words[:at], value, *words[at + 1 :]]

    for name, values in wrong.items():
        for value in values:
            yield [command, *put(good, name, value)]
    for flag in NO_FLAGS[:4]:
        yield [command, *good, flag]
    if command != "eval":  # whose every argument has a default
        yield [command]
    rng = random.Random(command)
    while True:
        words = good
        for name in rng.sample(list(wrong), min(len(wrong), rng.choice((2, 2, 3)))):
            words = put(words, name, rng.choice(wrong[name]))
        yield [command, *words, *rng.sample(NO_FLAGS[:4], rng.randrange(2))]


def data_sets(
    place: Path, paths: tuple[str, ...], outs: tuple[str, ...], lies: list[str]
) -> Iterator[list[str]]:
    rows, rng = str(place / "data"), random.Random("data")
    for path in (*paths, *lies, str(place / "broken")):
        yield ["data", "check", path]
        yield ["data", "check", path, "--form", rng.choice(("trl", "swift", "llamafactory"))]
    for path in (*paths[:4], lies[1], lies[2], "nul\0byte"):
        yield ["data", "stats", path]
    for number in (*NO_NUMBERS, "-1"):
        yield ["data", "check", rows, "--limit", number]
        yield ["data", "stats", rows, "--pictures", number]
        yield ["data", "check", rows, "--max-pixels", number]
    for base in (str(place / "gone"), "nonsense", "", lies[0], str(place / "empty")):
        yield ["data", "check", rows, "--model", base]
    for path in (*paths, *lies):
        for form in ("evlm", "trl", "llamafactory", "swift"):
            yield ["data", "convert", "--from", form, "--to", "evlm", path, str(place / "new.jsonl")]
    for out in (*outs, str(place / "lie.jsonl")):
        for form in ("trl", "evlm"):
            yield ["data", "convert", "--copy", "--from", "evlm", "--to", form, rows, out]
    yield from (["data"], ["data", "mend"], ["data", "check"], ["data", "convert", rows])
    while True:
        yield [
            "data",
            rng.choice(("check", "stats")),
            rng.choice(paths),
            rng.choice(("--nonsense", "--limit=x")),
        ]


def taken(words: Iterator[list[str]]) -> list[list[str]]:
    return [next(words) for _ in range(COUNT)]


def code_of(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as end:  # argparse's own way out
        return int(end.code or 0)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_arguments_end_with_a_sentence(
    command: str,
    every: int,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through main(argv): no exception leaves it but argparse's SystemExit."""
    monkeypatch.chdir(place / "empty")
    for variable in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    before = tree(place)
    for words in taken(sets(command, place))[::every]:
        try:
            code = code_of(words)
        except BaseException as error:
            pytest.fail(f"{type(error).__name__} left {[word[:120] for word in words]}: {error!s:.300}")
        out, err = capsys.readouterr()
        shown = [word[:120] for word in words]
        assert code in (1, 2), f"{code} of {shown}: {out[-300:]}{err[-300:]}"
        assert (err + out).strip() and "Traceback" not in err, shown
    assert set(tree(place)) - set(before) <= BEGUN, "what is refused writes nothing"


def tree(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_arguments_of_real_processes(command: str, place: Path) -> None:
    words = [each for each in taken(sets(command, place)) if not any("\0" in word for word in each)]
    for each in random.Random(command).sample(words, PROCESSES):
        done = subprocess.run(
            [sys.executable, "-m", "trainer", *each],
            cwd=place / "empty",
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode in (1, 2), (each, done.stdout[-300:], done.stderr[-300:])
        assert (done.stderr + done.stdout).strip() and "Traceback" not in done.stderr, each


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there a pipe ends otherwise")
def test_a_reader_that_has_had_enough_is_no_error(place: Path) -> None:
    """`python -m trainer data stats ... | head -1`."""
    words = f"{sys.executable} -u -m trainer data stats {place / 'data'}"
    command = f"{words} | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "" and done.returncode in (0, 141)
