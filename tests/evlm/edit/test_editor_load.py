"""Which editor a folder or file holds, its settings by either name, and what is said of anything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_ip2p import build, save_original

from evlm.edit import EditSettings, load_editor
from evlm.edit.ip2p import IP2P
from evlm.errors import ModelError, RequestError
from evlm.models.families import EDITORS
from evlm.models.zoo import editor_family


def test_the_folders_class_picks_the_editor(folder: Path) -> None:
    loaded = load_editor(folder, device="cpu")
    assert isinstance(loaded, IP2P) and loaded.defaults == IP2P.load(folder, device="cpu").defaults
    assert {type(module).__name__ for module in loaded.modules} == {
        "UNet2DConditionModel",
        "AutoencoderKL",
        "CLIPTextModel",
    }
    frames = torch.rand(1, 24, 32, 3, generator=torch.Generator().manual_seed(0))
    settings = EditSettings(steps=1, scheduler="ddim")
    again = IP2P.load(folder, device="cpu").edit(frames, "make it red", settings=settings)
    assert torch.equal(loaded.edit(frames, "make it red", settings=settings).frames, again.frames)


def test_a_folder_of_another_class_is_refused_with_the_known_ones(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "model_index.json").write_text(json.dumps({"_class_name": "FluxKontextPipeline"}))
    assert editor_family(folder) is EDITORS[0] and editor_family(other) is None
    with pytest.raises(ModelError, match="StableDiffusionInstructPix2PixPipeline"):
        load_editor(other, device="cpu")
    with pytest.raises(ModelError, match="no such file or folder"):
        load_editor(tmp_path / "nothing", device="cpu")


def test_a_file_is_known_by_its_tensors(tmp_path: Path) -> None:
    file = save_original(build(), tmp_path / "tiny.safetensors")
    assert editor_family(file) is EDITORS[0]


def test_settings_take_diffusers_names() -> None:
    settings = EditSettings.from_kwargs(num_inference_steps=7, guidance_scale=3.5, image_guidance_scale=1.2)
    assert settings == EditSettings(steps=7, guidance=3.5, image_guidance=1.2)
    assert settings.with_kwargs(seed=4, steps=9) == EditSettings(9, 3.5, 1.2, seed=4)
    with pytest.raises(RequestError, match=r"no setting 'step': expected one of .*num_inference_steps"):
        EditSettings.from_kwargs(step=3)
    with pytest.raises(RequestError, match="the same setting"):
        EditSettings.from_kwargs(steps=3, num_inference_steps=4)
    with pytest.raises(RequestError, match="steps 0"):
        EditSettings.from_kwargs(num_inference_steps=0)
