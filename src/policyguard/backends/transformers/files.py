"""Find a guard model's files, and refuse what must not be loaded, before anything of it is loaded.

Covered: pickled weights, models that bring Python code (``auto_map``), adapters (they pull in another model
by name), weights outside the folder, missing files, settings that are no plain files or too large.
Not covered: weights trained to answer wrongly; nothing in a file tells those.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, RLock
from typing import Any

from policyguard.errors import ConfigurationError, MissingExtraError, ModelLoadError
from policyguard.strict.jsontext import read_settings

__all__ = [
    "ModelFiles",
    "complete",
    "find",
    "fingerprint",
    "is_local",
    "quiet",
    "quiet_hub",
    "read_json",
]


_lock = RLock()
"""Verbosity belongs to the process: two threads must not restore each other's silence."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep bars and warnings off the terminal while a model loads; the user's settings are restored."""
    from transformers.utils import logging

    with _lock:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()


@contextmanager
def quiet_hub() -> Iterator[None]:
    """No bars and no warnings while small files are fetched. Weights may show a bar: they take minutes."""
    try:
        import huggingface_hub.utils
    except ImportError:
        raise MissingExtraError("huggingface_hub", "transformers") from None
    hub: Any = huggingface_hub.utils

    with _lock:
        verbosity, bars = hub.logging.get_verbosity(), not hub.are_progress_bars_disabled()
        hub.logging.set_verbosity(hub.logging.ERROR)
        hub.disable_progress_bars()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            hub.logging.set_verbosity(verbosity)
            if bars:
                hub.enable_progress_bars()


SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model")
"""Configuration, tokenizer, processor and chat template. Never ``*.py``, ``*.bin``, ``*.pt``, ``*.pkl``."""
WEIGHTS = ("*.safetensors",)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""With its owner: no guard has a bare name there, and one is nearly always a hosted model's."""
_INDEX = "model.safetensors.index.json"

_LARGEST = 64 << 20
"""Bytes. An index of a large model's weights takes some hundred thousand."""
_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies. ``commit``: of a hub snapshot; ``hub_id``: where weights may have to be fetched."""

    name: str
    folder: Path
    commit: str | None = None
    hub_id: str | None = None


def is_local(model: str) -> bool:
    """Whether ``model`` means a folder: there is one, or it cannot be a hub id."""
    return _existing(model) is not None or model.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(model)


def _existing(model: str) -> Path | None:
    """The folder or file that ``model`` names; None also for what can name none."""
    try:
        path = Path(model).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # such as a name that is too long, and "~nobody"
        return None


def find(model: str, *, name: str | None = None, revision: str | None = None) -> ModelFiles:
    """The files of ``model``: a local folder, or a hub id whose settings (not its weights) are fetched.

    ``name``: what the user calls it, for messages.

    Raises ModelLoadError if there is no such model, or if it is one that must not be loaded.
    """
    name = name or model
    if not is_local(model):
        try:
            with quiet_hub():
                fetched = _download(model, revision, SETTINGS)
        except MissingExtraError as error:  # an OWNER/NAME may be a service's too, as OpenRouter's are
            error.hint = f"{error.hint}; {_SERVED}"
            raise
        files = ModelFiles(name, fetched, commit=fetched.name, hub_id=model)
    else:
        files = _local(model, name, revision)
        _check_weights(files)
    _check_settings(files)
    return files


def _local(model: str, name: str, revision: str | None) -> ModelFiles:
    folder = _existing(model)
    if folder is None:
        where = "" if name == model else f" (it should be in {model})"
        ways = (
            "give a folder, a Hugging Face id such as 'Qwen/Qwen3-VL-4B-Instruct', "
            "or a name that `policyguard models` lists"
        )
        if "/" in model or model.startswith((".", "~")):
            raise ModelLoadError(f"there is no model folder '{name}'{where}", hint=ways)
        raise ModelLoadError(
            f"'{name}' is no folder and no name of a model that runs here",
            hint=f"{_SERVED}; for a model in this process, {ways}",
        )
    if not folder.is_dir():
        raise ModelLoadError(
            f"model '{name}' is a file",
            hint="give the folder that holds config.json and the .safetensors files",
        )
    if revision is not None:
        raise ConfigurationError(
            f"revision='{revision}' does not go with the local folder '{name}'",
            hint="a revision belongs to a hub id; leave it out for a folder",
        )
    return ModelFiles(name, folder)


def complete(files: ModelFiles) -> ModelFiles:
    """Fetch the weights too, where they have to be fetched. Raises ModelLoadError."""
    if files.hub_id is not None and _missing_weights(files):
        _download(files.hub_id, files.commit, (*SETTINGS, *WEIGHTS))
    _check_weights(files)
    return files


def _check_settings(files: ModelFiles) -> None:
    config = files.folder / "config.json"
    if (files.folder / "adapter_config.json").exists():
        raise ModelLoadError(
            f"model '{files.name}' is an adapter, which would pull in another model by name",
            hint="merge it into its base model (peft: merge_and_unload, save_pretrained) and load the result",
        )
    if not config.is_file():
        raise ModelLoadError(
            f"model '{files.name}' has no config.json in {files.folder}",
            hint="give a folder written by save_pretrained, with config.json, tokenizer and processor files",
        )
    for path in sorted(files.folder.glob("*.json")):
        if path.name.endswith(("config.json", "processor.json")) and "auto_map" in read_json(path):
            raise ModelLoadError(
                f"model '{files.name}' needs Python code of its own ({path.name} has an auto_map), "
                "and code from models is never run",
                hint="use a model whose architecture is part of transformers",
            )


def _check_weights(files: ModelFiles) -> None:
    if any(files.folder.glob("*.safetensors")):
        if (files.folder / _INDEX).is_file() and (missing := _missing_weights(files)):
            raise ModelLoadError(
                f"model '{files.name}' lacks {len(missing)} of its weights files, the first is {missing[0]}",
                hint="fetch or save the model again",
            )
        return
    pickled = sorted(
        path.name for path in files.folder.glob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl"}
    )
    others = f"; it has {pickled[0]}, and pickled weights are never loaded" if pickled else ""
    raise ModelLoadError(
        f"model '{files.name}' has no .safetensors weights in {files.folder}{others}",
        hint="convert them with save_pretrained of transformers, or choose a model that ships safetensors",
    )


def _missing_weights(files: ModelFiles) -> list[str]:
    """The weights files that should be in the folder and are not. Raises ModelLoadError for a wrong index."""
    index = files.folder / _INDEX
    names = {"model.safetensors"}
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelLoadError(f"{index} has no weight_map", hint="fetch or save the model again")
        names = {str(name) for name in shards.values()}
    for name in sorted(names):
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise ModelLoadError(
                f"model '{files.name}' names {name!r} for its weights ({_INDEX}), "
                "and weights are loaded from .safetensors files in its folder only",
                hint="fetch the model again, from where you trust it",
            )
    return sorted(name for name in names if not (files.folder / name).is_file())


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises ModelLoadError naming it."""
    try:
        return read_settings(path, limit=_LARGEST)
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{path} cannot be read: {error}", hint="fetch or save the model again"
        ) from error


