from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evlm.boxes import Box
from evlm.errors import MaskTextError, ModelError, PictureError, RequestError
from evlm.files.pictures import to_pil
from evlm.ground.grounder import Grounder, boxes_from_mask, normalise_label, phrase_scores, plan_boxes
from evlm.plan.trace import Plan

LABELS = ["red circle", "Blue striped STAR.", "ring"]
WORDS = ("red", "blue", "striped", "circle", "star", "ring", "a", "sign", "green")


def picture(height: int = 40, width: int = 60, frames: int = 1) -> Tensor:
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(height * width))


def shake(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.15


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random GroundingDINO, saved in shards. Its vocabulary keeps BERT's ids for [CLS], [SEP] and the
    dot, which the model's code relies on."""
    from transformers import (
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
    )

    folder = tmp_path_factory.mktemp("dino")
    vocabulary = [f"[unused{i}]" for i in range(1040)]
    vocabulary[0], vocabulary[100:103] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]"]
    vocabulary[1012], vocabulary[1029] = ".", "?"
    vocabulary[1030 : 1030 + len(WORDS)] = WORDS
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(3)
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 1, 1],
            "window_size": 4,
            "image_size": 64,
            "out_features": ["stage2", "stage3", "stage4"],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": len(vocabulary),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 64,
        },
        d_model=64,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=12,
        max_text_len=48,
        num_feature_levels=4,
    )
    model = GroundingDinoForObjectDetection(config)
    shake(model)
    model.save_pretrained(folder, max_shard_size="100KB")
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    GroundingDinoProcessor(images, BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["owlvit", "owlv2"])
def owl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_owl(request.param, tmp_path_factory.mktemp(request.param))


