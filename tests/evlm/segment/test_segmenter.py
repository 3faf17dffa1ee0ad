from __future__ import annotations

import math
import shutil
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sam2 import SIDE, make_folder, make_meta, tiny_yaml
from torch import Tensor

from evlm.boxes import Box
from evlm.errors import CheckpointError, EVLMError, ModelError, PictureError, RequestError
from evlm.segment import sam2_native
from evlm.segment.sam2_meta import (
    RELEASED,
    VIDEO_ONLY,
    load_yaml,
    read_meta,
    shape_of,
    to_transformers,
    transformers_config,
)
from evlm.segment.segmenter import MEAN, STD, Segmenter
from evlm.segment.tracker import Tracker

BACKENDS: tuple[Literal["sam2", "transformers"], ...] = ("sam2", "transformers")
needs_sam2 = pytest.mark.skipif(not sam2_native.available(), reason="the sam2 package is not installed")


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_meta(tmp_path_factory.mktemp("meta"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("hf"))


def picture(height: int = 48, width: int = 80, frames: int = 1) -> Tensor:
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(height * width))


BOXES = torch.tensor([[4.0, 5, 40, 33], [30, 2, 79, 47], [0, 0, 8, 8]])
POINTS = (
    torch.tensor([[[20.0, 20], [3, 40]], [[60, 9], [61, 12]], [[5, 5], [70, 40]]]),
    torch.tensor([[1, 0], [1, 1], [1, 0]]),
)
ROUGH = (torch.rand(3, 1, 48, 80, generator=torch.Generator().manual_seed(3)) > 0.5).float()
PROMPTS: dict[str, dict[str, Any]] = {
    "boxes": {"boxes": BOXES},
    "points": {"points": POINTS},
    "one point": {"points": (POINTS[0][:, :1], POINTS[1][:, :1])},
    "masks": {"mask": ROUGH},
    "everything": {"boxes": BOXES, "points": POINTS, "mask": ROUGH},
}


@needs_sam2
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "everything" else pytest.mark.slow) for kind in PROMPTS]
)
def test_sam2_and_transformers_agree_on_a_meta_checkpoint(meta: dict[str, Path], kind: str) -> None:
    native = Segmenter.load(meta["pt"], config=meta["yaml"], backend="sam2")
    through_hf = Segmenter.load(meta["safetensors"], config=meta["yaml"], backend="transformers")
    assert type(native.model).__module__.startswith("sam2.")
    assert type(through_hf.model).__module__.startswith("transformers.")
    a, b = (s.segment(picture(), **PROMPTS[kind]) for s in (native, through_hf))
    assert a.masks.shape == (3, 1, 48, 80)
    assert torch.allclose(a.scores, b.scores, atol=1e-5)
    assert float((a.masks != b.masks).float().mean()) < 1e-3
    assert 0 < float(a.masks.mean()) < 1


@needs_sam2
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_picture_asked_about_again_is_encoded_once_with_the_same_masks(
    meta: dict[str, Path], backend: Literal["sam2", "transformers"], monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter.load(meta["safetensors"], config=meta["yaml"], backend=backend)
    one, other = picture(), picture(40, 80)
    asked = [
        (one, PROMPTS["boxes"]),
        (other, {"boxes": BOXES[2:]}),
        (one, PROMPTS["points"]),
        (one, PROMPTS["masks"]),
    ]
    alone = [segmenter.segment(frames, **prompts) for frames, prompts in asked]
    encoded: list[Tensor] = []
    embed = segmenter.backend.embed
    monkeypatch.setattr(segmenter.backend, "embed", lambda pixels: encoded.append(pixels) or embed(pixels))
    with segmenter.remembering():
        together = [segmenter.segment(frames, **prompts) for frames, prompts in asked]
    assert len(encoded) == 2
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a.masks, b.masks) and torch.equal(a.scores, b.scores)
    segmenter.segment(one, **PROMPTS["boxes"])
    assert len(encoded) == 3  # nothing is kept beyond it


