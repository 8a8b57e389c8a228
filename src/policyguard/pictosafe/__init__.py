"""PictoSafe: a harmless world of pictograms in which a small model can be a real guard.

``make`` writes a benchmark as files, ``run`` measures a guard on one. The world is in ``world``, scenes in
``scene``, their drawing in ``render``, what policies may say in ``language``, exact labels in ``rules``,
random policies in ``randompolicies``. Importing this package loads none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policyguard.pictosafe.benchmark import Sizes
    from policyguard.pictosafe.dataset import make
    from policyguard.pictosafe.evaluation import Report, run

__all__ = ["Report", "Sizes", "make", "run"]

_HOME = {"Report": "evaluation", "Sizes": "benchmark", "make": "dataset", "run": "evaluation"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
