"""Where models are found, what is said when they are not, and downloads from a hub played here."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from evlm.edit import load_editor
from evlm.errors import Cancelled, ModelError
from evlm.models import zoo
from evlm.models.download import check_file, download
from evlm.models.families import EDITORS, MODEL_TYPES


def make_model(path: Path, role: str, sharded: bool = False) -> Path:
    """Empty files in the layout of a real model of this role: only names and configuration matter."""
    names = {
        "reasoner": ["tokenizer.json", "preprocessor_config.json"],
        "detector": ["vocab.txt", "preprocessor_config.json"],
        "segmenter": [],
        "editor": [
            "scheduler/scheduler_config.json",
            "tokenizer/vocab.json",
            "unet/config.json",
            "vae/config.json",
            "text_encoder/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
        ],
    }[role]
    if role == "editor":
        config = ("model_index.json", {"_class_name": EDITORS[0].folder_class})
    else:
        config = ("config.json", {"model_type": MODEL_TYPES[role][0]})
        two = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"]
        shards = two if sharded else ["model.safetensors"]
        names = [*names, *shards]
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"{}")
    (path / config[0]).write_text(json.dumps(config[1]))
    if sharded:
        index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def write_safetensors(path: Path, keys: list[str], shape: tuple[int, ...] = (0,)) -> Path:
    header = json.dumps({k: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for k in keys}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


@pytest.mark.parametrize("role", zoo.ROLES)
def test_a_whole_folder_is_found_by_path_and_by_name(tmp_path: Path, role: str) -> None:
    model = next(m for m in zoo.CATALOGUE if m.role == role)
    path = make_model(tmp_path / model.repo.split("/")[1], role)
    assert zoo.resolve(path, role) == path
    for name in (model.name, model.repo, f"{model.repo}@{model.revision}"):
        assert zoo.resolve(name, role, [tmp_path]) == path
    assert zoo.role_of(path) == role
    assert next(f for f in zoo.list_models([tmp_path]) if f.name == model.name).path == path


def test_folders_of_the_environment_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_model(tmp_path / "reasoner" / "qwen2-vl-2b", "reasoner", sharded=True)
    monkeypatch.setenv("EVLM_MODELS", f"{tmp_path / 'nowhere'}:{tmp_path}")
    assert zoo.resolve("qwen2-vl-2b", "reasoner") == path


def test_a_home_that_no_shell_has_put_in_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `--folder=~/models`; and somebody who has none here is no fault of ours."""
    path = make_model(tmp_path / "models" / "qwen2-vl-2b", "reasoner")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert zoo.resolve("qwen2-vl-2b", "reasoner", ["~/models"]) == path
    monkeypatch.setenv("EVLM_MODELS", "~nobody-of-this-name/models:~/models")
    assert zoo.resolve("qwen2-vl-2b", "reasoner", ["~nobody-of-this-name"]) == path


def test_a_model_in_the_hubs_cache_is_found_at_its_pinned_revision_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = zoo.find("grounding-dino-tiny")
    assert model
    snapshots = tmp_path / "models--IDEA-Research--grounding-dino-tiny" / "snapshots"
    make_model(snapshots / ("0" * 40), "detector")
    with pytest.raises(ModelError, match="not on this machine"):
        zoo.resolve(model.name, "detector")
    path = make_model(snapshots / model.revision, "detector")
    assert zoo.resolve(model.name, "detector") == path


