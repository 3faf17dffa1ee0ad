"""The forms that other trainers' public datasets have, with photographs and plain answers: each goes through
`check`, `convert` and `run`, every row of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.__main__ import main
from trainer.data.files import read, read_lines

COUNT = 12
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "coins.png")
QUESTION, ANSWER = "What is in this picture, in a few words?", "It is photograph number {}, and nothing else."


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs that scikit-image ships."""
    import skimage

    folder = tmp_path_factory.mktemp("public") / "photographs"
    folder.mkdir()
    for name in PHOTOGRAPHS:
        (folder / name).write_bytes((Path(skimage.__file__).parent / "data" / name).read_bytes())
    return folder


def sharegpt(at: int, picture: str) -> dict[str, Any]:
    """LLaMA-Factory, data/README.md: ShareGPT with kto_tag."""
    turns = [{"from": "human", "value": f"<image>{QUESTION}"}, {"from": "gpt", "value": ANSWER.format(at)}]
    return {"conversations": turns, "images": [picture], "kto_tag": at % 3 != 0}


def openai(at: int, picture: str) -> dict[str, Any]:
    """LLaMA-Factory's data/kto_en_demo.json and mllm_demo.json: several turns of {role, content}."""
    turns = [
        {"role": "user", "content": f"<image>{QUESTION}"},
        {"role": "assistant", "content": "A photograph."},
        {"role": "user", "content": "Which one?"},
        {"role": "assistant", "content": ANSWER.format(at)},
    ]
    return {"messages": turns, "images": [picture], "label": at % 3 != 0}


def alpaca(at: int, picture: str) -> dict[str, Any]:
    """LLaMA-Factory, data/README.md: Alpaca with kto_tag."""
    return {
        "instruction": "<image>Describe it.",
        "input": QUESTION,
        "output": ANSWER.format(at),
        "images": [picture],
        "kto_tag": at % 3 != 0,
    }


def swift(at: int, picture: str) -> dict[str, Any]:
    """ms-swift, Custom-dataset.md; every other row has no stand-in for its picture (A22)."""
    question = QUESTION if at % 2 else f"{QUESTION}<image>"
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWER.format(at)}]
    return {"messages": turns, "images": [picture], "label": at % 3 != 0}


def query(at: int, picture: str) -> dict[str, Any]:
    """ms-swift, Custom-dataset.md: {query, response}."""
    return {
        "system": "Be brief.",
        "history": [["Hello", "Hello!"]],
        "query": QUESTION,
        "response": ANSWER.format(at),
        "images": picture,
    }


def unpaired(at: int, picture: str) -> dict[str, Any]:
    """TRL, dataset_formats.md: conversational unpaired preference with a picture."""
    items = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    return {
        "prompt": [{"role": "user", "content": items}],
        "completion": [{"role": "assistant", "content": ANSWER.format(at)}],
        "images": [picture],
        "label": at % 3 != 0,
    }


def vision_sft(at: int, picture: str) -> dict[str, Any]:
    """TRL, vision SFT: messages whose content is a list, as in HuggingFaceH4/llava-instruct-mix-vsft."""
    items = [
        {"index": None, "text": f"{QUESTION}\n", "type": "text"},
        {"index": 0, "text": None, "type": "image"},
    ]
    answer = [{"index": None, "text": ANSWER.format(at), "type": "text"}]
    return {
        "messages": [{"role": "user", "content": items}, {"role": "assistant", "content": answer}],
        "images": [picture],
    }


KINDS: dict[str, tuple[str, Callable[[int, str], dict[str, Any]], str]] = {
    "sharegpt": ("llamafactory", sharegpt, ".json"),
    "openai": ("llamafactory", openai, ".jsonl"),
    "alpaca": ("llamafactory", alpaca, ".json"),
    "swift": ("swift", swift, ".jsonl"),
    "query": ("swift", query, ".jsonl"),
    "unpaired": ("trl", unpaired, ".jsonl"),
    "vision_sft": ("trl", vision_sft, ".jsonl"),
    "unpaired_bytes": ("trl", unpaired, ".parquet"),
    "vision_sft_bytes": ("trl", vision_sft, ".parquet"),
}
INFO = {
    "openai": {
        "file_name": "openai.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images", "kto_tag": "label"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    },
    "alpaca": {"file_name": "alpaca.json", "columns": {"prompt": "instruction", "kto_tag": "kto_tag"}},
}


