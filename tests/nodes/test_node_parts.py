"""Plans, boxes, composites, references and ratings, as the nodes take and give them."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from standin import call, part

TEXT = (
    "<thinking>\na\n</thinking>\n<intermediate>\nb\n</intermediate>\n<reflection>\nc\n</reflection>\n"
    "<output>\ninstruction: make the car red\ntargets: car\nscope: local\n"
    "mask: box 100 100 500 500 full\n</output>"
)


def plan_of(**inputs: Any) -> Any:
    return call("EVLM_PlanFromText", **inputs).args[0]


def test_a_plan_goes_through_text_and_back() -> None:
    trace = plan_of(text=TEXT)
    assert (trace.thinking, trace.plan.instruction, trace.plan.targets) == ("a", "make the car red", ("car",))
    for form in ("json", "trace"):
        text = call("EVLM_PlanToText", plan=trace, form=form).args[0]
        assert plan_of(text=text, plain=False).plan == trace.plan
    assert call("EVLM_PlanToText", plan=trace, form="instruction").args == ("make the car red",)


def test_a_sentence_is_a_plan_when_that_is_wanted() -> None:
    wrong = part("evlm.errors").TraceError
    whole = plan_of(text="make it\nsnow").plan
    assert (whole.instruction, whole.targets, whole.scope) == ("make it snow", (), "global")
    local = plan_of(text="paint it", targets="red car; dog").plan
    assert (local.targets, local.scope) == (("red car", "dog"), "local")
    for text, plain in (("make it snow", False), ("", True), ("{broken", True), ("<output>", True)):
        with pytest.raises(wrong):
            plan_of(text=text, plain=plain)


def based(trace: Any) -> Any:
    """The same plan from a model that was never trained on masks."""
    return replace(trace, plan=replace(trace.plan, trust="base"))


def test_a_mask_becomes_the_plans_own() -> None:
    mask = torch.zeros(1, 40, 60)
    mask[:, 10:30, 15:45] = 1
    plan = plan_of(text="paint it", targets="car", mask=mask).plan
    assert plan.mask_text == "box 250 250 750 750 full"
    base = call("EVLM_PlanToText", plan=based(plan_of(text=TEXT)), form="json").args[0]
    assert plan_of(text=base).plan.trust == "base"
    assert plan_of(text=base, mask=mask).plan.trust == "tuned", "what a person draws is obeyed"
    boxes, scores, _ = call("EVLM_Ground", image=torch.rand(1, 40, 60, 3), plan=plan_of(text=TEXT)).args
    assert scores == [0.0] and boxes[0]["label"] == "car", "no detector vouches for it"
    assert [boxes[0][key] for key in ("x", "y", "width", "height")] == [6, 4, 24, 16]


def test_boxes_of_other_packs_are_read() -> None:
    to_boxes, wrong = part("nodes.sockets").to_boxes, part("evlm.errors").RequestError

    def sides(value: Any) -> list[tuple[float, ...]]:
        return [(b.x0, b.y0, b.x1, b.y1, b.frame) for b in to_boxes(value)]

    assert sides([1, 2, 5, 9]) == sides([[1, 2, 5, 9]]) == [(1, 2, 5, 9, 0)]
    assert sides([[[1, 2, 5, 9]], [[2, 2, 6, 9], [0, 0, 1, 1]]]) == [
        (1, 2, 5, 9, 0),
        (2, 2, 6, 9, 1),
        (0, 0, 1, 1, 1),
    ]
    assert sides({"x": 1, "y": 2, "width": 4, "height": 7}) == [(1, 2, 5, 9, 0)]
    assert sides([]) == []
    for bad in (
        "box",
        [1, 2, 3],
        [[1, 2, float("nan"), 4]],
        [{"x": 1}],
        [[5, 5, 5, 9]],
        7,
        [[["a", 1, 2, 3]]],
    ):
        with pytest.raises(wrong, match="box"):
            to_boxes(bad)


def test_boxes_and_points_as_kjnodes_gives_them() -> None:
    """Points in Python's writing, boxes as arrays, an empty box among good ones (A23)."""
    import numpy as np

    to_boxes, wrong = part("nodes.sockets").to_boxes, part("evlm.errors").RequestError

    def sides(value: Any) -> Any:
        try:
            return [(b.x0, b.y0, b.x1, b.y1, b.frame) for b in to_boxes(value)]
        except wrong as error:
            return str(error)

    assert sides(np.array([[1, 2, 5, 9]])) == [(1, 2, 5, 9, 0)]
    assert sides([np.array([1, 2, 5, 9], np.float32), torch.tensor([0, 0, 1, 1])]) == [
        (1, 2, 5, 9, 0),
        (0, 0, 1, 1, 0),
    ]
    assert sides([[5, 5, 5, 9], [1, 2, 5, 9], [0, 0, 0, 0]]) == [(1, 2, 5, 9, 0)]
    assert "not empty" in sides([[5, 5, 5, 9], [0, 0, 0, 0]]), "where all are, nothing is left to segment"

    points = part("nodes.segment")._points

    def clicks(text: str) -> Any:
        try:
            return [each.tolist() for each in points(text)]
        except wrong as error:
            return str(error)

    assert clicks("[{'x': 63, 'y': 74}]") == clicks('[{"x": 63, "y": 74}]') == [[[[63.0, 74.0]]], [[1]]]
    assert "expected" in clicks("__import__('os')") and "expected" in clicks("[" * 9999)