@pytest.mark.parametrize(
    ("role", "gone"),
    [
        ("reasoner", "tokenizer.json"),
        ("reasoner", "model-2-of-2.safetensors"),
        ("detector", "preprocessor_config.json"),
        ("editor", "unet/diffusion_pytorch_model.safetensors"),
        ("editor", "scheduler/scheduler_config.json"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, role: str, gone: str) -> None:
    path = make_model(tmp_path / "m", role, sharded=role == "reasoner")
    (path / gone).unlink()
    with pytest.raises(ModelError, match=gone):
        zoo.resolve(path, role)


def test_an_index_that_points_outside_its_folder_is_refused(tmp_path: Path) -> None:
    path = make_model(tmp_path / "m", "reasoner", sharded=True)
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"a sound model\.safetensors\.index\.json"):
        zoo.resolve(path, "reasoner")


def test_the_message_says_where_it_looked_what_is_needed_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        zoo.resolve("sam2.1-large", "segmenter", [tmp_path])
    text = str(caught.value)
    for part in (str(tmp_path), "--download sam2.1-large", "sam2.1_hiera_large.pt", "Apache-2.0", "0.9 GB"):
        assert part in text
    with pytest.raises(ModelError, match="one of: photo-8gb, photo-24gb, qwen2-vl-2b"):
        zoo.resolve("no such thing", "reasoner")
    with pytest.raises(ModelError, match="needs its revision"):
        zoo.resolve("someone/model", "reasoner")


def test_a_model_of_another_role_is_refused(tmp_path: Path) -> None:
    path = make_model(tmp_path / "m", "reasoner")
    with pytest.raises(ModelError, match="is a reasoner, asked for was a detector"):
        zoo.resolve(path, "detector")
    with pytest.raises(ModelError, match="no role 'painter'"):
        zoo.resolve(path, "painter")


def test_single_files_are_known_by_their_tensors_not_by_their_names(tmp_path: Path) -> None:
    first = ["cond_stage_model.x", EDITORS[0].file_tensor]
    ip2p = write_safetensors(tmp_path / "anything.safetensors", first, (0, 8, 3, 3))
    sam = write_safetensors(tmp_path / "sam2.1_hiera_tiny.safetensors", ["sam_mask_decoder.iou_token.weight"])
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 20)
    assert zoo.resolve(ip2p, "editor") == ip2p
    assert zoo.resolve("sam2.1-tiny", "segmenter", [tmp_path]) == sam
    assert zoo.role_of(tmp_path / "bad.safetensors") is None
    with pytest.raises(ModelError, match="is a segmenter, asked for was an editor"):
        zoo.resolve(sam, "editor")


@pytest.mark.parametrize("channels", [4, 9, 80])
def test_a_checkpoint_of_other_channels_is_no_editor(tmp_path: Path, channels: int) -> None:
    """A plain Stable Diffusion, and one for inpainting."""
    tensors = [EDITORS[0].file_tensor, "model.diffusion_model.out.2.weight"]
    plain = write_safetensors(tmp_path / "plain.safetensors", tensors, (0, channels, 3, 3))
    assert zoo.role_of(plain) is None and zoo.editor_family(plain) is None
    with pytest.raises(ModelError, match="takes 8 channels"):
        load_editor(plain)
    other = write_safetensors(tmp_path / "other.safetensors", ["x.input_blocks.0.0.weight"], (0, 8, 3, 3))
    assert zoo.role_of(other) is None


def test_choose_takes_a_folder_of_roles_then_single_models_then_none(tmp_path: Path) -> None:
    for role in zoo.ROLES:
        make_model(tmp_path / "all" / role, role)
    other = make_model(tmp_path / "other", "reasoner")
    chosen = zoo.choose([str(tmp_path / "all"), str(other), "segmenter=none", f"editor={tmp_path / 'all'}"])
    assert chosen == {
        "reasoner": other,
        "detector": tmp_path / "all" / "detector",
        "editor": tmp_path / "all" / "editor",
    }
    (tmp_path / "junk").mkdir()
    with pytest.raises(ModelError, match="no model that is known here"):
        zoo.choose([str(tmp_path / "junk")])
    with pytest.raises(ModelError, match="not on this machine"):
        zoo.choose(["no such thing"])


def test_the_catalogue_is_pinned_and_complete() -> None:
    for model in zoo.CATALOGUE:
        assert len(model.revision) == 40 and int(model.revision, 16)
        assert model.role in zoo.ROLES and model.size > 10**8 and model.vram > 0 and model.licence
    assert len({m.name for m in zoo.CATALOGUE}) == len(zoo.CATALOGUE)


# The hub, as far as a download needs it: one repository, at one commit, whose files a test can spoil.