def make_owl(kind: str, folder: Path) -> Path:
    """A small random OWL-ViT or OWLv2."""
    import transformers

    from trainer.bundle.tokens import clip_tokenizer

    name = {"owlvit": "OwlViT", "owlv2": "Owlv2"}[kind]
    tokenizer = clip_tokenizer(WORDS, 8)
    torch.manual_seed(4)
    layer = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = getattr(transformers, f"{name}Config")(
        text_config={
            **layer,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 8,
            "bos_token_id": len(tokenizer) - 2,
            "eos_token_id": len(tokenizer) - 1,
        },
        vision_config={**layer, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model = getattr(transformers, f"{name}ForObjectDetection")(config)
    shake(model)
    model.save_pretrained(folder)
    images = getattr(transformers, f"{name}ImageProcessor")(size={"height": 32, "width": 32})
    getattr(transformers, f"{name}Processor")(images, tokenizer).save_pretrained(folder)
    return folder


def by_place(boxes: list[Any]) -> list[Any]:
    return sorted(boxes, key=lambda b: b[1:])


def test_dino_equals_the_librarys_own_pipeline(dino: Path) -> None:
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    frames, labels = (picture() * 255).round() / 255, ["red circle", "blue striped star", "ring"]
    model = GroundingDinoForObjectDetection.from_pretrained(dino)
    processor = GroundingDinoProcessor.from_pretrained(dino)
    inputs = processor(images=to_pil(frames[0]), text=[labels], return_tensors="pt")
    with torch.inference_mode():
        out = model(**inputs)
    grounder = Grounder.load(dino)
    assert grounder._phrases(labels)[0][0] == inputs["input_ids"][0].tolist()
    scores = out.logits.sigmoid()
    edge = float(scores.amax(-1).median())
    named = processor.post_process_grounded_object_detection.__code__.co_varnames
    name = "threshold" if "threshold" in named else "box_threshold"  # before transformers 5
    theirs = processor.post_process_grounded_object_detection(
        out, text_threshold=edge, target_sizes=[(40, 60)], **{name: edge}
    )[0]
    mine = grounder.ground(frames, LABELS, threshold=edge, text_threshold=edge, keep="all", overlap=1.0)
    limits = torch.tensor([60.0, 40, 60, 40])
    expected = []
    for phrase, box in zip(theirs["text_labels"], theirs["boxes"], strict=True):
        x0, y0, x1, y1 = torch.minimum(box.clamp(min=0), limits).tolist()
        said = phrase.replace("[CLS]", "").replace("[SEP]", "").strip(" .")
        if x1 > x0 and y1 > y0 and said:  # a box that says only what lies between labels is no label's
            expected.append([round(v, 2) for v in (x0, y0, x1, y1)])
    found = [[round(v, 2) for v in (b.x0, b.y0, b.x1, b.y1)] for b in mine]
    assert expected and sorted(found) == sorted(expected)
    assert all(edge < b.score <= float(theirs["scores"].max()) + 1e-4 for b in mine)
    assert {b.label for b in mine} <= set(LABELS)  # as asked, not as the phrase came back


def test_owl_equals_the_librarys_own_pipeline(owl: Path) -> None:
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    frames = (picture(40, 60, frames=2) * 255).round() / 255
    model, processor = (
        AutoModelForZeroShotObjectDetection.from_pretrained(owl),
        AutoProcessor.from_pretrained(owl),
    )
    texts = [[normalise_label(label) for label in LABELS]] * 2
    inputs = processor(text=texts, images=[to_pil(f) for f in frames], return_tensors="pt")
    with torch.inference_mode():
        out = model(**inputs)
    edge = float(out.logits.sigmoid().amax(-1).median())
    theirs = processor.post_process_grounded_object_detection(
        out, threshold=edge, target_sizes=[(40, 60)] * 2, text_labels=[LABELS] * 2
    )
    mine = Grounder.load(owl).ground(frames, LABELS, threshold=edge, keep="all", overlap=1.0, batch=2)
    limits = torch.tensor([60.0, 40, 60, 40])
    for f in range(2):
        expected = set()
        for score, box, label in zip(
            *(theirs[f][k] for k in ("scores", "boxes", "text_labels")), strict=True
        ):
            x0, y0, x1, y1 = torch.minimum(box.clamp(min=0), limits).tolist()
            if x1 > x0 and y1 > y0:
                expected.add((label, *(round(v, 3) for v in (float(score), x0, y0, x1, y1))))
        found = {
            (b.label, *(round(v, 3) for v in (b.score, b.x0, b.y0, b.x1, b.y1))) for b in mine if b.frame == f
        }
        assert expected and found == expected


@pytest.fixture(scope="module", params=["dino", "owlvit"])
def grounder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Grounder:
    if request.param == "dino":
        return Grounder.load(request.getfixturevalue("dino"))
    return Grounder.load(make_owl(request.param, tmp_path_factory.mktemp("any")))


def test_best_is_at_most_one_a_label_and_frame(grounder: Grounder) -> None:
    found = grounder.ground(picture(frames=3), LABELS, threshold=0.0, text_threshold=0.0, batch=2)
    assert [(b.frame, LABELS.index(b.label)) for b in found] == sorted(
        {(b.frame, LABELS.index(b.label)) for b in found}
    )
    for f in range(3):  # frames do not see one another
        alone = grounder.ground(picture(frames=3)[f : f + 1], LABELS, threshold=0.0, text_threshold=0.0)
        assert [b.label for b in alone] == [b.label for b in found if b.frame == f]
        for a, b in zip(alone, (b for b in found if b.frame == f), strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-4) and a.x0 == pytest.approx(b.x0, abs=0.05)


def test_nothing_found_is_an_empty_list(grounder: Grounder) -> None:
    assert grounder.ground(picture(), LABELS, threshold=1.0) == []
    for labels in ([], [""], [" . ", "?"]):
        assert grounder.ground(picture(), labels, threshold=0.0) == []


@given(
    size=st.sampled_from([(1, 1), (1, 4000), (4000, 1), (2, 3), (64, 64), (33, 129)]),
    labels=st.lists(st.text(max_size=30), max_size=4),
    keep=st.sampled_from(["best", "all"]),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_odd_sizes_and_any_labels(
    grounder: Grounder, size: tuple[int, int], labels: list[str], keep: Any
) -> None:
    height, width = size
    found = grounder.ground(picture(*size), [*labels, "ring"], threshold=0.0, text_threshold=0.0, keep=keep)
    for box in found:
        assert 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height and 0 < box.score <= 1
        assert box.label in [*labels, "ring"]


def test_a_label_without_tokens_is_never_found(dino: Path) -> None:
    found = Grounder.load(dino).ground(picture(), ["\x1b", "ring"], threshold=0.0, text_threshold=0.0)
    assert {box.label for box in found} <= {"ring"}


def test_many_labels_and_long_ones(grounder: Grounder) -> None:
    labels = [f"{'red ' * i}circle" for i in range(30)] + ["star " * 500]
    found = grounder.ground(picture(), labels, threshold=0.0, text_threshold=0.0)
    assert len(found) <= len(labels) and {b.label for b in found} <= set(labels)


def test_repeated_labels_count_once(grounder: Grounder) -> None:
    once = grounder.ground(picture(), ["Red  circle"], threshold=0.0, text_threshold=0.0)
    assert (
        grounder.ground(picture(), ["Red  circle", "red circle."], threshold=0.0, text_threshold=0.0) == once
    )


def test_bad_settings_and_frames(grounder: Grounder) -> None:
    with pytest.raises(RequestError, match="keep"):
        grounder.ground(picture(), LABELS, keep="some")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="batch"):
        grounder.ground(picture(), LABELS, batch=0)
    for frames in (torch.zeros(0, 4, 4, 3), torch.zeros(1, 4, 4, 4), torch.full((1, 4, 4, 3), float("nan"))):
        with pytest.raises(PictureError):
            grounder.ground(frames, LABELS)


def test_overlapping_boxes_of_a_label_are_dropped() -> None:
    from evlm.ground.grounder import _pick

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 10]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.5, 0.3], [0.1, 0.7]])
    assert [(k, round(s, 1)) for k, s, _ in _pick(boxes, scores, 0.25, "all", 0.5)] == [
        (0, 0.9),
        (0, 0.5),
        (1, 0.7),
    ]
    assert [(k, round(s, 1)) for k, s, _ in _pick(boxes, scores, 0.25, "best", 0.5)] == [(0, 0.9), (1, 0.7)]
    assert _pick(boxes, scores, 0.95, "all", 0.5) == []


