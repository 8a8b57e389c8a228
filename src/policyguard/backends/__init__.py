"""What runs a guard model: in this process, or on a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from policyguard.backends.base import AssessmentRequest, Backend
from policyguard.backends.registry import require_dialect, resolve_model, resolve_served
from policyguard.backends.wrapping import WrappingBackend
from policyguard.dialects import Dialect, get_dialect
from policyguard.errors import ConfigurationError
from policyguard.strict.arguments import texts
from policyguard.strict.lazy import lazily

if TYPE_CHECKING:
    from policyguard.backends.remote import RemoteBackend, Retries
    from policyguard.backends.transformers import TransformersBackend
    from policyguard.policy import ResolvedPolicy

__all__ = [
    "AssessmentRequest",
    "Backend",
    "RemoteBackend",
    "Retries",
    "TransformersBackend",
    "WrappingBackend",
    "build_backend",
    "runs_here",
]

__getattr__ = lazily(
    __name__, {"RemoteBackend": ".remote", "Retries": ".remote", "TransformersBackend": ".transformers"}
)


def runs_here(model: str | None) -> bool:
    """Whether ``model``, as a caller names it, is a packaged one.

    It runs here then, whatever server the environment or a project file names: its images go to no server by
    surprise.
    """
    return model is not None and resolve_model(model).path is not None


def build_backend(
    model: str | None,
    *,
    base_url: str | Sequence[str] | None = None,
    api_key: str | None = None,
    dialect: str | Dialect | None = None,
    timeout: float | None = None,
    policies: Sequence[ResolvedPolicy] = (),
) -> Backend:
    """The backend for ``model``, on ``base_url`` if given; loads no weights.

    Several servers are a sequence, or one text with commas between them (as in an environment variable).
    ``timeout`` is how many seconds one check may take: a call to a server gets no more than that either.

    Without a model, PictoSafe policies get pico; for any other policy there is no model that could judge it,
    and a ConfigurationError says how to name one.
    """
    if base_url is not None:
        urls = texts("base_url", base_url.split(",") if isinstance(base_url, str) else base_url)
        if model is None:
            raise ConfigurationError(
                f"which model on {', '.join(urls)}?",
                hint="name it as the server does, with model= (--model) or POLICYGUARD_MODEL",
            )
        from policyguard.backends.remote import RemoteBackend

        declared = resolve_served(model).dialect
        spoken = _dialect(dialect or declared)
        require_dialect(model, declared, spoken)
        limit = 60.0 if timeout is None or timeout > 60.0 else timeout
        return RemoteBackend(
            [url.strip() for url in urls], model=model, api_key=api_key, dialect=spoken, timeout=limit
        )
    if model is None:
        other = [policy.id for policy in policies if policy.world != "pictosafe"]
        if other:
            raise ConfigurationError(
                f"policy '{other[0]}' needs a guard model, and none is configured "
                "(the packaged model pico judges pictogram scenes only)",
                hint="name one with model= (--model), such as Qwen/Qwen3-VL-4B-Instruct, and a server for it "
                "with base_url= (--base-url); or set POLICYGUARD_MODEL. `policyguard models` lists some",
            )
        model = "pico"
    from policyguard.backends.transformers import TransformersBackend

    return TransformersBackend(model, dialect=None if dialect is None else _dialect(dialect))


def _dialect(dialect: str | Dialect) -> Dialect:
    return get_dialect(dialect) if isinstance(dialect, str) else dialect
