"""What failed for a while is mended by the same command: endpoints, settings, pictures."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_collect_make import make, private, recipe, rows  # noqa: F401 (private is a fixture)

from benchmarks.scripted_teacher import Teacher, digest_of, teaching
from evlm.errors import EndpointError
from evlm.files.pictures import load_picture
from evlm.reason.messages import Chat
from evlm.reason.reasoner import Generated
from evlm.reason.remote import Completion
from trainer.collect import stages, teach
from trainer.collect.answers import Answers
from trainer.collect.near import DISTANCE, phash
from trainer.collect.pictures import Pictures, stamp
from trainer.collect.recipe import load_recipe
from trainer.collect.sources import tables
from trainer.collect.sources.item import Media
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


@pytest.mark.parametrize("folder", ["originals", "edited"])
def test_a_picture_that_was_damaged_is_read_again_when_it_is_mended(
    tmp_path: Path, whole: tuple[Path, Teacher], folder: str
) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher)
        whole_ones = {file: file.read_bytes() for file in (tmp_path / "photos" / folder).iterdir()}
        for file in whole_ones:
            file.write_bytes(b"\x89PNG\r\n\x1a\n half")
        assert make(path) == 1 and set(dropped(tmp_path)) == {"picture"}
        for file, data in whole_ones.items():
            file.write_bytes(data)
        make(path)
    assert rows(tmp_path) == rows(whole[0])


def test_a_picture_that_was_changed_is_copied_and_asked_about_again(tmp_path: Path) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, samples=1)
        make(path)
        before, sent = rows(tmp_path).splitlines(), len(teacher.asked)
        for file in (tmp_path / "photos/originals").iterdir():
            Image.open(file).point(lambda value: value + 4).save(file)
        make(path)
        after = rows(tmp_path).splitlines()
        assert len(after) == len(before) and not set(after) & set(before)
        assert len(teacher.asked) == 2 * sent


def test_a_frame_that_was_changed_in_a_folder_is_seen(tmp_path: Path) -> None:
    for n in range(3):
        Image.new("RGB", (16, 16), (n, 9, 9)).save(tmp_path / f"{n}.png")
    before = stamp(tmp_path)
    Image.new("RGB", (16, 17), (1, 9, 9)).save(tmp_path / "1.png")
    assert stamp(tmp_path) != before and len(before) == 3 and stamp(tmp_path / "none") == []


def test_pictures_of_a_table_are_read_in_the_order_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    cells = []
    for n in range(24):
        file = BytesIO()
        Image.new("RGB", (16, 16), (n, 90, 9)).save(file, "PNG")
        cells.append({"img": {"bytes": file.getvalue(), "path": None}, "text": f"turn it {n}"})
    parquet.write_table(pyarrow.Table.from_pylist(cells), tmp_path / "t.parquet", row_group_size=3)
    source = {"kind": "columns", "path": str(tmp_path / "t.parquet"), "license": "CC0-1.0",
              "columns": {"original": "img", "instruction": "text"}}  # fmt: skip
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"out": str(tmp_path / "out"), "rows": 200, "sources": [source]}))
    read: list[int] = []
    real = tables.Cell.load
    monkeypatch.setattr(tables.Cell, "load", lambda cell: read.append(cell.row) or real(cell))  # type: ignore[func-returns-value]
    make(path, "--only", "pictures")
    assert len(read) > 11 and read == sorted(read)


def test_copies_are_on_the_disk_before_a_stage_speaks_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe: set[int] = set()
    spoken: list[str] = []
    fsync, sync, append = os.fsync, getattr(os, "sync", None), stages.append_lines

    def one(handle: int) -> None:
        safe.add(os.fstat(handle).st_ino)
        fsync(handle)

    def all_of_them() -> None:
        safe.update(each.stat().st_ino for each in (tmp_path / "out").rglob("*") if each.is_file())

    def said(file: Path, data: bytes) -> None:
        for line in data.splitlines():
            result = json.loads(line)["result"]
            for path in [*result.get("paths", []), *([result["mask"]] if "mask" in result else [])]:
                assert (tmp_path / "out" / path).stat().st_ino in safe
                spoken.append(path)
        append(file, data)

    monkeypatch.setattr(os, "fsync", one)
    if sync is not None:
        monkeypatch.setattr(os, "sync", all_of_them)
    monkeypatch.setattr(stages, "append_lines", said)
    with teaching() as teacher:
        make(recipe(tmp_path, teacher))
    assert len(spoken) > 10


def test_a_copy_that_a_power_cut_left_empty_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / Pictures(tmp_path, 8).write(b"whole", "png")
    path.write_bytes(b"")
    Pictures(tmp_path, 8).write(b"whole", "png")
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("kind", ["MPO", "TIFF", "JPEG"])
def test_a_picture_of_a_phone_stands_upright(tmp_path: Path, kind: str) -> None:
    coarse = np.random.default_rng(3).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    drawn = Image.fromarray(coarse).resize((320, 160), Image.Resampling.BICUBIC)
    drawn.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: 90 degrees clockwise make it upright
    turned = drawn.transpose(Image.Transpose.ROTATE_90)
    more = {"save_all": True, "append_images": [turned]} if kind == "MPO" else {}
    turned.save(tmp_path / "phone.jpg", kind, exif=exif, **more)
    media = Media("0/phone/original", "image", lambda: tmp_path / "phone.jpg")
    copy = tmp_path / Pictures(tmp_path, 8).copy(media)["paths"][0]
    seen = load_picture(copy)[0]
    assert seen.shape == (160, 320, 3)
    assert float((seen - load_picture(tmp_path / "upright.png")[0]).abs().mean()) < 0.02
    one, other = phash(copy), phash(tmp_path / "upright.png")
    assert one is not None and other is not None and bin(one ^ other).count("1") <= DISTANCE


@pytest.mark.parametrize("fewer", [("--limit", 3), ("rows=3",)])
def test_fewer_questions_do_not_take_the_place_of_a_finished_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fewer: tuple[Any, ...]
) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher)
        assert make(path, *fewer) in (0, 1) and rows(tmp_path)  # where nothing is there
        make(path)
        whole_ones, sent = rows(tmp_path), len(teacher.asked)
        assert make(path, *fewer) == 2 and "rows, and at most 6 would" in capsys.readouterr().err
        assert rows(tmp_path) == whole_ones and len(teacher.asked) == sent
        make(path, "filters.instruction_most=10")  # all of them again, by other filters
        assert make(path, "filters.instruction_most=4") == 1 and not rows(tmp_path)


def test_a_part_that_loses_rows_does_not_take_the_place_of_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher)
        make(path, "--limit", 5)
        some = rows(tmp_path)
        assert make(path, "--limit", 5, "filters.instruction_most=4") == 2
        assert "at most 0 would" in capsys.readouterr().err and rows(tmp_path) == some


def test_a_server_that_asks_for_hours_is_heard_and_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        teacher.stop_after, teacher.stopped, teacher.after = 2, 429, "301"
        path = recipe(tmp_path, teacher, tries=2)
        begin = time.monotonic()
        assert make(path) == 2 and time.monotonic() - begin < 60
        assert "after 301 seconds" in capsys.readouterr().err
        teacher.stop_after = None
        make(path)
    assert len(rows(tmp_path).splitlines()) == teacher.served


def test_answers_that_break_off_count_against_what_may_be_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        teacher.breaks = True
        path = recipe(tmp_path, teacher, workers=1, max_cost=0.01, max_tokens=64)
        assert make(path) == 2 and "for what broke off" in capsys.readouterr().err
        ledger = json.loads((tmp_path / "out/ledger.json").read_text())
        each = (4 * 64 * 2 + 64 * 10) / 1e6
        assert ledger["sent"] == len(teacher.asked) == int(0.01 / each) and ledger["cost"] == 0
        assert ledger["lost"] == pytest.approx(ledger["sent"] * each)


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal there")
def test_ctrl_c_ends_the_questions_that_wait_to_be_asked_again(tmp_path: Path) -> None:
    begin = [0.0]

    def press(teacher: Teacher) -> None:
        while len(teacher.asked) < 4:
            time.sleep(0.01)
        begin[0] = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    with teaching() as teacher:
        teacher.stop_after, teacher.stopped = 0, 503
        path = recipe(tmp_path, teacher, pause=8, tries=4)
        threading.Thread(target=press, args=(teacher,)).start()
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background none is there
        try:
            with suppress(KeyboardInterrupt):
                assert make(path) != 0
        finally:
            signal.signal(signal.SIGINT, before)
        assert time.monotonic() - begin[0] < 4 and len(teacher.asked) <= 8


def test_an_answer_that_was_on_its_way_does_not_make_sure_of_refusals_behind_it(tmp_path: Path) -> None:
    class Slow:
        style = codec = None

        def complete(self, chat: Chat, sampling: Any, messages: Any) -> Completion:
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
