"""Finding a model's files, and refusing what must not be loaded, before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from policyguard.backends.transformers.files import complete, find, fingerprint, is_local
from policyguard.errors import ConfigurationError, MissingExtraError, ModelLoadError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model. Nothing here loads it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "~/nowhere/at/all", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(name: str) -> None:
    assert is_local(name)
    with pytest.raises(ModelLoadError) as caught:
        find(name)
    assert f"there is no model folder '{name}'" in str(caught.value)
    assert "policyguard models" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["gpt-5-mini", "claude-sonnet-4-6", "qwen3-vl:4b", "two words"])
def test_a_bare_name_is_no_hub_id_and_its_hint_leads_to_a_server(name: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        find(name)
    assert "--base-url" in str(caught.value.hint)
    assert "pip install" not in str(caught.value)


def test_a_path_that_is_not_there_is_not_taken_for_a_hosted_model() -> None:
    with pytest.raises(ModelLoadError) as caught:
        find("./nowhere")
    assert "base-url" not in str(caught.value.hint)


def test_without_the_hub_s_package_the_hint_leads_to_a_server_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError) as caught:
        find("openai/gpt-5-mini")
    assert "[transformers]" in str(caught.value.hint)
    assert "--base-url" in str(caught.value.hint)


def test_a_weights_file_is_not_a_model(folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="is a file") as caught:
        find(str(folder / "model.safetensors"))
    assert "folder" in str(caught.value.hint)


def test_an_empty_folder_has_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"has no \.safetensors weights"):
        find(str(tmp_path))


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelLoadError, match=r"has no config\.json") as caught:
        find(str(folder))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickled_weights_are_refused_by_name(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(
        ModelLoadError, match=f"it has {name}, and pickled weights are never loaded"
    ) as caught:
        find(str(folder))
    assert "save_pretrained" in str(caught.value.hint)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"]
)
def test_a_model_with_code_of_its_own_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text(json.dumps({"auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(ModelLoadError, match="needs Python code of its own") as caught:
        find(str(folder))
    assert name in str(caught.value)


def test_an_adapter_is_refused_since_it_names_another_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    with pytest.raises(ModelLoadError, match="is an adapter"):
        find(str(folder))


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "[" * 100_000])
def test_a_broken_config_is_named(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        find(str(folder))


def test_a_revision_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="revision='main' does not go with the local folder"):
        find(str(folder), revision="main")


def test_the_fingerprint_of_a_folder_covers_weights_tokenizer_and_template(folder: Path) -> None:
    before = fingerprint(find(str(folder)))
    assert before.startswith("sha256:")
    assert fingerprint(find(str(folder))) == before
    copy = shutil.copytree(folder, folder.parent / "copy")
    assert fingerprint(find(str(copy))) == before
    (copy / "README.md").write_text("no part of the answer")
    assert fingerprint(find(str(copy))) == before
    seen = {before}
    for name, content in (
        ("model.safetensors", b"weighty"),
        ("tokenizer_config.json", b'{"a": 1}'),
        ("chat_template.jinja", b"{{ messages }}"),
    ):
        (copy / name).write_bytes(content)
        seen.add(fingerprint(find(str(copy))))
    assert len(seen) == 4


def test_a_folder_that_poses_as_a_hub_snapshot_is_known_by_its_content(folder: Path) -> None:
    snapshot = folder.parent / "models--org--name" / "snapshots" / COMMIT
    shutil.copytree(folder, snapshot)
    assert fingerprint(find(str(snapshot))) == fingerprint(find(str(folder)))


def test_a_file_changed_under_its_old_time_gets_a_new_fingerprint(folder: Path) -> None:
    before, weights = fingerprint(find(str(folder))), folder / "model.safetensors"
    times = weights.stat()
    weights.write_bytes(b"weighty")
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(find(str(folder))) != before


@pytest.mark.parametrize("name", ["~nosuchuser/m", "/" + "x" * 300, "~/" + "y" * 300, "a/\0b"])
def test_a_name_that_no_path_can_have_is_a_model_that_is_not_there(name: str) -> None:
    assert is_local(name)
    with pytest.raises(ModelLoadError, match="there is no model folder"):
        find(name)


def test_a_name_too_long_for_a_folder_is_taken_for_a_hub_id() -> None:
    assert not is_local("owner/" + "m" * 300)


def test_a_pipe_in_the_place_of_settings_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "processor_config.json")
    with pytest.raises(ModelLoadError, match="not a regular file"):
        find(str(folder))


def test_settings_that_are_too_large_are_not_read(folder: Path) -> None:
    os.truncate(folder / "config.json", (64 << 20) + 1)
    with pytest.raises(ModelLoadError, match="larger than 64 MiB"):
        find(str(folder))


def indexed(folder: Path, *names: str) -> Path:
    """``folder``, with an index that names ``names`` for its weights."""
    weights = {f"tensor {number}": name for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return folder


@pytest.mark.parametrize(
    "name",
    ["../other/model.safetensors", "/elsewhere/model.safetensors", "a\\b.safetensors", "..", "model.bin"],
)
def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ModelLoadError, match="in its folder only"):
        find(str(indexed(folder, "model.safetensors", name)))


def test_a_folder_that_lacks_an_indexed_file_is_refused_and_a_linked_one_is_there(folder: Path) -> None:
    indexed(folder, "model.safetensors", "model-2.safetensors")
    with pytest.raises(ModelLoadError, match=r"lacks 1 of its weights files, the first is model-2"):
        find(str(folder))
    (folder.parent / "blob").write_bytes(b"weights")
    (folder / "model-2.safetensors").symlink_to(folder.parent / "blob")
    find(str(folder))


OFFLINE = """
import sys
from policyguard.backends.transformers.files import complete, find, fingerprint
from policyguard.errors import ModelLoadError
try:
    files = complete(find(sys.argv[1], revision=sys.argv[2] if len(sys.argv) > 2 else None))
    print("found", fingerprint(files), files.folder.name)
except ModelLoadError as error:
    print("refused", error)
"""


def offline(hub: Path, *model: str) -> str:
    """What a fresh process without network says of a hub id, with ``hub`` as its cache."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OFFLINE, *model],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stderr == ""
    return done.stdout


def test_a_hub_id_that_is_not_in_the_cache_says_how_to_get_it_without_network(tmp_path: Path) -> None:
    said = offline(tmp_path, "Qwen/Qwen3-VL-4B-Instruct")
    assert said.startswith("refused model 'Qwen/Qwen3-VL-4B-Instruct' is not on this machine")
    assert "hf download Qwen/Qwen3-VL-4B-Instruct" in said
    assert "hosted model, or one on a server, needs base_url= (--base-url)" in said


def test_a_hub_id_in_the_cache_is_found_without_network_and_checked_like_a_folder(folder: Path) -> None:
    hub = folder.parent / "hub"
    repository = hub / "models--org--name"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert offline(hub, "org/name") == f"found {COMMIT} {COMMIT}\n"
    assert offline(hub, "org/name", COMMIT) == f"found {COMMIT} {COMMIT}\n"
    config = repository / "snapshots" / COMMIT / "config.json"
    config.write_text(json.dumps({"auto_map": {"AutoModel": "evil.Model"}}))
    assert "refused model 'org/name' needs Python code of its own" in offline(hub, "org/name")


def test_complete_finds_the_weights_of_a_folder(folder: Path) -> None:
    files = find(str(folder))
    assert complete(files) is files
