"""Guards without a prompt: classifiers, detectors, probes and moderation services."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import Any

from policyguard.backends.sensors.backend import SensorBackend
from policyguard.backends.sensors.base import Sensed, Sensor, Signal
from policyguard.errors import ConfigurationError

__all__ = ["Sensed", "Sensor", "SensorBackend", "Signal", "get_sensor", "sensor_names"]

_ENTRY_POINTS = "policyguard.sensors"
"""Other packages add sensors under this group: a name, and what makes the sensor when it is called."""

_SENSORS = {
    "clip": "clip:ClipHead",
    "classifier": "classifier:Classifier",
    "google-safesearch": "services:SafeSearch",
    "nudenet": "nudenet:NudeNet",
    "omni-moderation": "services:OmniModeration",
    "open-nsfw": "open_nsfw:OpenNsfw",
}
"""Where each is made; loaded when it is asked for."""


def sensor_names() -> tuple[str, ...]:
    """The kinds of sensors of this package, sorted."""
    return tuple(sorted(_SENSORS))


def get_sensor(name: str, /, **options: Any) -> Sensor:
    """The sensor called ``name``; ``options`` are those of its class.

    Raises ConfigurationError for an unknown name or option, MissingExtraError where a package is missing.
    """
    make = _maker(name)
    if make is None:
        known = ", ".join(sensor_names())
        raise ConfigurationError(f"there is no sensor '{name}'", hint=f"choose one of: {known}")
    if wrong := sorted(set(options) - options_of(name)):
        where = ": it runs in this process" if wrong[0] == "base_url" else ""
        raise ConfigurationError(f"the sensor '{name}' takes no {wrong[0]}{where}", hint="leave it out")
    sensor: Sensor = make(**options)
    return sensor


def options_of(name: str) -> set[str]:
    """The options that the sensor called ``name`` takes; none where there is no such sensor."""
    make = _maker(name)
    return set() if make is None else set(signature(make).parameters)


def _maker(name: str) -> Any:
    if name in _SENSORS:
        module, _, attribute = _SENSORS[name].partition(":")
        return getattr(import_module(f".{module}", __name__), attribute)
    points = [point for point in entry_points(group=_ENTRY_POINTS) if point.name == name]
    if len(points) > 1:
        packages = ", ".join(point.value for point in points)
        raise ConfigurationError(f"several packages install a sensor '{name}': {packages}")
    return points[0].load() if points else None
