"""What runs a guard model: in this process, or on a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from policyguard.backends.base import AssessmentRequest, Backend, WrappingBackend
from policyguard.errors import ConfigurationError
from policyguard.strict.arguments import texts
from policyguard.strict.lazy import lazily

if TYPE_CHECKING:
    from policyguard.backends.registry import KnownModel
    from policyguard.backends.remote import RemoteBackend, Retries
    from policyguard.backends.transformers import TransformersBackend
    from policyguard.dialects import Dialect
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
    """Whether ``model``, as a caller names it, is a packaged one or a sensor.

    No server that the environment or a project file names for other models is asked then: its images, and the
    key of that server, go nowhere by surprise.
    """
    if model is None:
        return False
    from policyguard.backends.registry import resolve_model  # late: it loads every dialect

    known = resolve_model(model)
    return known.path is not None or known.sensor is not None


def build_backend(
    model: str | None,
    *,
    base_url: str | Sequence[str] | None = None,
    api_key: str | None = None,
    dialect: str | Dialect | None = None,
    timeout: float | None = None,
    policies: Sequence[ResolvedPolicy] = (),
    subset: bool = False,
    patience: float = 0.0,
) -> Backend:
    """The backend for ``model``, on ``base_url`` if given; loads no weights.

    Several servers are a sequence, or one text with commas between them (as in an environment variable).
    ``timeout`` is how many seconds one check may take: a call to a server gets no more than that either.
    ``patience``: see ``Guard``. ``subset``: see ``SensorBackend``; guards that read a policy need no leave.

    Without a model, PictoSafe policies get pico; for any other policy there is no model that could judge it,
    and a ConfigurationError says how to name one.
    """
    from policyguard.backends.registry import require_dialect, resolve_model, resolve_served

    if model is not None and (known := resolve_model(model)).sensor is not None:
        return _sensor(known, base_url, api_key, dialect, timeout, subset=subset)
    if base_url is not None:
        urls = texts("base_url", base_url.split(",") if isinstance(base_url, str) else base_url)
        if model is None:
            raise ConfigurationError(
                f"which model on {', '.join(urls)}?",
                hint="name it as the server does, with model= (--model) or POLICYGUARD_MODEL",
            )
        from policyguard.backends.remote import RemoteBackend, Retries

        declared = resolve_served(model).dialect
        spoken = _dialect(dialect or declared)
        require_dialect(model, declared, spoken)
        limit = 60.0 if timeout is None or timeout > 60.0 else timeout
        return RemoteBackend(
            [url.strip() for url in urls],
            model=model,
            api_key=api_key,
            dialect=None if dialect is None else spoken,
            timeout=limit,
            retries=Retries(patience=patience),
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


def _sensor(
    known: KnownModel,
    base_url: str | Sequence[str] | None,
    api_key: str | None,
    dialect: str | Dialect | None,
    timeout: float | None,
    *,
    subset: bool,
) -> Backend:
    from policyguard.backends.sensors import SensorBackend, get_sensor, options_of

    assert known.sensor is not None
    if dialect is not None:
        raise ConfigurationError(f"'{known.id}' reads no prompt, so it has no dialect", hint="leave it out")
    takes = options_of(known.sensor)
    options: dict[str, Any] = {"model": known.location, "api_key": api_key, "timeout": timeout}
    if known.aliases:
        options["name"] = known.aliases[0]
    options = {name: value for name, value in options.items() if value is not None and name in takes}
    if base_url is not None:  # one that the sensor does not take is refused there
        options["base_url"] = base_url
    return SensorBackend(get_sensor(known.sensor, **options), subset=subset)


def _dialect(dialect: str | Dialect) -> Dialect:
    from policyguard.dialects import get_dialect

    if isinstance(dialect, str):
        return get_dialect(dialect)
    if isinstance(dialect, type) or not callable(getattr(dialect, "render", None)):
        raise ConfigurationError(
            f"dialect is of type {type(dialect).__name__}",
            hint="give its name, or an object of a class that inherits from policyguard.dialects.Dialect",
        )
    return dialect