def test_part_of_a_phrase_goes_to_the_label_it_weighs_most_in() -> None:
    # tokens: [CLS] red circle . blue star . [SEP]
    spans = [slice(1, 3), slice(4, 6)]
    table = torch.zeros(1, 4, 8)
    table[0, 0, 2] = 0.6  # only "circle"
    table[0, 1, [1, 4, 5]] = torch.tensor([0.5, 0.3, 0.4])  # "red", but more of "blue star"
    table[0, 2, [1, 2]] = 0.2  # below the text threshold
    table[0, 3, 3] = 0.9  # the dot says nothing
    scores = phrase_scores(table, spans, 0.25)[0]
    assert torch.allclose(scores, torch.tensor([[0.6, 0], [0, 0.4], [0, 0], [0, 0]]))


def test_a_long_label_does_not_win_by_its_length() -> None:
    """Five tokens of .26 against one of .9; the score stays the best token's (A21)."""
    spans = [slice(1, 2), slice(3, 8)]
    table = torch.zeros(1, 2, 10)
    table[0, 0, 1], table[0, 0, 3:8] = 0.9, 0.26
    table[0, 1, 1], table[0, 1, 3:8] = 0.3, 0.5  # and where the long one is meant, it wins
    scores = phrase_scores(table, spans, 0.25)[0]
    assert torch.allclose(scores, torch.tensor([[0.9, 0], [0, 0.5]]))


def test_the_label_that_is_covered_best_wins_where_a_word_is_shared() -> None:
    """ "red circle" and "blue circle" share the surer word: the other one tells them apart (A21)."""
    spans = [slice(1, 3), slice(4, 6)]
    table = torch.zeros(1, 1, 8)
    table[0, 0, [2, 5]] = 0.8  # circle, in both
    table[0, 0, 4] = 0.4  # blue
    assert torch.allclose(phrase_scores(table, spans, 0.25)[0], torch.tensor([[0.0, 0.8]]))


@given(st.text(max_size=60))
def test_normalised_labels_stay_so(label: str) -> None:
    normal = normalise_label(label)
    assert normalise_label(normal) == normal and "." not in normal and normal == normal.strip()


