"""Exports: each form is loaded by the program that it is meant for, and says the same as the adapter did."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evlm.adapter.checkpoint import AdapterMeta, Expected, config_hash, load_adapter, save_adapter
from evlm.adapter.lora import Lora, attach_lora
from evlm.errors import CheckpointError, ModelError
from evlm.models.zoo import resolve
from evlm.reason.reasoner import Reasoner, Sampling
from trainer.__main__ import main
from trainer.config.recipe import load_config
from trainer.config.settings import write_yaml
from trainer.export.adapter_source import read_learned
from trainer.export.cli import write_merged
from trainer.learner.state import Progress, States
from trainer.model.skeleton import skeleton
from trainer.world.rows import Recipe, question_at, to_request

BASE = resolve("bundled", "reasoner")
LORA = Lora(4, 16.0)


def random_tensors(lora: Lora = LORA, seed: int = 0, size: float = 0.2) -> dict[str, Tensor]:
    """A LoRA on three kinds of modules of the bundled model, large enough to change what it says."""
    shapes = Expected.of(skeleton(BASE)).shapes
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (out, into) in shapes.items():
        if name.endswith(("q_proj", "down_proj", "attn.qkv")):
            for part, shape in (("lora_A", (lora.rank, into)), ("lora_B", (out, lora.rank))):
                tensors[f"base_model.model.{name}.{part}.weight"] = (
                    torch.randn(shape, generator=random) * size
                )
            if lora.dora:
                vector = 1 + torch.rand(out, generator=random)
                tensors[f"base_model.model.{name}.lora_magnitude_vector"] = vector
    return tensors


def save(path: Path, lora: Lora = LORA, **random: Any) -> Path:
    tensors = random_tensors(lora, **random)
    names = sorted({name.removeprefix("base_model.model.").partition(".lora_")[0] for name in tensors})
    meta = AdapterMeta(
        replace(lora, targets=tuple(names)),
        "bundled",
        config_hash(skeleton(BASE).config),
        "short",
        "box-spans-16",
        {"steps": 7},
    )
    save_adapter(path, tensors, meta)
    return path


def said(source: Path, adapter: Path | None = None) -> str:
    request = to_request(question_at(Recipe(seed=5), 0))
    return Reasoner.load(source, adapter, "fp32", "cpu").generate(request, Sampling(30)).text


def logits(model: Any) -> Tensor:
    ids = torch.arange(20)[None] + 30
    with torch.no_grad():
        return model(input_ids=ids, position_ids=torch.arange(20).expand(3, 1, 20)).logits


def test_a_peft_folder_is_loaded_by_peft_and_comes_back_as_ours(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    file = save(tmp_path / "a.safetensors")
    assert main(["export", str(file), str(tmp_path / "peft"), "--to", "peft"]) == 0
    base = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    plain = logits(base)
    theirs = logits(PeftModel.from_pretrained(base, str(tmp_path / "peft")))
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    tensors, meta = load_adapter(file, Expected.of(model))
    assert torch.allclose(theirs, logits(attach_lora(model, tensors, meta.lora)), atol=1e-5)
    assert float((theirs - plain).abs().max()) > 0.1
    assert load_adapter(tmp_path / "peft")[1] == meta, "prompt, codec and training are not lost"
    assert main(["export", str(tmp_path / "peft"), str(tmp_path / "b.safetensors"), "--to", "adapter"]) == 0
    again, meta_again = load_adapter(tmp_path / "b.safetensors")
    assert meta_again == meta and all(torch.equal(again[n], t) for n, t in load_adapter(file)[0].items())


@pytest.mark.parametrize(
    "lora", [LORA, pytest.param(replace(LORA, rslora=True), marks=pytest.mark.slow), replace(LORA, dora=True)]
)
def test_a_merged_folder_says_what_the_adapter_says(tmp_path: Path, lora: Lora) -> None:
    from transformers import AutoModelForImageTextToText

    base = (
        tmp_path / "base"
    )  # in float32: the bundled weights are rounded to 16 bits, merged ones would be too
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    model.save_pretrained(base, max_shard_size="3MB")
    for file in BASE.glob("*"):
        if not (base / file.name).exists() and file.suffix in (".json", ".jinja"):
            (base / file.name).write_bytes(file.read_bytes())
    (base / "model.safetensors").unlink(missing_ok=True)
    adapter, out = save(tmp_path / "a.safetensors", lora), tmp_path / "whole"
    words = ["export", str(adapter), str(out), "--to", "merged", "--base", str(base)]
    assert main(words) == 0
    assert len(list(out.glob("*.safetensors"))) == len(list(base.glob("*.safetensors"))) > 1
    text = said(out)
    assert text == said(base, adapter) != said(base)
    notes = json.loads((out / "evlm.json").read_text())
    assert (notes["prompt"], notes["mask_codec"], notes["merged"]["training"]["steps"]) == (
        "short",
        "box-spans-16",
        7,
    )
    assert Reasoner.load(out, None, "fp32", "cpu").backbone.codec == "box-spans-16"


def run_folder(folder: Path, *settings: str) -> Path:
    """A run of two steps, as its command leaves it."""
    small = ["save_every=1", "data=[{world: true}]", "lora.rank=4", "lora.alpha=16", "model.attention=sdpa"]
    phases = "phases=[{kind: sft, steps: 2, batch: 2, lr: 0.01, warmup: 0}]"
    assert main(["run", "tiny", *small, phases, f"out={folder}", *settings]) == 0
    return folder


def test_a_run_is_exported_from_its_adapter_or_from_the_newest_whole_state(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    finished = read_learned(run)
    assert finished.meta.training["steps"] == 2
    (run / "adapter.safetensors").unlink()
    learned = read_learned(run)
    assert learned.meta.training == {"steps": 2, "unfinished": True} and learned.meta.prompt == "short"
    assert learned.meta.lora == finished.meta.lora and learned.tensors.keys() == finished.tensors.keys()
    assert all(torch.equal(learned.tensors[n], t) for n, t in finished.tensors.items())
    for file in (run / "state").glob("step-00000002/*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    fitted = tmp_path / "one.safetensors"
    assert main(["export", str(run), str(fitted), "--to", "adapter"]) == 0
    assert load_adapter(fitted)[1].training["steps"] == 1 and said(BASE, fitted)
    shutil.rmtree(run / "state")
    with pytest.raises(CheckpointError, match="stopped too early"):
        read_learned(run)


def test_a_state_is_exported_in_the_form_that_the_run_asked_in(tmp_path: Path) -> None:
    below = save(tmp_path / "below.safetensors")  # box-spans-16, as the base alone is not
    words = [f"out={tmp_path / 'run'}", "phases=[{kind: sft, steps: 9}]", "lora.rank=4", "lora.alpha=16"]
    config = load_config("tiny", [*words, "parts=direct", f"model.adapter={below}"])
    model = torch.nn.Module()
    for name, tensor in random_tensors().items():
        at = model
        for part in name.replace(".weight", ".default.weight").split(".")[:-1]:
            if not hasattr(at, part):
                at.add_module(part, torch.nn.Module())
            at = getattr(at, part)
        at.weight = torch.nn.Parameter(tensor)
    states = States(tmp_path / "run/state", json.loads(config.identity))
    states.save(model, torch.optim.AdamW(model.parameters()), Progress(step=3))
    (tmp_path / "run/recipe.yaml").write_text(write_yaml(config))
    meta = read_learned(tmp_path / "run").meta
    assert (meta.prompt, meta.mask_codec) == ("short-direct", "box-spans-16")
    assert meta.training == {"steps": 3, "unfinished": True}


@pytest.mark.slow  # what a run writes today is below
def test_an_adapter_on_an_adapter_is_exported_as_both(tmp_path: Path) -> None:
    first = save(tmp_path / "first.safetensors", size=0.1)
    run = run_folder(tmp_path / "run", f"model.adapter={first}")
    save(run / "adapter.safetensors", seed=4, size=0.1)
    learned = read_learned(run)
    assert learned.below == first, "an older version wrote the upper half alone"
    write_merged(read_learned(first), tmp_path / "one")
    write_merged(replace(learned, below=None, base=str(tmp_path / "one")), tmp_path / "then")
    text = said(tmp_path / "then")
    assert text != said(BASE, run / "adapter.safetensors")
    for form, out in (("adapter", "both.safetensors"), ("peft", "peft"), ("merged", "merged")):
        assert main(["export", str(run), str(tmp_path / out), "--to", form]) == 0
        assert (said(tmp_path / out) if form == "merged" else said(BASE, tmp_path / out)) == text, form


def test_what_a_run_on_an_adapter_writes_holds_both(tmp_path: Path) -> None:
    """The best one, too; and neither is added to twice."""
    first = save(tmp_path / "first.safetensors", size=0.1)
    run = run_folder(tmp_path / "run", f"model.adapter={first}", "eval_every=2", "eval_rows=1")
    whole = said(BASE, run / "adapter.safetensors")
    assert whole == said(BASE, run / "best.safetensors")
    assert main(["export", str(run), str(tmp_path / "a.safetensors"), "--to", "adapter"]) == 0
    (run / "adapter.safetensors").unlink()
    assert main(["export", str(run), str(tmp_path / "b.safetensors"), "--to", "adapter"]) == 0
    assert whole == said(BASE, tmp_path / "a.safetensors") == said(BASE, tmp_path / "b.safetensors")
    dora = save(tmp_path / "dora.safetensors", replace(LORA, dora=True))
    words = ["run", "tiny", "data=[{world: true}]", f"model.adapter={dora}", f"out={tmp_path / 'no'}"]
    assert main(words) == 2 and main([*words, "--dry-run"]) == 1


def test_a_head_that_learns_is_written_without_all_embeddings(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "lora.targets=[q_proj, lm_head]")
    names = load_adapter(run / "adapter.safetensors", Expected.of(skeleton(BASE)))[0]
    assert any("lm_head" in name for name in names) and said(BASE, run / "adapter.safetensors")


def test_nothing_is_overwritten_or_left_half_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(tmp_path / "a.safetensors")

    def export(out: Path, to: str, *more: str) -> int:
        return main(["export", str(file), str(out), "--to", to, *more])

    assert export(file, "adapter") == 2 and "exists" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"dear")
    assert export(other, "adapter", "--force") == 2 and other.read_bytes() == b"dear"
    assert "leaves it alone" in capsys.readouterr().err
    other.unlink()
    assert export(other, "adapter") == 0 and export(other, "adapter", "--force") == 0
    other.unlink()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    for force in ([], ["--force"]):
        assert export(tmp_path / "mine", "merged", *force) == 2
        assert (tmp_path / "mine/letter.txt").read_text() == "dear"
    assert "--force leaves it alone" in capsys.readouterr().err
    out = tmp_path / "out"
    assert export(out, "merged") == 0 and export(out, "merged") == 2 and export(out, "merged", "--force") == 0
    assert main(["export", str(file), str(out), "--to", "merged", "--base", str(out), "--force"]) == 2
    assert "the backbone itself" in capsys.readouterr().err

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.export.merge.shutil.copyfile", full)
    assert export(tmp_path / "new", "merged") == 2 and "No space left" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "mine", "out"]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_empty_folder_is_filled_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: list[str]
) -> None:
    """The current one, which has no name to be made anew under, and one behind a link, often on a larger
    disk."""
    file = save(tmp_path / "a.safetensors")
    (tmp_path / "here").mkdir()
    (tmp_path / "large").mkdir()
    (tmp_path / "link").symlink_to("large")
    monkeypatch.chdir(tmp_path / "here")
    for out, lies in ((Path(), "here"), (tmp_path / "link", "large")):
        before = (tmp_path / lies).stat().st_ino
        assert main(["export", str(file), str(out), "--to", "peft", *force]) == 0
        names = sorted(each.name for each in (tmp_path / lies).iterdir())
        assert names == ["adapter_config.json", "adapter_model.safetensors"]
        assert (tmp_path / lies).stat().st_ino == before and load_adapter(tmp_path / lies)
    assert main(["export", str(file), str(tmp_path / "link"), "--to", "peft", "--force"]) == 0
    assert (tmp_path / "link").is_symlink() and load_adapter(tmp_path / "large")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "here", "large", "link"]


def test_what_is_no_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_learned(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="is no run"):
        read_learned(tmp_path)
    file = save(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="'nowhere' is not on this machine"):
        write_merged(read_learned(file, "nowhere"), tmp_path / "out")
    tensors, meta = load_adapter(file)
    lora = replace(meta.lora, targets=())
    strange = {**tensors, "base_model.model.model.elsewhere.lora_A.weight": torch.zeros(4, 4)}
    save_adapter(tmp_path / "b.safetensors", strange, replace(meta, lora=lora))
    with pytest.raises(CheckpointError, match="no place"):
        write_merged(read_learned(tmp_path / "b.safetensors"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_says_how_a_server_gets_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands of others, ready to be copied, with the names of what was written."""
    import shlex

    file = save(tmp_path / "my lora.safetensors")
    lines: dict[str, str] = {}
    for form in ("adapter", "peft", "merged"):
        out = tmp_path / f"an {form}{'.safetensors' * (form == 'adapter')}"
        assert main(["export", str(file), str(out), "--to", form]) == 0
        lines[form] = capsys.readouterr().out
    assert "--to peft" in lines["adapter"] and "--to merged" in lines["adapter"]
    (vllm,) = [line for line in lines["peft"].splitlines() if "vLLM" in line]
    words = shlex.split(vllm.partition(":")[2])
    assert words[words.index("--lora-modules") + 1] == f"an peft={tmp_path / 'an peft'}"
    assert words[words.index("--max-lora-rank") + 1] == "8" and "--to merged" in lines["peft"]
    commands = [shlex.split(line) for line in lines["merged"].splitlines() if "gguf" in line]
    assert [str(tmp_path / "an merged") in each for each in commands] == [True, True, False]
    written = [each[each.index("--outfile") + 1] for each in commands[:2]]
    server = commands[2]
    assert written == [server[server.index("-m") + 1], server[server.index("--mmproj") + 1]]
    assert "style=get_style('short'), codec='box-spans-16', trust='tuned'" in lines["merged"]