class Hub:
    commit = "c" * 40
    repo = "someone/tiny"

    def __init__(self) -> None:
        self.files = {"config.json": b'{"model_type": "sam2"}', "model.safetensors": bytes(range(256)) * 400,
                      "processor_config.json": b"{}", "pytorch_model.bin": b"pickle"}  # fmt: skip
        self.served: list[str] = []
        self.spoilt: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                if path == f"/api/models/{hub.repo}/revision/{hub.commit}":
                    self.answer(hub.info(), {"Content-Type": "application/json"})
                    return
                name = path.removeprefix(f"/{hub.repo}/resolve/{hub.commit}/")
                if name not in hub.files:
                    self.send_error(404)
                    return
                body = hub.spoilt.get(name, hub.files[name])
                tag = hashlib.sha256(hub.files[name]).hexdigest()
                self.answer(body, {"ETag": f'"{tag}"', "X-Repo-Commit": hub.commit, "Accept-Ranges": "bytes"})
                if self.command == "GET":
                    hub.served.append(name)

            def answer(self, body: bytes, headers: dict[str, str]) -> None:
                start = 0
                asked = self.headers.get("Range", "")
                if asked.startswith("bytes="):
                    start = int(asked[6:].split("-")[0])
                self.send_response(206 if start else 200)
                for key, value in headers.items():
                    self.send_header(key, value)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body[start:])

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def info(self) -> bytes:
        siblings = []
        for name, body in self.files.items():
            row: dict[str, object] = {"rfilename": name, "size": len(body), "blobId": "0" * 40}
            if name.endswith((".safetensors", ".bin")):
                digest = hashlib.sha256(body).hexdigest()
                row["lfs"] = {"sha256": digest, "size": len(body), "pointerSize": 130}
            siblings.append(row)
        return json.dumps({"id": self.repo, "sha": self.commit, "siblings": siblings}).encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_a_download_brings_what_is_needed_and_is_found_afterwards(hub: Hub, tmp_path: Path) -> None:
    name = f"{hub.repo}@{hub.commit}"
    seen: list[tuple[int, int]] = []
    path = download(name, tmp_path / "models", lambda done, total, file: seen.append((done, total)))
    assert path == tmp_path / "models" / "tiny"
    assert sorted(p.name for p in path.iterdir() if p.is_file()) == [
        "config.json",
        "model.safetensors",
        "processor_config.json",
    ]
    assert (path / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    total = sum(len(b) for n, b in hub.files.items() if not n.endswith(".bin"))
    assert seen[0] == (0, total) and seen[-1] == (total, total)
    assert zoo.resolve(name, "segmenter", [tmp_path / "models"]) == path


def test_a_cancelled_download_goes_on_with_the_files_that_lack(hub: Hub, tmp_path: Path) -> None:
    def stop(done: int, total: int, file: str) -> None:
        if done:
            raise Cancelled

    name = f"{hub.repo}@{hub.commit}"
    with pytest.raises(Cancelled):
        download(name, tmp_path, stop)
    first = list(hub.served)
    download(name, tmp_path)
    assert len(first) == 1 and first[0] not in hub.served[1:]


def test_a_download_is_told_and_cancelled_within_a_file(hub: Hub, tmp_path: Path) -> None:
    """(C19) Of a file of 10 GB nothing was heard before its end."""
    hub.files["model.safetensors"] = bytes(range(256)) * (24 << 12)  # some of the client's pieces
    hub.files = {
        name: hub.files[name] for name in ("model.safetensors", "config.json", "processor_config.json")
    }
    seen: list[int] = []

    class Stop(Exception):
        """As ComfyUI's own, which the client does not know."""

    def stop(done: int, total: int, file: str) -> None:
        seen.append(done)
        if done:
            raise Stop

    name = f"{hub.repo}@{hub.commit}"
    with pytest.raises(Stop):
        download(name, tmp_path, stop)
    assert 0 < seen[-1] < len(hub.files["model.safetensors"]) and not hub.served[1:]
    seen.clear()
    path = download(name, tmp_path, lambda done, total, file: seen.append(done))
    assert (path / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert seen == sorted(seen) and len(seen) > 5


def test_a_damaged_file_is_removed_and_said(hub: Hub, tmp_path: Path) -> None:
    hub.spoilt["model.safetensors"] = bytes(len(hub.files["model.safetensors"]))
    with pytest.raises(ModelError, match="SHA-256"):
        download(f"{hub.repo}@{hub.commit}", tmp_path)
    assert not (tmp_path / "tiny" / "model.safetensors").exists()
    hub.spoilt.clear()
    download(f"{hub.repo}@{hub.commit}", tmp_path)


def test_trouble_with_the_network_is_a_model_error(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="could not be fetched"):
        download(f"someone/else@{hub.commit}", tmp_path)
    with pytest.raises(ModelError, match="no pinned revision"):
        download("someone/tiny", tmp_path)


def test_check_file_compares_the_size_first(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"abc")
    check_file(path, 3, hashlib.sha256(b"abc").hexdigest())
    with pytest.raises(ModelError, match="3 bytes, expected 4"):
        check_file(path, 4, None)
    assert not path.exists()
