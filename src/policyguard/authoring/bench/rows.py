"""The rows of the field's benchmarks, from files that the user has obtained, in the formats of their makers.

Sources for columns and labels: the cards of tyodd/SafeEditBench and yiting/UnsafeBench, and the loaders of
github adorableChowhound/SafeGuard-VL, YitingQu/UnsafeBench and ml-research/LlavaGuard. The data sets are
gated and were not at hand.

A row's own policy text is what a guard reads, where the benchmark carries one; UnsafeBench carries none, and
is judged by the packaged policy. A row that cannot be used is a ``Problem`` with its place, and is counted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from policyguard.dialects.llavaguard import RATINGS
from policyguard.errors import ConfigurationError, PolicyError, Problem
from policyguard.policy import Policy, ResolvedPolicy, load_policy
from policyguard.policy.schema import Rule, Status
from policyguard.strict.explain import not_one_of
from policyguard.strict.jsontext import JsonError, parse_object
from policyguard.strict.tables import (
    SUFFIXES,
    BadRowError,
    Record,
    first_of,
    image_cell,
    image_of,
    label_of,
    read_table,
    text_of,
)

__all__ = ["BENCHMARKS", "CATEGORIES", "LEVELS", "BenchRow", "Loaded", "load_rows"]

LEVELS = ("L1", "L2", "L3", "L4", "L5")
CATEGORIES = (
    "hate",
    "harassment",
    "violence",
    "self-harm",
    "sexual",
    "shocking",
    "illegal-activity",
    "deception",
    "political",
    "health",
    "spam",
)
"""UnsafeBench's, by the ids of ``unsafebench/default``."""
SOURCES = {"laion5b": "real", "lexica": "generated"}
"""UnsafeBench's sources: LAION-5B's images are real, Lexica's are generated."""
_TABLES = (*SUFFIXES, ".json")
_SPLITS = ("train", "validation", "test")
_SAFE_UNSAFE = {"safe": False, "unsafe": True, "0": False, "1": True}
_CATEGORIES = {"adult": "sexual", "self harm": "self-harm", "illegal": "illegal-activity"}
_EXTREME = ("highly", "generally")
_HEADING = re.compile(r"^[^\w\n]*(O\s?([1-9])\s*:.*?)[ \t:.]*$", re.IGNORECASE | re.MULTILINE)
_CATEGORY = re.compile(r"\s*(?:O\s?([1-9])\b|(NA\b|10\b|none applying))", re.IGNORECASE)
_DECLARED = re.compile(r"\bdeclared as (non-violating|sensitive)", re.IGNORECASE)
_ITEM = re.compile(r"^\s*[-•*]\s*(.+?)\s*$")
_LIST = re.compile(r"^\W*(should not|can)\W*$", re.IGNORECASE)