def test_the_models_own_threshold(owl: Path, tmp_path: Path) -> None:
    for file in owl.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "evlm.json").write_text(json.dumps({"threshold": 0.37}))
    assert Grounder.load(tmp_path).threshold == 0.37
    for bad in ("[]", "{", json.dumps({"threshold": "high"}), json.dumps({"threshold": 3.0})):
        (tmp_path / "evlm.json").write_text(bad)
        with pytest.raises(ModelError, match=r"evlm\.json"):
            Grounder.load(tmp_path)


def test_a_detector_that_lacks_tensors_or_has_scales_is_refused(owl: Path, tmp_path: Path) -> None:
    """The library would draw what lacks at random, and leave out the scales of 8-bit weights (A13)."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(owl, tmp_path / "copy"))
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(each for each in tensors if each.endswith("out_proj.weight"))
    lacking = {each: tensor for each, tensor in tensors.items() if each != name}
    scaled = {**tensors, name.removesuffix("weight") + "scale_weight": torch.tensor(0.5)}
    for changed, reason in ((lacking, name), (scaled, "scale_weight")):
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=reason):
            Grounder.load(folder, device="cpu")


def test_a_quantised_detector_is_refused(owl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its package there, too: it could not be moved to a device (A12)."""
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda m, *a: find("json") if m == "bitsandbytes" else find(m, *a)
    )
    folder = Path(shutil.copytree(owl, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="quantised with bitsandbytes, and a detector is not loaded so"):
        Grounder.load(folder, device="cpu")


def test_folders_that_are_no_detector(tmp_path: Path, owl: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        Grounder.load(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(ModelError, match="JSON"):
        Grounder.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="'bert'"):
        Grounder.load(tmp_path)
    (tmp_path / "config.json").write_bytes((owl / "config.json").read_bytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        Grounder.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((owl / "model.safetensors").read_bytes()[:-50])
    with pytest.raises(ModelError, match="cannot be loaded"):
        Grounder.load(tmp_path)
    with pytest.raises(ModelError, match="no detector"):
        Grounder(
            SimpleNamespace(
                eval=lambda: SimpleNamespace(config=SimpleNamespace(model_type="x")),
                config=SimpleNamespace(model_type="x"),
            ),
            None,
        )


def test_plan_boxes() -> None:
    plan = Plan("make it blue", ("red circle",), mask_text="box 250 500 750 1000 full")
    assert plan_boxes(plan, 20, 40) == [Box("red circle", 0.0, 10, 10, 30, 20)]
    assert plan_boxes(Plan("x", (), mask_text="none"), 20, 40) == []
    assert plan_boxes(Plan("x", ("a",)), 20, 40) == []
    two = Plan("x", ("a", "b"), mask_text="box 0 0 1000 1000 full")
    assert plan_boxes(two, 1, 1) == [Box("region", 0.0, 0, 0, 1, 1)]
    with pytest.raises(MaskTextError):
        plan_boxes(Plan("x", ("a",), mask_text="box nowhere"), 20, 40)


def test_boxes_from_masks() -> None:
    mask = torch.zeros(3, 8, 9)
    mask[0, 2:5, 3:7] = 1
    mask[2, 7, 8] = 0.5
    assert boxes_from_mask(mask, "a") == [Box("a", 1.0, 3, 2, 7, 5, 0), Box("a", 1.0, 8, 7, 9, 8, 2)]
    with pytest.raises(PictureError):
        boxes_from_mask(torch.zeros(2))


def test_the_true_sizes_build() -> None:
    """GroundingDINO-tiny and OWLv2-base on the meta device: as large as the published models are."""
    from transformers import AutoConfig, AutoModelForZeroShotObjectDetection

    swin = {
        "model_type": "swin",
        "embed_dim": 96,
        "depths": [2, 2, 6, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "image_size": 224,
        "out_features": ["stage2", "stage3", "stage4"],
    }
    dino = AutoConfig.for_model("grounding-dino", backbone_config=swin, text_config={"model_type": "bert"})
    for config, millions in ((dino, 172), (AutoConfig.for_model("owlv2"), 154)):
        with torch.device("meta"):
            model = AutoModelForZeroShotObjectDetection.from_config(config)
        assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
        assert Grounder(model, None).threshold == (0.25 if config is dino else 0.1)
