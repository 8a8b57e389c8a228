"""PictoSafe: a harmless world of pictograms in which a small model can be a real guard.

``make`` writes a benchmark as files, ``run`` measures a guard on one, ``Renderer`` draws a ``Scene``.
The world is in ``world``, scenes in ``scene``, what policies may say in ``language``, exact labels in
``rules``, random policies in ``randompolicies``. Importing this package loads none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyguard.strict.lazy import lazily

if TYPE_CHECKING:
    from policyguard.pictosafe.benchmark import Sizes
    from policyguard.pictosafe.dataset import make
    from policyguard.pictosafe.evaluation import Report, run
    from policyguard.pictosafe.render import Renderer
    from policyguard.pictosafe.scene import MARGIN, SIZES, SLOT, Placement, Scene

__all__ = [
    "MARGIN",
    "SIZES",
    "SLOT",
    "Placement",
    "Renderer",
    "Report",
    "Scene",
    "Sizes",
    "make",
    "run",
]

_SCENE = ("MARGIN", "SIZES", "SLOT", "Placement", "Scene")
_HOMES = {
    **dict.fromkeys(_SCENE, ".scene"),
    "Renderer": ".render",
    "Report": ".evaluation",
    "Sizes": ".benchmark",
    "make": ".dataset",
    "run": ".evaluation",
}
__getattr__ = lazily(__name__, _HOMES)