def written(folder: Path, kind: str) -> Path:
    """Rows of a kind, beside their photographs, or with them inside."""
    _, row, suffix = KINDS[kind]
    file = folder / f"{kind}{suffix}"
    rows = [row(at, PHOTOGRAPHS[at % len(PHOTOGRAPHS)]) for at in range(COUNT)]
    if kind in INFO:
        (folder / "dataset_info.json").write_text(json.dumps(INFO))
    if suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        for each in rows:
            each["images"] = [{"bytes": (folder / p).read_bytes(), "path": None} for p in each["images"]]
        parquet.write_table(arrow.Table.from_pylist(rows), file)
    elif suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_all_rows_are_checked_and_converted(
    photographs: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain answers as they are: with their words, labels and pictures, in our rows and in other forms."""
    form, file = KINDS[kind][0], written(photographs, kind)
    code = main(["data", "check", str(file)])
    out, err = capsys.readouterr()
    assert code == 0 and f"{COUNT} rows of the form {form}, {COUNT} good, 0 bad" in out, err
    assert main(["data", "convert", "--from", form, "--to", "evlm", "--copy", str(file), str(tmp_path)]) == 0
    rows = [row for _, row in read(tmp_path, lambda problem: pytest.fail(str(problem)))]
    labelled = kind not in ("query", "vision_sft", "vision_sft_bytes")
    assert [row.completion for row in rows] == [ANSWER.format(at) for at in range(COUNT)]
    assert [row.label for row in rows] == [at % 3 != 0 or not labelled for at in range(COUNT)]
    assert all(QUESTION in row.prompt and (tmp_path / row.original[0]).is_file() for row in rows)
    other = "swift" if form == "trl" else "trl"
    for source, path in ((form, file), ("evlm", tmp_path / "rows.jsonl")):
        target = tmp_path / f"from-{source}" / "out.jsonl"
        words = ["--from", source, "--to", other, "--copy", str(path), str(target)]
        assert main(["data", "convert", *words]) == 0
        lines = [data for _, data in read_lines(target)]
        assert len(lines) == COUNT and all(len(line["images"]) == 1 for line in lines)
        said = json.dumps(lines[7])
        assert QUESTION in said and ANSWER.format(7) in said and "<thinking>" not in said
        assert capsys.readouterr().err == ""


def test_a_run_learns_from_all_kinds_at_once(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SFT, KTO and RKTO without a trace anywhere; every row is read with its picture."""
    from trainer.config.recipe import load_config
    from trainer.learner.rows import rows_for
    from trainer.model.batch import Collator

    sources = [{"path": str(written(photographs, kind)), "form": KINDS[kind][0]} for kind in KINDS]
    phases = [
        {"kind": "sft", "steps": 1, "batch": 2},
        {"kind": "kto", "steps": 1, "batch": 4},
        {"kind": "rkto", "steps": 1, "batch": 2, "rewards": {"samples": 2, "max_new_tokens": 8}},
    ]
    more = [f"data={json.dumps(sources)}", f"phases={json.dumps(phases)}", "lora.rank=2", f"out={tmp_path}"]
    code = main(["run", "tiny", *more, "--progress", "jsonl"])
    out, err = capsys.readouterr()
    assert code == 0 and (tmp_path / "adapter.safetensors").is_file(), err
    config = load_config("tiny", more)
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["kind"] for event in events if event["event"] == "phase"]
    assert kinds == ["sft", "kto", "rkto"]
    steps = [event for event in events if event["event"] == "step"]
    assert all(event["loss"] == event["loss"] for event in steps) and steps[2]["malformed"] == 1.0

    from evlm.models.zoo import resolve
    from evlm.plan.mask_codec import get_codec
    from evlm.reason.backbone import open_processor
    from evlm.reason.messages import get_style

    collate = Collator(open_processor(resolve("bundled", "reasoner")))
    for phase, labelled in ((0, len(KINDS)), (1, 6)):
        kind = config.phases[phase]
        rows = rows_for(config, kind, get_style("short"), get_codec("box-spans-8"))
        desired = COUNT * 2 // 3
        unlabelled = (len(KINDS) - 6) * COUNT
        assert rows.count == (6 * desired + unlabelled if kind.kind == "sft" else labelled * COUNT)
    seen = set()
    for step in range(6 * COUNT // 4):
        for example in rows.batch(step):
            seen.add((example.answer, example.desired))
            batch = collate([example.chat], [example.answer])
            assert len(batch.grids) == 1 and batch.tokens < 2048
    assert seen == {(ANSWER.format(at), at % 3 != 0) for at in range(COUNT)}


def test_what_of_a_row_is_not_learned_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Earlier answers of a conversation; and rows whose boxes stand elsewhere are refused."""
    said = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    row = {"messages": [{"role": role, "content": text} for role, text in said]}
    file = tmp_path / "swift.jsonl"
    file.write_text(json.dumps(row) + "\n")
    assert main(["data", "check", str(file), "--form", "swift"]) == 0
    assert "1 rows have earlier turns of the assistant" in capsys.readouterr().out
    boxed = {"messages": [{"role": "user", "content": "where?"}, {"role": "assistant", "content": "<bbox>"}]}
    objects = {**row, "objects": {"ref": ["cat"], "bbox": [[1, 2, 3, 4]]}}
    empty = {**row, "objects": {"ref": [], "bbox": []}}  # as ms-swift writes rows that have none
    file.write_text("".join(json.dumps(each) + "\n" for each in (boxed, objects, row, empty)))
    assert main(["data", "check", str(file), "--form", "swift"]) == 1
    out, err = capsys.readouterr()
    assert (
        "4 rows of the form swift, 2 good, 2 bad" in out and err.count("of grounding rows are not read") == 2
    )


def test_what_slots_make_of_a_plain_answer() -> None:
    from trainer.estimators.rewards import word_overlap

    assert word_overlap("a red square", "a red square") == 1.0 and word_overlap("", "a") == 0.0
    assert word_overlap("a red square", "a blue square here") == pytest.approx(4 / 7)


def test_words_that_spell_special_tokens_are_words(tmp_path: Path, photographs: Path) -> None:
    """A question or an answer with `<|image_pad|>` in it shows no picture."""
    from evlm.models.zoo import resolve
    from evlm.reason.backbone import open_processor
    from trainer.data.stream import Source, Stream
    from trainer.model.batch import Collator

    row = sharegpt(0, PHOTOGRAPHS[0])
    row["conversations"][0]["value"] += " <|image_pad|><|im_end|>"
    row["conversations"][1]["value"] += " <|video_pad|><|im_end|>"
    (photographs / "special.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = Stream([Source(photographs / "special.jsonl", form="llamafactory")], 1).batch(0)
    try:
        batch = Collator(open_processor(resolve("bundled", "reasoner")))([sample.chat()], [sample.answer])
        shown, wanted = int(batch.vision_mask.sum()), int(batch.grids.prod() // 4)
    except StopIteration:
        shown, wanted = -1, 0
    assert shown == wanted
