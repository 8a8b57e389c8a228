"""What keeps a sensor from working here, what of a policy it looks at, and how fast it is."""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING

from policyguard.assessment import Failure
from policyguard.backends.remote.doctor import Examination, Level, Speed
from policyguard.backends.sensors.backend import SensorBackend, unread_exceptions
from policyguard.errors import UsageError

if TYPE_CHECKING:
    from policyguard.backends.sensors.base import Sensor
    from policyguard.policy import ResolvedPolicy

__all__ = ["examine_sensor"]

_SIDE = 320
"""Pixels of the sides of an image of noise."""


def examine_sensor(
    backend: SensorBackend, *, policy: ResolvedPolicy | None = None, readings: int = 5
) -> Examination:
    """Load the sensor, show it images of noise, and say what of ``policy`` it looks at."""
    sensor = backend.sensor
    examination = Examination("this process", sensor.name)
    try:
        sensor.warm()
        examination.add("sensor", Level.OK, f"{backend.model.id}, {backend.model.backend}")
        examination.add("signals", Level.OK, ", ".join(sensor.signals))
        if policy is not None:
            _cover(examination, backend, policy)
        _time(examination, sensor, readings)
    except UsageError as error:
        examination.add("sensor", Level.PROBLEM, error.message, error.hint or "")
    return examination


def _time(examination: Examination, sensor: Sensor, readings: int) -> None:
    from PIL.Image import frombytes

    seconds = []
    for _ in range(readings):
        frame = frombytes("RGB", (_SIDE, _SIDE), os.urandom(3 * _SIDE * _SIDE))
        began = time.perf_counter()
        (sensed,) = sensor.sense([frame])
        seconds.append(time.perf_counter() - began)
        if isinstance(sensed, Failure):
            examination.add("answer", Level.PROBLEM, sensed.reason)
            return
        if wrong := [name for name, score in sensed.items() if not 0.0 <= score <= 1.0]:
            examination.add("answer", Level.PROBLEM, f"'{wrong[0]}' is not in [0, 1]: {sensed[wrong[0]]!r}")
            return
        if left_out := [name for name in sensor.signals if name not in sensed]:
            examination.add("answer", Level.NOTE, f"left out, and so unchecked: {', '.join(left_out)}")
            break
    else:
        examination.add("answer", Level.OK, "a number for each signal")
    examination.speed = Speed(1000 * seconds[0], 1000 * statistics.median(seconds), len(seconds))


def _cover(examination: Examination, backend: SensorBackend, policy: ResolvedPolicy) -> None:
    """Remarks on what of ``policy`` the sensor looks at. Raises ConfigurationError where that is nothing."""
    SensorBackend(backend.sensor, subset=True).accept(policy)
    mapped = backend.mapped(policy)
    for rule, names in mapped.items():
        says = (
            f"looks at {', '.join(names)}"
            if names
            else "not looked at: needs --subset (subset=True), and images are undecided under it"
        )
        examination.add(rule, Level.OK if names else Level.NOTE, says)
    if excused := unread_exceptions(policy, mapped):
        says = f"not read: those of {', '.join(excused)} excuse nothing"
        examination.add("exceptions", Level.NOTE, says)