def test_a_mask_of_a_plan_from_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """(B11) Core's empty mask was a place without a pixel, and of a clip the first frame's counted alone."""
    told: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", told.append)
    plain = plan_of(text="make it red").plan
    assert plan_of(text="make it red", mask=torch.zeros(1, 64, 64)).plan == plain
    assert "counts as none" in told[-1]
    masks = torch.zeros(2, 32, 32)
    masks[0, :16, :16] = masks[1, 16:, 16:] = 1
    plan = plan_of(text="make it red", mask=masks).plan
    kept = part("evlm.plan.mask_codec").decode_mask(plan.mask_text, 32, 32)
    assert torch.equal(kept, masks.amax(0)) and plan.scope == "local"
    assert "2 masks are taken together" in told[-1] and "16 x 16 cells" in told[-1]


def test_what_a_borrowed_model_can_do_is_not_hidden() -> None:
    """(B9) One sentence for an editor that wants one; a picture of several steps encoded once."""
    from contextlib import contextmanager
    from types import SimpleNamespace

    inside: list[bool] = []

    class Segmenter:
        remembers = False

        @contextmanager
        def remembering(self) -> Any:
            self.remembers = True
            yield
            self.remembers = False

        def segment(self) -> None:
            inside.append(self.remembers)

    borrowed = part("nodes.borrowed").Borrowed
    editor = SimpleNamespace(edit=len, steps=False)
    assert borrowed(editor, "edit").steps is False and borrowed(Segmenter(), "segment").steps is True
    segmenter = borrowed(Segmenter(), "segment")
    with segmenter.remembering():
        segmenter.segment()
    segmenter.segment()
    with borrowed(editor, "edit").remembering():
        pass
    assert inside == [True, False]


def test_a_composite_changes_nothing_outside() -> None:
    original, edited = torch.rand(2, 32, 48, 3), torch.rand(1, 16, 24, 3)
    mask = torch.zeros(1, 32, 48)
    mask[:, 8:24, 10:30] = 1
    combined = call("EVLM_Composite", original=original, edited=edited, mask=mask).args[0]
    off = mask.expand(2, -1, -1) < 0.5
    assert torch.equal(combined[off], original[off]) and not torch.equal(combined, original)
    hard = call("EVLM_Composite", original=original, edited=original[:1], mask=mask, feather=0).args[0]
    assert torch.allclose(hard[0], original[0]) and torch.equal(
        hard[1][mask[0] > 0], original[0][mask[0] > 0]
    )
    with pytest.raises(part("evlm.errors").PictureError, match="give one, or one each"):
        call("EVLM_Composite", original=original, edited=edited, mask=mask.expand(3, -1, -1))


def test_references_are_chained_in_order() -> None:
    first = call("EVLM_Reference", kind="text", text="green").args[0]
    both = call(
        "EVLM_Reference", kind="image", image=torch.rand(2, 8, 8, 4), note="n", references=first
    ).args[0]
    assert [each.kind for each in both] == ["text", "image", "image"]
    assert both[1].note == "n" and both[1].frames.shape == (1, 8, 8, 3)
    video = call("EVLM_Reference", kind="video", image=torch.rand(3, 8, 8, 3)).args[0]
    assert len(video) == 1 and video[0].frames.shape[0] == 3
    for inputs in ({"kind": "image"}, {"kind": "text"}, {"kind": "sound", "text": "x"}):
        with pytest.raises(part("evlm.errors").RequestError):
            call("EVLM_Reference", **inputs)