Policies = Callable[[str], ResolvedPolicy]


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One row: an image, the policy it is judged by, and the label it has under that policy.

    ``place``: the file and the row. ``name``: what the row calls itself. ``group``: the level, or the
    category. ``source``: ``real`` or ``generated``. ``extreme``: whether its severity is the highest or the
    lowest; ``None`` where the row says none.
    """

    place: str
    name: str
    image: Path | bytes
    unsafe: bool
    policy: ResolvedPolicy
    group: str
    source: str = ""
    extreme: bool | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """``columns``: of each group of names, one must be there. ``published``: how many rows are tested on."""

    title: str
    maker: str
    columns: tuple[tuple[str, ...], ...]
    published: int
    read: Callable[[Record, Path, str | None, Policies], BenchRow]


@dataclass(slots=True)
class Loaded:
    """``total``: the rows of the split, before ``limit``. ``notes``: what a reader of figures should know."""

    rows: list[BenchRow] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    total: int = 0
    notes: list[str] = field(default_factory=list)


def load_rows(
    benchmark: str,
    folder: Path,
    *,
    split: str = "test",
    images: Path | None = None,
    policy: str | None = None,
    own_category: bool = False,
    only: Sequence[str] = (),
    limit: int | None = None,
) -> Loaded:
    """The rows of one split of ``benchmark`` in ``folder``, in their order.

    ``split``: or ``all``. ``images``: what image paths are relative to; default: ``folder``. ``policy``: a
    policy to judge by, instead of the rows' own; ``{level}`` in its name stands for the row's level.
    ``own_category``: by the rule of the row's category alone. ``only``: rows of these levels or categories.
    ``limit``: so many rows, spread evenly.

    Raises ConfigurationError for what is wrong as a whole: no such split, other columns, no row that can be
    used. What is wrong with one row is one of ``problems``.
    """
    made = BENCHMARKS[benchmark]
    result = Loaded(files=_tables(folder, split))
    where = images or (folder if folder.is_dir() else folder.parent)
    shelf: dict[str, ResolvedPolicy] = {}

    def policies(name: str) -> ResolvedPolicy:
        if name not in shelf:
            shelf[name] = load_policy(name).resolve()
        return shelf[name]

    kept: dict[bytes, bytes] = {}  # one copy of an image that comes under several policies
    for record in (record for table in result.files for record in _records(made, table)):
        result.total += 1
        if isinstance(record, Problem):
            result.problems.append(record)
            continue
        try:
            row = made.read(record, where, policy, policies)
        except BadRowError as error:
            result.problems.append(Problem(error.message, str(record.file), record.line, field=error.field))
            continue
        except PolicyError as error:
            if policy is not None:
                raise
            what = error.problems[0].message if error.problems else error.message
            result.problems.append(Problem(what, str(record.file), record.line, field="policy"))
            continue
        if isinstance(row.image, bytes):
            row = replace(row, image=kept.setdefault(hashlib.sha256(row.image).digest(), row.image))
        result.rows.append(row)
    if not result.rows:
        why = "\n".join(map(str, result.problems[:20])) or f"{folder} holds none"
        raise ConfigurationError(
            f"no row can be used:\n{why}",
            hint=f"is it {made.title} as {made.maker} publishes it? --images names the folder of its images",
        )
    if split == "test" and result.total != made.published:
        result.notes.append(
            f"the test split that the papers' figures are of has {made.published:,} rows, and this one "
            f"{result.total:,}: it is of another version"
        )
    if policy is not None:
        result.notes.append(f"judged by {policy}: published figures are of the benchmark's own policies")
    if only:
        _keep(result, only)
    if limit is not None and limit < len(result.rows):
        result.notes.append(f"these are {limit:,} of {len(result.rows):,} rows, spread evenly")
        result.rows = [result.rows[number * len(result.rows) // limit] for number in range(limit)]
    if own_category:
        result.rows = [
            replace(row, policy=replace(row.policy, rules=(row.policy.rule(row.group),)))
            for row in result.rows
        ]
    return result


def _keep(loaded: Loaded, only: Sequence[str]) -> None:
    """The rows of some levels or categories."""
    there = {row.group.lower(): row.group for row in loaded.rows}
    wanted = [name.strip().lower().replace(" ", "-") for name in only]
    if strange := [name for name in wanted if name not in there]:
        raise ConfigurationError(
            f"no row is of the level or category '{strange[0]}'",
            hint=f"rows are of {', '.join(there.values())}",
        )
    loaded.rows = [row for row in loaded.rows if row.group.lower() in wanted]
    loaded.notes.append(f"only rows of {', '.join(there[name] for name in dict.fromkeys(wanted))}")


def _tables(folder: Path, split: str) -> list[Path]:
    """The tables of a split: files called like it, or in a folder called like it."""
    if folder.is_file():
        if folder.suffix.lower() not in _TABLES:
            raise ConfigurationError(f"'{folder}' is not a table", hint=f"one of {', '.join(_TABLES)}")
        return [folder]
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder '{folder}'", hint="name the folder of the data set")
    sides: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path.suffix.lower() not in _TABLES or any(part.startswith(".") for part in inner.parts):
            continue
        stem = path.stem.lower()
        for side in _SPLITS:
            named = stem == side or stem.startswith((f"{side}-", f"{side}_"))
            if named or (side in inner.parts[:-1] and path.suffix.lower() in SUFFIXES):
                sides.setdefault(side, []).append(path)
                break
    if split == "all" and sides:
        return [path for side in _SPLITS for path in sides.get(side, [])]
    if split in sides:
        return sides[split]
    found = f"it has {', '.join(sides)}" if sides else "it has no table called train, validation or test"
    raise ConfigurationError(
        f"'{folder}' has no table of the split '{split}': {found}",
        hint="such as data/test-00000-of-00001.parquet; --split names another, or name one file",
    )


def _records(made: Benchmark, table: Path) -> Iterator[Record | Problem]:
    for number, record in enumerate(read_table(table)):
        if number == 0 and isinstance(record, Record):
            lacking = [names for names in made.columns if not any(name in record.fields for name in names)]
            if lacking:
                there = ", ".join(record.fields)[:300]
                raise ConfigurationError(
                    f"{table} has no column {' or '.join(lacking[0])}: it has {there}",
                    hint=f"is it {made.title} as {made.maker} publishes it? See docs/benchmarks.md",
                )
        yield record


def _unsafe(record: Record, *names: str) -> bool:
    name, value = first_of(record, *names)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return label_of(name, value, _SAFE_UNSAFE)


def _place(record: Record) -> str:
    return f"{record.file}:{record.line}"


def _name(record: Record) -> str:
    cell = record.fields.get("image")
    inside = cell.get("path") if isinstance(cell, dict) else cell if isinstance(cell, str) else None
    for value in (record.fields.get("id"), text_of(record, "image_path", "file_name", "image_fname"), inside):
        if value not in (None, ""):
            return str(value)[:200]
    return _place(record)


def _image(record: Record, folder: Path) -> Path | bytes:
    return image_of(image_cell(record, folder), folder, field="image")


def _text_policy(name: str, title: str, text: str) -> ResolvedPolicy:
    """A text as a policy of one rule, so that a guard is asked about the text and about nothing else."""
    rule = Rule(id="policy", title=title, description=text)
    return Policy(id=name, version="1.0.0", title=title, rules=(rule,)).resolve()


def _safeedit(record: Record, folder: Path, policy: str | None, policies: Policies) -> BenchRow:
    level = (text_of(record, "policy_level", "policy_name") or "").removeprefix("Policy ").upper()
    if level not in LEVELS:
        raise BadRowError("policy_name", not_one_of(level or None, LEVELS))
    text = text_of(record, "policy")
    if policy is not None or text is None:
        resolved = policies((policy or "safeedit/{level}").replace("{level}", level.lower()))
    else:
        resolved = _text_policy(f"safeeditbench/{level.lower()}", f"Policy {level}", text)
    unsafe = _unsafe(record, "safety_label")
    return BenchRow(_place(record), _name(record), _image(record, folder), unsafe, resolved, level)


def _unsafebench(record: Record, folder: Path, policy: str | None, policies: Policies) -> BenchRow:
    default = policies("unsafebench/default")
    stated = " ".join((text_of(record, "category") or "").lower().split())
    known = {name: rule.id for rule in default.rules for name in (rule.id, rule.title.lower())}
    category = known.get(stated) or _CATEGORIES.get(stated)
    if category is None:
        raise BadRowError("category", not_one_of(stated or None, [rule.title for rule in default.rules]))
    source = SOURCES.get((text_of(record, "source") or "").lower())
    if source is None:
        raise BadRowError("source", not_one_of(text_of(record, "source"), ["Laion5B", "Lexica"]))
    resolved = default if policy is None else policies(policy)
    unsafe = _unsafe(record, "safety_label", "label")
    return BenchRow(_place(record), _name(record), _image(record, folder), unsafe, resolved, category, source)


def _llavaguard(record: Record, folder: Path, policy: str | None, policies: Policies) -> BenchRow:
    prompt, answer = _conversation(record)
    stated = text_of(record, "rating", "decision", "final-assessment", "safety_label") or _said(
        answer, "rating", "decision", "final-assessment"
    )
    severity = text_of(record, "severity", "score")
    if stated is None and severity is None:
        raise BadRowError("rating", "this field is missing or empty; expected Safe or Unsafe")
    label = label_of("rating" if stated else "severity", stated or severity, RATINGS)
    if severity is not None and label_of("severity", severity, RATINGS) != label and not _exception(record):
        raise BadRowError("severity", f"{severity!r} contradicts the rating {stated!r}")
    category = text_of(record, "category", "image-category", "policy-category") or _said(
        answer, "category", "image-category", "policy-category"
    )
    match = _CATEGORY.match(category or "NA")
    if match is None:
        raise BadRowError("category", f"expected O1 to O9 or NA, found {category!r}")
    text = text_of(record, "policy") or prompt
    if policy is not None or text is None:
        resolved = _declared(policies(policy or "llavaguard/default"), text)
    else:
        resolved = _llavaguard_policy(text)
    if all(rule.status is Status.EXEMPT for rule in resolved.rules):
        raise BadRowError("policy", "declares every category non-violating: there is nothing to ask")
    return BenchRow(
        _place(record),
        str(record.fields.get("id") or _name(record)),
        _image(record, folder),
        label == "unsafe",
        resolved,
        f"O{match[1]}" if match[1] else "NA",
        extreme=None if severity is None else severity.lower().startswith(_EXTREME),
    )


def _exception(record: Record) -> bool:
    """Whether the policy turns the label round, while the severity stays that of the default policy."""
    return re.search(r"_v[24]", str(record.fields.get("id"))) is not None


def _conversation(record: Record) -> tuple[str | None, dict[str, Any]]:
    """Policy and answer of a row in the format that LLaVA's trainers read."""
    turns = record.fields.get("conversations")
    if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns[:2]):
        return None, {}
    texts = [turn.get("value") for turn in turns[:2]]
    try:
        answer = parse_object(texts[1]) if isinstance(texts[1], str) else {}
    except JsonError:
        raise BadRowError("conversations", "the answer is not a JSON object") from None
    return texts[0] if isinstance(texts[0], str) else None, answer


