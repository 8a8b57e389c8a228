"""The guard models this package knows by name.

Nothing here limits which models can run: any hub id or folder of an image-text-to-text model works, and
is spoken to in the ``safeguard`` dialect unless another one is named.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEFAULT_DIALECT", "HOW_TO_CHOOSE", "KnownModel", "known_models", "resolve_model"]

DEFAULT_DIALECT = "safeguard"
HOW_TO_CHOOSE = (
    "name a real guard model, for example model='Qwen/Qwen3-VL-4B-Instruct', or set POLICYGUARD_MODEL; "
    "`policyguard models` lists some"
)


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
    known = next((known for known in _KNOWN if known.id == model), None)
    return known or KnownModel(id=model, dialect=_declared_dialect(Path(model)) or DEFAULT_DIALECT)


def _declared_dialect(folder: Path) -> str | None:
    """The dialect that a model's folder names for itself; whatever else is wrong with it shows on loading."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("policyguard")
    except (OSError, ValueError, AttributeError):
        return None
    dialect = settings.get("dialect") if isinstance(settings, dict) else None
    return dialect if isinstance(dialect, str) else None
