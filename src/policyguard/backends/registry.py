"""The guard models this package knows by name.

Nothing here limits which models can run: any hub id or folder of an image-text-to-text model works, and
is spoken to in the ``safeguard`` dialect unless another one is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from policyguard.dialects import dialect_names, get_dialect
from policyguard.dialects.base import HOW_TO_CHOOSE
from policyguard.errors import ConfigurationError
from policyguard.strict.jsontext import read_settings

if TYPE_CHECKING:
    from policyguard.dialects.base import Dialect

__all__ = [
    "DEFAULT_DIALECT",
    "KnownModel",
    "declared_dialect",
    "known_models",
    "require_dialect",
    "resolve_model",
    "resolve_served",
]

DEFAULT_DIALECT = "safeguard"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A guard model, and what is worth knowing before choosing it.

    Attributes:
        id: what a user writes: an alias, a hub id or a folder.
        dialect: the name of the dialect it is spoken to in.
        about: one line on what it is.
        path: the folder of a packaged model; ``None`` for hub ids and everything unknown.
        family, size, licence: as published; ``None`` where unknown.
        world: the only world whose policies it judges; ``None`` for photographs and everything else.
    """

    id: str
    dialect: str = DEFAULT_DIALECT
    about: str = ""
    path: Path | None = None
    family: str | None = None
    size: str | None = None
    licence: str | None = None
    world: str | None = None

    @property
    def location(self) -> str:
        """Where it is loaded from: a folder or a hub id."""
        return self.id if self.path is None else str(self.path)


def _instruct(name: str, family: str, size: str, about: str) -> KnownModel:
    about = f"general instruct model, not trained as a guard{about}"
    return KnownModel(id=name, family=family, size=size, licence="Apache-2.0", about=about)


_KNOWN = (
    KnownModel(
        id="pico",
        dialect="pico",
        about="the toy guard inside this package: pictogram scenes under PictoSafe policies, nothing else",
        path=Path(__file__).parent.parent / "models" / "pico",
        licence="Apache-2.0",
        world="pictosafe",
    ),
    _instruct("Qwen/Qwen3-VL-2B-Instruct", "Qwen3-VL", "2B", "; the smallest of its family"),
    _instruct("Qwen/Qwen3-VL-4B-Instruct", "Qwen3-VL", "4B", "; a good first choice for photographs"),
    _instruct("Qwen/Qwen3-VL-8B-Instruct", "Qwen3-VL", "8B", ""),
    _instruct("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL", "7B", "; what SafeGuard-VL was trained from"),
    KnownModel(
        id="tyodd/SafeGuard-VL-RL",
        about="guard trained with GRPO to follow the policy in its prompt; ours is not its training prompt",
        family="Qwen2.5-VL",
        size="7B",
        licence="see its page on the hub",
    ),
)


def known_models() -> tuple[KnownModel, ...]:
    """The models known by name, the packaged one first."""
    return _KNOWN


def resolve_model(model: str) -> KnownModel:
    """What ``model`` stands for.

    An unknown hub id or folder is taken as it is, in the default dialect, unless the folder's ``config.json``
    names another: ``"policyguard": {"dialect": "pico"}``.
    """
    known = _by_name(model)
    return known or KnownModel(id=model, dialect=declared_dialect(Path(model)) or DEFAULT_DIALECT)


def resolve_served(model: str) -> KnownModel:
    """What the name of a model on a server stands for; a folder of that name here says nothing of it."""
    return _by_name(model) or KnownModel(id=model)


def _by_name(model: str) -> KnownModel | None:
    return next((known for known in _KNOWN if known.id == model), None)


def declared_dialect(folder: Path) -> str | None:
    """The dialect that a model's folder names for itself; whatever else is wrong with it shows on loading."""
    try:
        settings = read_settings(folder.expanduser() / "config.json", limit=1 << 20).get("policyguard")
    except (OSError, ValueError, RuntimeError):  # the last for "~nobody"
        return None
    dialect = settings.get("dialect") if isinstance(settings, dict) else None
    return dialect if isinstance(dialect, str) else None


def require_dialect(model: str, declared: str | None, dialect: Dialect) -> None:
    """Raises ConfigurationError if ``model`` knows one world only and ``dialect`` is not the one it declares.

    In another dialect it would be asked about images and policies that it never learnt to judge.
    """
    if declared is None or declared == dialect.name or declared not in dialect_names():
        return
    world = get_dialect(declared).world
    if world is not None:
        raise ConfigurationError(
            f"model '{model}' judges 'world: {world}' only, in the dialect '{declared}', "
            f"and cannot be asked in the dialect '{dialect.name}'",
            hint=f"leave dialect out or give '{declared}'; for other images {HOW_TO_CHOOSE}",
        )