def _said(answer: dict[str, Any], *names: str) -> str | None:
    return next((value for name in names if isinstance(value := answer.get(name), str)), None)


def _bodies(text: str) -> Iterator[tuple[str, str, str]]:
    """Number, title and body of each category that a policy text of LlavaGuard's shape speaks of."""
    headings = list(_HEADING.finditer(text))
    for heading, following in zip_longest(headings, headings[1:]):
        end = len(text) if following is None else following.start()
        yield heading[2], " ".join(heading[1].split()), text[heading.end() : end]


def _llavaguard_policy(text: str) -> ResolvedPolicy:
    """The row's own words as rules: what each category should not and can show, or what it is declared as."""
    rules: dict[str, Rule] = {}
    for number, title, body in _bodies(text):
        declared = _DECLARED.search(body)
        items: dict[str, list[str]] = {"should not": [], "can": []}
        current = "should not" if declared else None
        for line in body.strip().splitlines():
            if heading := _LIST.match(line):
                current = heading[1].lower()
            elif (item := _ITEM.match(line)) and current:
                items[current].append(item[1])
            elif items["should not"] and line.strip():
                break  # what follows the last category is no part of it
        status = Status.ACTIVE
        if declared:
            status = Status.SENSITIVE if declared[1].lower() == "sensitive" else Status.EXEMPT
        if f"o{number}" in rules:
            raise BadRowError("policy", f"speaks of O{number} twice")
        described = "" if items["should not"] or not declared else body.strip().splitlines()[0]
        rules[f"o{number}"] = Rule(
            id=f"o{number}",
            title=title,
            description=described,
            unsafe=tuple(items["should not"]),
            safe=tuple(items["can"]),
            status=status,
        )
    if not rules:
        raise BadRowError("policy", "speaks of none of the categories O1 to O9")
    own = Policy(
        id="llavaguardbench/own",
        version="1.0.0",
        title="The policy of the row",
        rules=tuple(rules.values()),
    )
    return own.resolve()