@needs_sam2
def test_logits_agree_too(meta: dict[str, Path]) -> None:
    native = Segmenter.load(meta["pt"], config=meta["yaml"], backend="sam2").backend
    other = Segmenter.load(meta["pt"], config=meta["yaml"], backend="transformers").backend
    pixels = torch.randn(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        for x, y in zip(native.embed(pixels), other.embed(pixels), strict=True):
            assert torch.allclose(x, y, atol=1e-4, rtol=1e-4)
        for many in (True, False):
            a, scores_a = native.predict(native.embed(pixels), BOXES, None, None, many)
            b, scores_b = other.predict(other.embed(pixels), BOXES, None, None, many)
            assert a.shape == b.shape == (3, 3 if many else 1, 16, 16)
            assert torch.allclose(a, b, atol=1e-4, rtol=1e-4) and torch.allclose(
                scores_a, scores_b, atol=1e-5
            )


@needs_sam2
def test_native_matches_the_packages_own_predictor(meta: dict[str, Path]) -> None:
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    ours = Segmenter.load(meta["pt"], config=meta["yaml"], backend="sam2")
    predictor = SAM2ImagePredictor(ours.model)
    predictor._bb_feat_sizes = [(16, 16), (8, 8), (4, 4)]  # it assumes 1024 pixels
    frame = (picture(SIDE, SIDE) * 255).round() / 255
    predictor.set_image((frame[0] * 255).round().to(torch.uint8).numpy())
    box = torch.tensor([[10.0, 8, 50, 40]])
    theirs, scores, _ = predictor.predict(box=box[0].numpy(), multimask_output=False)
    mine = ours.segment(frame, boxes=box)
    assert math.isclose(float(mine.scores[0]), float(scores[0]), abs_tol=1e-5)
    assert torch.equal(mine.masks[0, 0], torch.from_numpy(theirs[0]).float())


@needs_sam2
def test_auto_prefers_sam2_and_does_without_it(
    meta: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it = Segmenter.load(meta["pt"], config=meta["yaml"])
    assert isinstance(with_it.backend, sam2_native.NativeSam2)
    monkeypatch.setattr(sam2_native, "available", lambda: False)
    without = Segmenter.load(meta["pt"], config=meta["yaml"])
    assert not isinstance(without.backend, sam2_native.NativeSam2)
    a, b = with_it.segment(picture(), boxes=BOXES), without.segment(picture(), boxes=BOXES)
    assert torch.allclose(a.scores, b.scores, atol=1e-5)
    with pytest.raises(ModelError, match="not installed"):
        Segmenter.load(meta["pt"], config=meta["yaml"], backend="sam2")


@needs_sam2
def test_hydras_global_state_is_left_alone(meta: dict[str, Path]) -> None:
    import sam2  # noqa: F401  (initialises hydra itself, once)
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    Segmenter.load(meta["pt"], config=meta["yaml"], backend="sam2")
    assert not GlobalHydra.instance().is_initialized()


@needs_sam2
@pytest.mark.parametrize("size", RELEASED, ids=lambda s: s.name)
@pytest.mark.parametrize("version", ["sam2", "sam2.1"])
def test_every_tensor_of_the_released_models_has_a_place(
    size: Any, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The true shapes, on the meta device: the package's model there, transformers' here, key by key."""
    import sam2
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from transformers import Sam2Model

    real = torch.linspace  # Hiera reads values of a linspace, which the meta device has not
    monkeypatch.setattr(torch, "linspace", lambda *args, **kwargs: real(*args, **{**kwargs, "device": "cpu"}))
    path = Path(sam2.__path__[0]) / "configs" / version / f"{version}_{size.name}.yaml"
    with torch.device("meta"):
        state = instantiate(OmegaConf.create(load_yaml(path))).state_dict()
    shape = shape_of(state)
    assert shape == size
    assert shape_of(state, path) == type(size)(**{**vars(size), "name": path.stem})
    assert ("no_obj_embed_spatial" in state) == (version == "sam2.1")
    with torch.device("meta"):
        expected = Sam2Model(transformers_config(state, shape)).state_dict()
    renamed = to_transformers(state)
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in expected.items()}
    left_out = [k for k in state if k.startswith(VIDEO_ONLY)]
    assert len(state) - len(left_out) == len(renamed) + 4 - 1 - 1  # four point embeddings in one; one copied


def test_the_video_folder_of_the_hub_loads(folder: Path) -> None:
    from transformers import Sam2ImageProcessor, Sam2Model, Sam2Processor

    ours = Segmenter.load(folder)
    frame = (picture(SIDE, SIDE) * 255).round() / 255
    box = torch.tensor([[10.0, 8, 50, 40], [0, 0, 64, 64]])
    mine = ours.segment(frame, boxes=box)
    processor = Sam2Processor(Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}))
    inputs = processor(
        images=frame.permute(0, 3, 1, 2), input_boxes=[box.tolist()], return_tensors="pt", do_rescale=False
    )
    with torch.inference_mode():
        out = Sam2Model.from_pretrained(folder)(**inputs, multimask_output=False)
    theirs = processor.post_process_masks(out.pred_masks, inputs["original_sizes"])[0]
    assert torch.allclose(mine.scores, out.iou_scores[0, :, 0], atol=1e-5)
    assert torch.equal(mine.masks[:, 0], theirs[:, 0].float())


def test_a_folder_that_lacks_tensors_is_refused(folder: Path, tmp_path: Path) -> None:
    """The library would draw them at random (A13)."""
    from safetensors.torch import load_file, save_file

    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = copied / "model.safetensors"
    tensors = load_file(file)
    del tensors["no_memory_embedding"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="no_memory_embedding"):
        Segmenter.load(copied)


@pytest.mark.parametrize(("major", "expected"), [(7, torch.float16), (8, torch.bfloat16)])
def test_auto_is_what_the_card_computes_in(
    major: int, expected: torch.dtype, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card before Ampere only imitates bfloat16; the weights stay where they are for this test (A14)."""
    from types import SimpleNamespace

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(major=major))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
    monkeypatch.setattr("evlm.segment.segmenter.pick_device", torch.device)  # which asks for the card
    assert Segmenter.load(folder, device="cuda").dtype == expected


def test_objects_are_followed_by_label_through_frames(folder: Path) -> None:
    segmenter = Segmenter.load(folder)
    boxes = [Box("a", 1.0, 1, 1, 30, 30, 0), Box("b", 1.0, 20, 9, 60, 40, 0), Box("b", 0.5, 0, 0, 9, 9, 0),
             Box("b", 1.0, 22, 9, 62, 40, 1)]  # fmt: skip
    found = segmenter.segment(picture(frames=2), boxes=boxes)
    assert found.labels == ("a", "b", "b") and found.masks.shape == (3, 2, 48, 80)
    assert found.masks[0, 1].sum() == 0 and found.masks[2, 1].sum() == 0
    alone = segmenter.segment(picture(frames=2)[1:], boxes=torch.tensor([[22.0, 9, 62, 40]]))
    assert torch.equal(found.masks[1, 1], alone.masks[0, 0])


def test_many_objects_equal_one_by_one(folder: Path) -> None:
    segmenter = Segmenter.load(folder)
    boxes = torch.rand(19, 4, generator=torch.Generator().manual_seed(5)) * 20
    boxes[:, 2:] += 22
    together = segmenter.segment(picture(), boxes=boxes, mask=torch.rand(19, 1, 48, 80))
    again = segmenter.segment(picture(), boxes=boxes)
    for i in (0, 7, 18):
        assert torch.equal(segmenter.segment(picture(), boxes=boxes[i : i + 1]).masks[0], again.masks[i])
    assert together.masks.shape == again.masks.shape == (19, 1, 48, 80)


def test_no_objects_are_no_masks(folder: Path) -> None:
    segmenter = Segmenter.load(folder)
    for prompt in ({"boxes": []}, {"boxes": torch.zeros(0, 4)}, {"mask": torch.zeros(0, 2, 48, 80)}):
        found = segmenter.segment(picture(frames=2), **prompt)
        assert found.masks.shape == (0, 2, 48, 80) and found.scores.shape == (0,) and found.labels == ()


@cache
def _loaded(folder: Path) -> Segmenter:
    return Segmenter.load(folder)


@given(st.sampled_from([(1, 1), (1, 400), (400, 1), (3, 5), (129, 64)]), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_odd_sizes(folder: Path, size: tuple[int, int], seed: int) -> None:
    segmenter = _loaded(folder)
    spots = torch.rand(2, 4, generator=torch.Generator().manual_seed(seed))
    boxes = spots * torch.tensor([size[1], size[0], size[1], size[0]])
    found = segmenter.segment(picture(*size), boxes=boxes)
    assert found.masks.shape == (2, 1, *size) and set(found.masks.unique().tolist()) <= {0.0, 1.0}
    assert bool(found.scores.isfinite().all())


def test_autocast_stays_close(folder: Path) -> None:
    exact = Segmenter.load(folder).segment(picture(), boxes=BOXES)
    rough = Segmenter.load(folder, dtype="bf16").segment(picture(), boxes=BOXES)
    assert rough.masks.dtype == torch.float32
    assert float((exact.masks != rough.masks).float().mean()) < 0.1


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "give boxes, points or a mask"),
        ({"boxes": torch.zeros(4)}, "expected finite"),
        ({"boxes": torch.full((1, 4), math.nan)}, "expected finite"),
        ({"boxes": [Box("a", 1, 0, 0, 1, 1, frame=3)]}, "frame 3"),
        ({"points": (torch.zeros(1, 2), torch.zeros(1))}, "points of shapes"),
        ({"points": (torch.zeros(1, 1, 2), torch.full((1, 1), 2))}, "labels 1"),
        ({"boxes": BOXES, "mask": torch.zeros(1, 48, 80)}, "different numbers"),
        ({"mask": torch.zeros(1, 4, 4)}, "mask prompt of shape"),
    ],
)
def test_prompts_that_do_not_fit(folder: Path, prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Segmenter.load(folder).segment(picture(), **prompt)


def test_bad_frames_and_masks(folder: Path) -> None:
    segmenter = Segmenter.load(folder)
    with pytest.raises(PictureError):
        segmenter.segment(torch.zeros(0, 4, 4, 3), boxes=BOXES)
    with pytest.raises(PictureError):
        segmenter.segment(picture(), mask=torch.full((1, 48, 80), 3.0))


def test_files_that_are_no_sam2(tmp_path: Path, folder: Path) -> None:
    from safetensors.torch import save_file

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (sys.exit, (3,))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    torch.save({"model": Evil()}, tmp_path / "evil.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "list.pt").read_bytes()[:40])
    (tmp_path / "model.ckpt").write_bytes(b"")
    for name in ("evil.pt", "evil.safetensors", "list.pt", "other.safetensors", "cut.pt", "model.ckpt"):
        with pytest.raises(CheckpointError):
            Segmenter.load(tmp_path / name)
    with pytest.raises(ModelError, match="does not exist"):
        Segmenter.load(tmp_path / "nothing")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="'bert'"):
        Segmenter.load(tmp_path)
    with pytest.raises(ModelError, match="dtype"):
        Segmenter.load(folder, dtype="int8")


@given(st.binary(max_size=400))
@settings(max_examples=40, deadline=None)
def test_any_bytes_are_refused(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as where:
        for name in ("x.pt", "x.safetensors"):
            (Path(where) / name).write_bytes(data)
            with pytest.raises(CheckpointError):
                read_meta(Path(where) / name)


@needs_sam2
def test_a_checkpoint_of_another_size_is_refused(meta: dict[str, Path], tmp_path: Path) -> None:
    for backend in BACKENDS:
        with pytest.raises(ModelError, match="none of the released"):
            Segmenter.load(meta["pt"], backend=backend)
        state = read_meta(meta["pt"])
        state.pop("no_mem_embed")
        torch.save({"model": state}, tmp_path / "lacking.pt")
        with pytest.raises(ModelError, match="does not fit"):
            Segmenter.load(tmp_path / "lacking.pt", config=meta["yaml"], backend=backend)


@needs_sam2
@pytest.mark.parametrize(
    "change",
    [{"_target_": "os.system"}, {"neck": {"_target_": "sam2.modeling.x; import os"}}, {"_partial_": True}],
)
def test_a_yaml_may_not_build_anything_else(
    meta: dict[str, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    parts = tiny_yaml()
    parts["model"]["image_encoder"] |= change
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(parts))
    for backend in BACKENDS:
        with pytest.raises(ModelError, match="only classes of sam2"):
            Segmenter.load(meta["pt"], config=tmp_path / "bad.yaml", backend=backend)


@given(st.text(max_size=200))
@settings(max_examples=30, deadline=None)
def test_any_yaml_gives_an_error_of_ours(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as where:
        path = Path(where) / "x.yaml"
        path.write_text(text, encoding="utf-8", errors="ignore")
        with pytest.raises(EVLMError):
            load_yaml(path)


def test_constants_are_the_librarys() -> None:
    from transformers import Sam2ImageProcessor

    assert tuple(Sam2ImageProcessor.image_mean) == MEAN and tuple(Sam2ImageProcessor.image_std) == STD


def test_pictures_are_resized_before_they_go_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS knows no antialiased resize, and what goes there is small."""
    device, resize, where = torch.device("meta"), torch.nn.functional.interpolate, list[str]()

    def watch(given: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        where.append(given.device.type)
        return resize(given, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "interpolate", watch)
    model = torch.nn.Linear(1, 1, device=device)
    maps = [torch.empty(1, 4, 2, 2, device=device)]
    fake: Any = SimpleNamespace(model=model, image_size=16, device=device, embed=lambda pixels: maps)
    frames = picture()
    assert Segmenter(fake).pooled(frames[0], ROUGH[:, 0]).device == device
    given = Segmenter(fake)._pixels(frames[0]), Tracker(fake)._pixels(frames)(0)[None]
    assert {(each.device, tuple(each.shape)) for each in given} == {(device, (1, 3, 16, 16))}
    assert where == ["cpu"] * 4
