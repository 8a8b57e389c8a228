"""General ability: whether a model still answers ordinary questions about images, by lmms-eval.

SafeGuard-VL's tables 4 and 5 (arXiv:2603.01228) give the mean of MMMU, RealWorldQA, BLINK and MMT-Bench, for
training a guard can cost what its base model could do. lmms-eval runs in an environment of its own, because
its pins are not ours: ``command`` says how, ``run`` does it, ``read`` reads what it wrote. Task names, model
classes, their arguments and the form of the results are those of lmms-eval 0.7.3.

Never run at size by this project: the data sets are on a hub, and the four take a GPU for hours.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from policyguard.backends.registry import resolve_model
from policyguard.errors import ConfigurationError
from policyguard.strict.jsontext import JsonError, parse_object

__all__ = ["TASKS", "General", "command", "read", "run"]


class Task(NamedTuple):
    """A task of lmms-eval, the metric that stands for it, and what that is 1 of: MMT's is in per cent."""

    name: str
    metric: str
    whole: float


TASKS = {
    "mmmu": Task("mmmu_val", "mmmu_acc", 1.0),
    "realworldqa": Task("realworldqa", "exact_match", 1.0),
    "blink": Task("blink", "blink_acc", 1.0),
    "mmt": Task("mmt_val", "accuracy", 100.0),
}
_CLASSES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "gemma3")
"""Model types of transformers that lmms-eval has a class of the same name for."""
_NAMED = {name: name for name in _CLASSES} | {
    "gemma_3": "gemma3",
    "safeguard_vl": "qwen2_5_vl",
    "qwenguard": "qwen2_5_vl",
}
"""What stands in a model's name, and its class."""
_STDERR = 2
_FAILED = b"[LMMS_EVAL_REQUEST_FAILED"
_LOOK = "import importlib.util, sys; sys.exit(importlib.util.find_spec('lmms_eval') is None)"
_INSTALL = "python -m venv lmms && lmms/bin/pip install 'lmms_eval==0.7.3', then --python lmms/bin/python"


@dataclass(frozen=True, slots=True)
class General:
    """``figures``: the share of right answers per task, in [0, 1]. ``samples``: how many were asked.

    ``failed``: requests that the server never answered, each of which lmms-eval counts as an answer.
    """

    figures: Mapping[str, float]
    samples: Mapping[str, int]
    failed: int
    file: Path

    @property
    def average(self) -> float:
        """The mean over the tasks, each as heavy as the others, as the paper has it."""
        return fmean(self.figures.values())

    def to_dict(self) -> dict[str, Any]:
        return {
            "figures": dict(self.figures) | {"average": self.average},
            "samples": dict(self.samples),
            "failed": self.failed,
            "file": str(self.file),
        }


def command(
    model: str,
    *,
    out: Path,
    python: str = "python",
    base_url: str | None = None,
    lmms_model: str | None = None,
    model_args: Sequence[str] = (),
    limit: int | None = None,
) -> list[str]:
    """The command that runs the four tasks and writes into ``out``.

    With ``base_url``, ``model`` is what that server calls it; its key is no part of the command. Without,
    it is an alias, a hub id or a folder. ``lmms_model``: lmms-eval's class; default: that of the model's
    type. ``model_args``: more of its arguments, as NAME=VALUE. Raises ConfigurationError.
    """
    if base_url is not None:
        chosen = lmms_model or "async_openai"
        arguments = [f"model_version={model}", f"base_url={base_url}"]
    else:
        pretrained = resolve_model(model).id
        chosen = lmms_model or _class_of(pretrained)
        arguments = [f"pretrained={pretrained}"]
    for argument in (*arguments, *model_args):
        if "," in argument or "=" not in argument:
            raise ConfigurationError(
                f"'{argument}' cannot be an argument of lmms-eval", hint="NAME=VALUE, without commas"
            )
    return [
        *(python, "-m", "lmms_eval", "--model", chosen),
        *("--model_args", ",".join([*arguments, *model_args])),
        *("--tasks", ",".join(task.name for task in TASKS.values())),
        *("--batch_size", "1", "--log_samples", "--output_path", str(out)),
        *(() if limit is None else ("--limit", str(limit))),
    ]


