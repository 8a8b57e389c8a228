"""What runs a guard model: in this process, or on a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from policyguard.backends.base import AssessmentRequest, Backend, WrappingBackend, require_backend
from policyguard.errors import ConfigurationError
from policyguard.strict.arguments import texts
from policyguard.strict.lazy import lazily

if TYPE_CHECKING:
    from policyguard.backends.cascade import CascadeBackend, MeasuredBand, Stage
    from policyguard.backends.registry import KnownModel
    from policyguard.backends.remote import RemoteBackend, Retries
    from policyguard.backends.stats import GuardStats
    from policyguard.backends.transformers import TransformersBackend
    from policyguard.backends.transformers.replicas import ReplicatedBackend
    from policyguard.dialects import Dialect
    from policyguard.policy import ResolvedPolicy

__all__ = [
    "AssessmentRequest",
    "Backend",
    "CascadeBackend",
    "GuardStats",
    "MeasuredBand",
    "RemoteBackend",
    "ReplicatedBackend",
    "Retries",
    "Stage",
    "TransformersBackend",
    "WrappingBackend",
    "build_backend",
    "build_cascade",
    "runs_here",
]

__getattr__ = lazily(
    __name__,
    {
        "CascadeBackend": ".cascade",
        "GuardStats": ".stats",
        "MeasuredBand": ".cascade",
        "RemoteBackend": ".remote",
        "ReplicatedBackend": ".transformers.replicas",
        "Retries": ".remote",
        "Stage": ".cascade",
        "TransformersBackend": ".transformers",
    },
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
    local: Mapping[str, Any] | None = None,
    replicas: int | Literal["auto"] = 1,
) -> Backend:
    """The backend for ``model``, on ``base_url`` if given; loads no weights.

    Several servers are a sequence, or one text with commas between them (as in an environment variable).
    ``timeout`` is how many seconds one check may take, and may be given to one call to a server.
    ``patience``, ``local``: see ``Guard``. ``subset``: see ``SensorBackend``; guards that read a policy need
    no leave.

    Without a model, PictoSafe policies get pico; for any other policy there is no model that could judge it,
    and a ConfigurationError says how to name one.
    """
    from policyguard.backends.registry import require_dialect, resolve_model, resolve_served

    here = base_url is None and (model is None or resolve_model(model).sensor is None)
    if local and not here:
        raise ConfigurationError(
            "local is for a guard model in this process, and this one runs on a server or is a sensor",
            hint="leave it out",
        )
    if replicas != 1 and not here:
        raise ConfigurationError(
            "replicas are processes that run a model here, and this one runs on a server or is a sensor",
            hint="start more servers and name them all with base_url= (--base-url), or leave replicas out",
        )
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
        return RemoteBackend(
            [url.strip() for url in urls],
            model=model,
            api_key=api_key,
            dialect=None if dialect is None else spoken,
            timeout=timeout,
            retries=Retries(patience=patience),
        )
    if model is None:
        other = [policy.id for policy in policies if policy.world != "pictosafe"]
        if other:
            raise ConfigurationError(
                f"policy '{other[0]}' needs a guard model, and none is configured "
                "(the packaged model pico judges pictogram scenes only)",
                hint="name one with model= (--model) or POLICYGUARD_MODEL, such as "
                "Qwen/Qwen3-VL-4B-Instruct, and the server or service of that model with base_url= "
                "(--base-url); `policyguard quickstart` prints what works here",
            )
        model = "pico"
    from policyguard.backends.transformers import TransformersBackend

    own = None if dialect is None else _dialect(dialect)
    backend = TransformersBackend(model, dialect=own, **_options(TransformersBackend, local))
    if replicas == 1:
        return backend
    from policyguard.backends.transformers.replicas import ReplicatedBackend

    return ReplicatedBackend(backend, replicas)


def build_cascade(
    stages: Sequence[Stage | Backend | str],
    *,
    policies: Sequence[ResolvedPolicy] = (),
    timeout: float | None = None,
    patience: float = 0.0,
) -> CascadeBackend:
    """``stages`` one after the other, built where they are not; loads no weights.

    Raises ConfigurationError, also for a rule of a stage that none of ``policies`` has.
    """
    import os

    from policyguard.backends.cascade import CascadeBackend, Stage
    from policyguard.policy.resolved import require_rule

    if not isinstance(stages, list | tuple):
        raise ConfigurationError("stages must be a list", hint="stages=[Stage(model=..., band=...), 'MODEL']")
    named = [_stage(one) for one in stages]
    served = {str(stage.base_url) for stage in named if stage.base_url is not None}
    built, owned = [], []
    for stage in named:
        for rule in stage.rules or ():
            require_rule(policies, rule, f"stage '{stage.title}'")
        if stage.backend is None:
            key = stage.api_key
            if key is None and (variable := stage.key_variable) is not None:
                if not (key := os.environ.get(variable)):
                    raise ConfigurationError(f"stage '{stage.title}': {variable} is not set")
            elif key is None and stage.base_url is not None and len(served) == 1:
                key = os.environ.get("POLICYGUARD_API_KEY") or None
            backend = build_backend(
                stage.model,
                base_url=stage.base_url,
                api_key=key,
                dialect=stage.dialect,
                timeout=timeout,
                policies=policies,
                subset=stage.subset,
                patience=patience,
            )
            owned.append(backend)
            stage = Stage(
                backend=backend,
                rules=stage.rules,
                band=stage.band,
                misses=stage.misses,
                name=stage.title,
            )
        built.append(stage)
    return CascadeBackend(built, owned=owned)


def _stage(one: object) -> Stage:
    from policyguard.backends.cascade import Stage

    if isinstance(one, Stage):
        return one
    if isinstance(one, str):
        return Stage(model=one)
    require_backend(one)
    return Stage(backend=cast("Backend", one))


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


def _options(kind: type, local: Mapping[str, Any] | None) -> dict[str, Any]:
    """``local``, if it holds what ``kind`` takes besides model and dialect. Raises ConfigurationError."""
    from inspect import signature

    if local is not None and not isinstance(local, Mapping):
        raise ConfigurationError(
            f"local is of type {type(local).__name__}", hint='give a dict, such as {"dtype": "float32"}'
        )
    takes = sorted(set(signature(kind).parameters) - {"model", "dialect"})
    for name in local or {}:
        if name not in takes:
            raise ConfigurationError(
                f"local holds {name!r}, which is no setting", hint=f"choose of: {', '.join(takes)}"
            )
    return dict(local or {})


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