def _download(hub_id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """The snapshot folder of ``hub_id`` with the files that match ``patterns``; from the cache, if there."""
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise MissingExtraError("huggingface_hub", "transformers") from None
    try:
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=[*patterns], ignore_patterns="*/*")
        )
    except errors.GatedRepoError as error:
        raise ModelLoadError(
            f"the model '{hub_id}' is gated and this machine has no access to it",
            hint=f"accept its terms at https://huggingface.co/{hub_id}, then run `hf auth login`",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelLoadError(
            f"there is no model '{hub_id}' on the Hugging Face hub, and no folder of that name",
            hint=f"check the spelling; for a private model run `hf auth login`; {_SERVED}",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelLoadError(
            f"model '{hub_id}' has no revision '{revision}'", hint="give a branch, a tag or a commit hash"
        ) from error
    except Exception as error:  # no network, offline mode, a full disk: all mean that the files are not here
        raise ModelLoadError(
            f"model '{hub_id}' is not on this machine and cannot be fetched: {_first_line(error)}",
            hint=f"run `hf download {hub_id}` where there is a network, or give a local folder; {_SERVED}",
        ) from error


_SERVED = (
    "a hosted model, or one on a server, needs base_url= (--base-url): "
    "`policyguard quickstart` prints the whole command"
)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_hashes: dict[tuple[Any, ...], str] = {}
_hashes_lock = Lock()


def fingerprint(files: ModelFiles) -> str:
    """The revision to record: the hub commit, or ``sha256:`` of the files that decide the answers.

    Those are the weights, and the configuration, tokenizer, processor and chat template beside them. A
    folder's hash is computed once per process, as long as its files and their times stay.
    """
    if files.commit is not None:
        return files.commit
    paths = sorted(
        path for pattern in (*SETTINGS, *WEIGHTS) for path in files.folder.glob(pattern) if path.is_file()
    )
    stats = [(path, path.stat()) for path in paths]
    key = tuple(
        (str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for path, stat in stats
    )
    with _hashes_lock:
        if key not in _hashes:
            _hashes[key] = f"sha256:{_hash(stats)}"
        return _hashes[key]


def _hash(stats: list[tuple[Path, Any]]) -> str:
    digest = hashlib.sha256()
    for path, stat in stats:
        digest.update(f"{path.name}\0{stat.st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(_READ):
                digest.update(block)
    return digest.hexdigest()
