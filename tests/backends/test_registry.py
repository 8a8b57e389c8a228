"""The models known by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.transformers.support import policy
from policyguard.backends import build_backend
from policyguard.backends.registry import known_models, resolve_model
from policyguard.backends.transformers import TransformersBackend
from policyguard.backends.transformers.files import is_local
from policyguard.dialects import dialect_names, get_dialect
from policyguard.errors import ConfigurationError, ModelLoadError


def test_pico_stands_for_the_packaged_folder() -> None:
    pico = resolve_model("pico")
    assert pico.path is not None
    assert pico.path.parts[-3:] == ("policyguard", "models", "pico")
    assert pico.location == str(pico.path)
    assert (pico.dialect, pico.world) == ("pico", "pictosafe")


def test_known_models_are_hub_ids_in_a_known_dialect_and_named_once() -> None:
    names = [known.id for known in known_models()]
    assert names[0] == "pico"
    assert {"Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "tyodd/SafeGuard-VL-RL"} <= set(names)
    assert len(names) == len(set(names))
    for known in known_models():
        assert known.dialect in dialect_names() or known.sensor
        assert known.about
        in_a_package = known.path is not None or (known.sensor and "/" not in known.id)
        assert in_a_package or not is_local(known.id)


def test_anything_else_is_taken_as_it_is_in_the_default_dialect() -> None:
    for name in ("org/model", "./folder"):
        found = resolve_model(name)
        assert (found.id, found.location, found.path, found.dialect) == (name, name, None, "safeguard")


def test_a_folder_may_name_its_own_dialect(tmp_path: Path) -> None:
    packaged = resolve_model("pico")
    assert packaged.dialect == resolve_model(packaged.location).dialect
    for text in ("", "[]", "{}", '{"policyguard": 1}', '{"policyguard": {"dialect": 1}}', "\xff"):
        (tmp_path / "config.json").write_text(text)
        assert resolve_model(str(tmp_path)).dialect == "safeguard"


def test_what_a_folder_cannot_say_about_its_dialect_neither_hangs_nor_raises(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    os.mkfifo(config)
    assert resolve_model(str(tmp_path)).dialect == "safeguard"
    config.unlink()
    for text in ("[" * 100_000, '{"policyguard": {"dialect": "pico"}}' + " " * (1 << 20)):
        config.write_text(text)
        assert resolve_model(str(tmp_path)).dialect == "safeguard"
    for name in ("~nosuchuser/m", "m" * 300, "a\0b"):
        assert resolve_model(name).dialect == "safeguard"


def test_pico_is_asked_in_its_own_dialect_only_whatever_it_is_called() -> None:
    for name in ("pico", resolve_model("pico").location):
        with pytest.raises(ConfigurationError, match="cannot be asked in the dialect 'safeguard'"):
            TransformersBackend(name, dialect=get_dialect("safeguard"))
    with pytest.raises(ConfigurationError, match="cannot be asked in the dialect 'safeguard'"):
        build_backend("pico", base_url="http://gpu/v1", dialect="safeguard")


def test_a_folder_here_says_nothing_of_a_model_on_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "config.json").write_text('{"policyguard": {"dialect": "pico"}}')
    monkeypatch.chdir(tmp_path)
    assert build_backend("served", base_url="http://gpu/v1").model.dialect == "safeguard"


def test_pico_refuses_policies_of_the_real_world_even_when_named() -> None:
    try:
        backend = TransformersBackend("pico")
    except ModelLoadError as error:
        pytest.skip(f"not in this checkout: {error}")
    with pytest.raises(ConfigurationError, match=r"nothing else(.|\n)*POLICYGUARD_MODEL"):
        backend.accept(policy())