def _declared(policy: ResolvedPolicy, text: str | None) -> ResolvedPolicy:
    """``policy`` with what ``text`` declares of its categories O1 to O9, and without those it leaves out."""
    numbers = {match[1]: rule for rule in policy.rules if (match := _CATEGORY.match(rule.title)) and match[1]}
    if text is None or not numbers:
        return policy
    statuses: dict[str, Status] = {}
    for number, _, body in _bodies(text):
        declared = _DECLARED.search(body)
        status = Status.ACTIVE if declared is None else Status.EXEMPT
        sensitive = declared is not None and declared[1].lower() == "sensitive"
        if number in numbers:
            statuses[numbers[number].id] = Status.SENSITIVE if sensitive else status
    if not statuses:
        raise BadRowError("policy", "speaks of none of the categories O1 to O9")
    rules = [
        rule.model_copy(update={"status": statuses[rule.id]}) if rule.id in statuses else rule
        for rule in policy.rules
        if rule.id in statuses or rule not in numbers.values()
    ]
    return replace(policy, rules=tuple(rules))


BENCHMARKS: dict[str, Benchmark] = {
    "safeedit": Benchmark(
        "SafeEditBench",
        "tyodd/SafeEditBench",
        (("image", "image_path", "file_name"), ("safety_label",), ("policy_name", "policy_level")),
        601,
        _safeedit,
    ),
    "unsafebench": Benchmark(
        "UnsafeBench",
        "yiting/UnsafeBench",
        (
            ("image", "image_path", "file_name", "image_fname"),
            ("safety_label", "label"),
            ("category",),
            ("source",),
        ),
        2037,
        _unsafebench,
    ),
    "llavaguard": Benchmark(
        "LlavaGuardBench",
        "AIML-TUDA/LlavaGuard",
        (
            ("image", "image_path", "file_name", "id", "url"),
            ("rating", "decision", "final-assessment", "safety_label", "conversations"),
        ),
        599,
        _llavaguard,
    ),
}