@pytest.fixture()
def output(tmp_path: Path) -> Any:
    folder_paths.use(tmp_path)
    (tmp_path / "output").mkdir()
    yield tmp_path / "output"
    folder_paths.use(tmp_path / "gone")


def rate(**inputs: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(inputs.pop("seed", 0))
    rated = call(
        "EVLM_RateEdit",
        **{
            "plan": plan_of(text=TEXT),
            "original": torch.rand(1, 16, 16, 3, generator=generator),
            "edited": torch.rand(1, 16, 16, 3, generator=generator),
            "prompt": "red",
            "mask": torch.ones(1, 16, 16),
            "references": call("EVLM_Reference", kind="text", text="green").args[0],
            **inputs,
        },
    )
    counts: dict[str, Any] = rated.ui["evlm_rating"][0]
    return counts


def test_a_rating_becomes_a_row_that_the_trainer_reads(output: Path) -> None:
    assert rate() == {"rows": 0, "good": 0, "bad": 0, "folder": "evlm_ratings", "written": False}
    assert not (output / "evlm_ratings").exists()
    assert rate(verdict="good", note="fine")["written"]
    again = rate(verdict="good", note="fine")
    assert not again["written"] and again["rows"] == 1
    assert rate(verdict="bad", seed=1) == {
        "rows": 2,
        "good": 1,
        "bad": 1,
        "folder": "evlm_ratings",
        "written": True,
    }
    rows = list(part("evlm.records").read_rows(output / "evlm_ratings"))
    assert [row.label for row in rows] == [True, False] and rows[0].meta == {"note": "fine"}
    assert rows[0].trace() == plan_of(text=TEXT) and rows[0].category == "text"
    request = rows[0].request(output / "evlm_ratings")
    assert request.prompt == "red" and request.original.shape == (1, 16, 16, 3)


def test_rows_that_were_taken_away_are_written_again(output: Path) -> None:
    """(A4) ComfyUI hands on what it had, unless the fingerprint says that the folder is another."""
    print_of = part("nodes.rate").RateEdit.fingerprint_inputs
    first = print_of(dataset="evlm_ratings", verdict="good")
    rate(verdict="good")
    assert print_of(dataset="evlm_ratings") == first == print_of(dataset="evlm_ratings")  # its own row
    assert print_of(dataset=None) == "linked"
    rows = output / "evlm_ratings" / "rows.jsonl"
    text = rows.read_bytes()
    rows.unlink()
    gone = print_of(dataset="evlm_ratings")
    assert gone != first and gone == print_of(dataset="evlm_ratings")
    rate(verdict="good")
    assert print_of(dataset="evlm_ratings") == gone
    rows.write_bytes(text + b"\n")
    assert print_of(dataset="evlm_ratings") not in (gone, first)


def test_what_is_no_pair_is_not_rated(output: Path) -> None:
    """(A2) Three pictures that were planned one by one, an original with its variations, two sizes."""
    error = part("evlm.errors").RequestError
    three, four = torch.rand(3, 16, 16, 3), torch.rand(4, 16, 16, 3)
    plan = plan_of(text=TEXT).for_picture(1, 3)
    with pytest.raises(error, match="original: 3 pictures, and the plan is for one of the 3"):
        rate(plan=plan, original=three, edited=three, verdict="good")
    with pytest.raises(error, match=r"edited: 4 pictures, but original has 1: .* Image From Batch"):
        rate(edited=four, verdict="good")
    with pytest.raises(error, match="edited: 16 x 24, but original has 16 x 16"):
        rate(edited=torch.rand(1, 24, 16, 3), verdict="good")
    assert rate(plan=plan, verdict="good")["written"]


def test_two_raters_at_once_lose_nothing(output: Path) -> None:
    def work(first: int) -> None:
        for seed in range(first, first + 8):
            rate(verdict="good", seed=seed)

    threads = [threading.Thread(target=work, args=(n,)) for n in (0, 100)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(list(part("evlm.records").read_rows(output / "evlm_ratings"))) == 16


@pytest.mark.parametrize(
    "name", ["..", "../x", "/tmp/x", "a/b", "a\\b", "", " ", "con", "NUL.txt", "x\x00", "x.", "~",
             "a" * 65, "ä", "C:x"],
)  # fmt: skip
def test_a_dataset_stays_in_the_output_folder(output: Path, name: str) -> None:
    with pytest.raises(part("evlm.errors").RecordError, match="dataset"):
        rate(verdict="good", dataset=name)
    assert "dataset" in part("nodes.rate").RateEdit.validate_inputs(dataset=name)
    assert not any(output.iterdir())


def test_a_dataset_that_is_a_link_is_refused(output: Path, tmp_path: Path) -> None:
    (output / "evlm_ratings").symlink_to(tmp_path)
    with pytest.raises(part("evlm.errors").RecordError, match="link"):
        rate(verdict="good")


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
@pytest.mark.parametrize("file", ["rows.jsonl", "rows.lock"])
@pytest.mark.parametrize("hard", [False, True])
def test_rows_that_lie_elsewhere_are_not_written(output: Path, tmp_path: Path, file: str, hard: bool) -> None:
    """Neither a link nor a second name of somebody's file is appended to (N3)."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine\n")
    folder = output / "evlm_ratings"
    folder.mkdir()
    if hard:
        (folder / file).hardlink_to(victim)
    else:
        (folder / file).symlink_to(victim)
    with pytest.raises(part("evlm.errors").RecordError, match="link"):
        rate(verdict="good")
    assert victim.read_bytes() == b"mine\n"


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_link_that_comes_at_the_last_moment_is_not_followed(tmp_path: Path) -> None:
    """The file that was opened is looked at, not only the name (N3)."""
    from evlm.files.append import append_lines

    victim = tmp_path / "victim"
    victim.write_bytes(b"mine\n")
    (tmp_path / "rows.jsonl").symlink_to(victim)
    with pytest.raises(OSError, match=r"link|symbolic"):
        append_lines(tmp_path / "rows.jsonl", b"x\n")
    assert victim.read_bytes() == b"mine\n"


@pytest.mark.parametrize("name", ["evlm_train", "EVLM_Train"])
def test_the_trainings_own_folder_is_no_dataset(output: Path, name: str) -> None:
    """What is rated would mix with the states of trainings (N3)."""
    with pytest.raises(part("evlm.errors").RecordError, match="dataset"):
        rate(verdict="good", dataset=name)
    assert "dataset" in str(part("nodes.rate").RateEdit.validate_inputs(dataset=name))
    assert not any(output.iterdir())


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        ("EVLM_PlanToText", {"plan": True}),
        ("EVLM_Composite", {"original": [], "edited": 1, "mask": None}),
        ("EVLM_Reason", {"model": "bundled", "image": torch.rand(1, 8, 8, 3)}),
        ("EVLM_Reference", {"kind": "video", "video": {"a": 1}}),
        ("EVLM_Reference", {"kind": "text", "text": "\ud800"}),
        ("EVLM_PlanFromText", {"text": ["a"]}),
        ("EVLM_PlanFromText", {"text": "x", "plain": "yes"}),
        ("EVLM_Ground", {"image": torch.rand(1, 8, 8, 3), "threshold": float("nan")}),
        ("EVLM_Ground", {"image": torch.rand(8, 8, 3)}),
    ],
)
def test_what_is_no_link_and_no_value_is_named(node: str, inputs: dict[str, Any]) -> None:
    with pytest.raises(part("evlm.errors").RequestError, match="expected"):
        call(node, **inputs)


def test_a_refusal_is_no_instruction_and_json_of_a_model_is_a_plan() -> None:
    """(A7, A3)"""
    said = ""
    try:
        plan_of(text="I'm sorry, but I can't assist")
    except part("evlm.errors").TraceError as error:
        said = str(error)
    assert "I'm sorry, but I can't" in said
    plan = plan_of(text='{"instruction": "make it blue", "targets": ["hat",]}', plain=False).plan
    assert (plan.instruction, plan.targets) == ("make it blue", ("hat",))


def test_a_plan_that_asks_for_no_change_leaves_the_picture_as_it_is() -> None:
    """(A7)"""

    class Unused:
        @property
        def defaults(self) -> Any:
            raise AssertionError("the editor is not needed")

    editor = part("nodes.host").Managed("an editor", lambda device: Unused(), lambda engine: [], "editor")
    image = torch.rand(1, 16, 16, 3)
    settings: dict[str, Any] = {
        "steps": 1, "guidance": 0, "image_guidance": 0, "strength": 1, "seed": 0, "scheduler": "model",
        "context": 1.2, "feather": -1, "chunk": 8,
    }  # fmt: skip
    plan = plan_of(text="no change needed")
    for given in ({"plan": plan, "instruction": ""}, {"instruction": "No change needed."}):
        edited = call("EVLM_Edit", editor=editor, image=image, **settings, **given).args[0]
        assert torch.equal(edited, image)