def _class_of(model: str) -> str:
    config = Path(model) / "config.json"
    if config.is_file():
        try:
            kind = parse_object(config.read_bytes()).get("model_type")
        except (OSError, JsonError) as error:
            raise ConfigurationError(f"{config}: {error}") from error
        if kind in _CLASSES:
            return str(kind)
    else:
        name = model.lower().replace(".", "_").replace("-", "_")
        for mark, chosen in _NAMED.items():
            if mark in name:
                return chosen
    raise ConfigurationError(
        f"which class of lmms-eval runs {model} is not known",
        hint=f"serve it and give --base-url, or name one with --lmms-model, such as {', '.join(_CLASSES)}",
    )


def run(asked: Sequence[str], *, out: Path, api_key: str | None = None) -> General:
    """Run what ``command`` gave, and read its results. What it prints goes to stderr.

    ``api_key``: for the server; no key of this process's environment is sent to it.

    Raises ConfigurationError if lmms-eval is not there, ends in an error, or leaves no results.
    """
    out.mkdir(parents=True, exist_ok=True)
    before = set(_results(out))
    environment = os.environ | {"OPENAI_API_KEY": api_key or "EMPTY"}
    try:
        look = [asked[0], "-c", _LOOK]
        if subprocess.run(look, env=environment, check=False).returncode:  # noqa: S603 (the user's own Python)
            raise ConfigurationError(f"{asked[0]} has no lmms_eval", hint=f"make an environment: {_INSTALL}")
        done = subprocess.run(asked, env=environment, check=False, stdout=_STDERR)  # noqa: S603
    except OSError as error:
        raise ConfigurationError(f"{asked[0]} cannot be run: {error.strerror}", hint=_INSTALL) from error
    if done.returncode:
        raise ConfigurationError(f"lmms-eval ended with exit code {done.returncode}; its last lines say why")
    written = [path for path in _results(out) if path not in before]
    if not written:  # it ends with exit code 0 after errors too
        raise ConfigurationError("lmms-eval wrote no results; what it printed says why")
    return read(written[-1])


def _results(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*_results.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def read(source: Path) -> General:
    """The results in a file of lmms-eval, or the latest below a folder. Raises ConfigurationError.

    The samples logged beside it are searched for requests that failed.
    """
    file = source
    if source.is_dir():
        found = _results(source)
        if not found:
            raise ConfigurationError(f"there is no file *_results.json in '{source}'")
        file = found[-1]
    try:
        told = json.loads(file.read_bytes())  # its errors of the mean may be NaN, which no JSON has
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file} is not JSON: {error}") from error
    results = told.get("results") if isinstance(told, dict) else None
    if not isinstance(results, dict):
        raise ConfigurationError(f"{file} has no results: it is no file of lmms-eval's")
    figures = {name: _figure(file, results, task) for name, task in TASKS.items()}
    counts = told.get("n-samples") if isinstance(told.get("n-samples"), dict) else {}
    samples = {name: sum(_asked(counts, task.name)) for name, task in TASKS.items()}
    stamp = file.name.removesuffix("_results.json")
    logged = [path for path in file.parent.glob("*_samples_*.jsonl") if path.name.startswith(f"{stamp}_")]
    failed = sum(line.count(_FAILED) > 0 for path in logged for line in path.read_bytes().splitlines())
    return General(figures, samples, failed, file)


def _figure(file: Path, results: Mapping[str, Any], task: Task) -> float:
    """The metric of a task; of a group without one, the plain mean of its tasks, as lmms-eval has it."""
    own = _metric(results.get(task.name), task.metric)
    if own is None:
        inner = [part for name, part in results.items() if name.startswith(f"{task.name}_")]
        known = [value for part in inner if (value := _metric(part, task.metric)) is not None]
        own = fmean(known) if known else None
    if own is None:
        raise ConfigurationError(
            f"{file} has no {task.metric} of {task.name}",
            hint="run all four: the average is over all of them",
        )
    if not 0 <= own <= task.whole:
        raise ConfigurationError(
            f"{file}: {task.metric} of {task.name} is {own:g}, and not from 0 to {task.whole:g}"
        )
    return own / task.whole


def _metric(result: Any, metric: str) -> float | None:
    """``"METRIC,FILTER"``; without a filter, or by the only one there is."""
    if not isinstance(result, dict):
        return None
    values = {
        key: value
        for key, value in result.items()
        if key.partition(",")[0] == metric and isinstance(value, int | float) and not isinstance(value, bool)
    }
    value = values.get(f"{metric},none", next(iter(values.values())) if len(values) == 1 else None)
    return None if value is None else float(value)


def _asked(counts: Any, name: str) -> Iterator[int]:
    for key, value in counts.items():
        number = value.get("effective") if isinstance(value, dict) else None
        if (key == name or key.startswith(f"{name}_")) and isinstance(number, int):
            yield number
