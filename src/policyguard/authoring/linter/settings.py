"""Doubtful settings: thresholds, missing examples, no owner, a world whose words the policy does not use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from policyguard.authoring.linter.remark import Level, Remark, Step
from policyguard.errors import PolicyError
from policyguard.outcomes import Action, Outcome
from policyguard.policy.files import locate
from policyguard.policy.load import read_document
from policyguard.policy.schema import Status
from policyguard.strict.documents import Document, Node, Place, parse
from policyguard.strict.explain import nearest

if TYPE_CHECKING:
    from policyguard.policy.policy import Policy

__all__ = [
    "Places",
    "examples",
    "people",
    "settings",
    "worlds",
]


class Places:
    """Finds places in the file of a policy, and in the files that it extends.

    Raises PolicyError if the file has gone, or changed into something unreadable, since the policy was read.
    """

    def __init__(self, policy: Policy, source: str | Path, text: str | None = None) -> None:
        self._policy = policy
        path = locate(source).path
        self._main = read_document(path) if text is None else parse(text.encode(), str(path))
        self._files: dict[str, Document | None] = {self._main.file: self._main}

    def swallowed(self) -> Iterator[Remark]:
        """Items that are no items: their line is too deep, and YAML adds it to the text above."""
        message = (
            "this line belongs to the text above it, which is all one: begin it in the column of the other "
            "items; if it is text, put the whole in quotes"
        )
        files = [self._main.file, *sorted({origin.file for origin in self._policy.origins.values()})]
        for file in dict.fromkeys(files):
            document = self._document(file)
            for place in document.swallowed if document else ():
                yield Remark(Level.WARNING, "swallowed-item", message, (), file, place.line, place.column)

    def find(self, remark: Remark) -> Remark:
        """``remark`` with file, line and column; of what is nearest, where the value itself has no place.

        What is about the prompt as a whole has a file only.
        """
        if not remark.path and remark.code in ("unreadable", "too-long"):
            return replace(remark, file=self._main.file)
        if self._composed:
            return self._from_origin(remark)
        place = self._main.root.locate(remark.path, key=_is_field(remark.path))
        return replace(remark, file=self._main.file, line=place.line, column=place.column)

    @property
    def _composed(self) -> bool:
        root = self._main.root.value
        return isinstance(root, dict) and "extends" in root

    def _from_origin(self, remark: Remark) -> Remark:
        # A rule's threshold comes from where it was set last; the nearest that has an origin says most.
        field = remark.field or ""
        while field and field not in self._policy.origins:
            field = field[: max(field.rfind("."), field.rfind("["))] if "." in field or "[" in field else ""
        if not field:
            place = self._main.root.place
            return replace(remark, file=self._main.file, line=place.line, column=place.column)
        origin = self._policy.origins[field]
        return replace(
            remark, file=origin.file, line=origin.line, column=self._column(origin.file, origin.line)
        )

    def _document(self, file: str) -> Document | None:
        if file not in self._files:
            try:
                self._files[file] = read_document(Path(file))
            except PolicyError:
                self._files[file] = None
        return self._files[file]

    def _column(self, file: str, line: int | None) -> int | None:
        document = self._document(file)
        if document is None or line is None:
            return None
        return min((place.column for place in _places(document.root) if place.line == line), default=None)


def _is_field(path: tuple[Step, ...]) -> bool:
    """Whether the key is the place to point at: of lists, the heading says more than the first item."""
    return path[-1:] in (("unsafe",), ("safe",))


def _places(node: Node) -> list[Place]:
    places, waiting = [], [node]
    while waiting:
        node = waiting.pop()
        places.append(node.place)
        if isinstance(node.value, dict):
            places.extend(node.keys.values())
            waiting.extend(node.value.values())
        elif isinstance(node.value, list):
            waiting.extend(node.value)
    return places


_KNOWN: Final = ("pictosafe",)


def worlds(policy: Policy) -> Iterator[Remark]:
    """A world that nobody knows, and whatever the models of PictoSafe do not read."""
    if policy.world == "pictosafe":
        yield from _pictosafe(policy)
    elif policy.world is not None:
        close = nearest(policy.world, _KNOWN)
        hint = f"did you mean {close}?" if close else f"known is {', '.join(_KNOWN)}"
        yield _remark("unknown-world", f"unknown world '{policy.world}': {hint}", "world")


def _pictosafe(policy: Policy) -> Iterator[Remark]:
    from policyguard.dialects.pico import MAX_ITEMS, MAX_RULES, count_items
    from policyguard.pictosafe.descriptions import unlisted
    from policyguard.pictosafe.language import parse_item

    if len(policy.rules) > MAX_RULES:
        message = f"rule {MAX_RULES + 1} of {len(policy.rules)}: pico reads at most {MAX_RULES} rules"
        yield _remark("too-many-rules", message, "rules", MAX_RULES)
    if (count := count_items(policy)) > MAX_ITEMS:
        message = f"the lists have {count} items in all: pico reads at most {MAX_ITEMS}"
        yield _remark("too-many-items", message, "rules")
    for index, rule in enumerate(policy.rules):
        if rule.status is not Status.EXEMPT and not rule.unsafe:
            message = "pico reads no descriptions: list under `unsafe:` what the rule forbids"
            yield _remark("only-described", message, "rules", index, "description")
        for name, items in (("unsafe", rule.unsafe), ("safe", rule.safe)):
            for place, item in enumerate(items):
                try:
                    parse_item(item)
                except ValueError as error:
                    yield _remark("unknown-word", str(error), "rules", index, name, place)
    for said in unlisted(policy):
        where: tuple[Step, ...] = () if said.rule is None else ("rules", said.rule)
        refused = "pico refuses it" if said.sure else "pico does not read it"
        yield _remark("only-described", f"{said.message}: {refused}", *where, said.field)


def _remark(code: str, message: str, *path: Step) -> Remark:
    return Remark(Level.WARNING, code, message, path)


SENSE: Final = (0.05, 0.95)
"""Thresholds outside these catch nearly everything, or nearly nothing."""
LONG_LIST: Final = 12
LONG_ITEM: Final = 200


def settings(policy: Policy) -> Iterator[Remark]:
    """Numbers and actions that hardly do what their author wants."""
    default = policy.defaults.threshold
    yield from _threshold(default, ("defaults", "threshold"))
    for index, rule in enumerate(policy.rules):
        if rule.threshold is not None:
            path = ("rules", index, "threshold")
            yield from _threshold(rule.threshold, path)
            if rule.threshold > default and rule.status is not Status.EXEMPT:
                message = (
                    f"{rule.threshold:g} is above the policy's own threshold {default:g}, from which the "
                    "image violates all the same, with the default action: raise `defaults: threshold:`, and "
                    "lower it again in the other rules"
                )
                yield Remark(Level.WARNING, "threshold", message, path)
        if rule.action is Action.ALLOW and rule.status is not Status.EXEMPT:
            message = "violations are found and allowed: `status: exempt` tells the model so"
            yield Remark(Level.INFO, "action", message, ("rules", index, "action"))
    yield from _band(policy)
    floor = policy.defaults.min_label_mass
    if floor < 0.05 or floor > 0.99:
        effect = "nearly any answer counts as a label" if floor < 0.5 else "nearly every image is undecided"
        message = f"with a floor of {floor:g}, {effect}"
        yield Remark(Level.WARNING, "label-floor", message, ("defaults", "min_label_mass"))
    for outcome, action in policy.outcomes.items():
        if action is Action.ALLOW:
            level = Level.INFO if outcome is Outcome.UNDECIDED else Level.WARNING
            message = "images pass that nobody has judged: `flag` lets them pass and shows them to somebody"
            yield Remark(level, "fails-open", message, ("outcomes", outcome.value))


def _threshold(value: float, path: tuple[str | int, ...]) -> Iterator[Remark]:
    low, high = SENSE
    if not low <= value <= high:
        effect = "nearly every image violates" if value < low else "hardly any image ever violates"
        message = f"with a threshold of {value:g}, {effect}: scores are probabilities, seldom so near an end"
        yield Remark(Level.WARNING, "threshold", message, path)


def _band(policy: Policy) -> Iterator[Remark]:
    band, threshold = policy.defaults.undecided_band, policy.defaults.threshold
    if band is None:
        return
    (low, high), path = band, ("defaults", "undecided_band")
    if high - low > 0.5:
        message = f"half of all scores and more are undecided ({low:g} to {high:g})"
        yield Remark(Level.WARNING, "undecided-band", message, path)
    if low > threshold + 0.05 or high < threshold - 0.05:
        message = f"{low:g} to {high:g} leaves out the threshold {threshold:g}, where doubt is greatest"
        yield Remark(Level.WARNING, "undecided-band", message, path)


def examples(policy: Policy) -> Iterator[Remark]:
    """Rules with an empty side, and rules too long to be followed."""
    for index, rule in enumerate(policy.rules):
        path = ("rules", index)
        if rule.status is not Status.EXEMPT and not rule.unsafe:
            message = f"rule '{rule.id}' gives no example under `unsafe:`"
            yield Remark(Level.WARNING, "no-unsafe-example", message, path)
        if rule.status is Status.ACTIVE and not rule.safe:
            message = f"rule '{rule.id}' gives no example under `safe:` of what looks alike and may pass"
            yield Remark(Level.INFO, "no-safe-example", message, path)
        for name in ("unsafe", "safe"):
            items: tuple[str, ...] = getattr(rule, name)
            if len(items) > LONG_LIST:
                message = f"{len(items)} items: a model follows three to six, so make two rules of it"
                yield Remark(Level.INFO, "long", message, (*path, name))
            for place, item in enumerate(items):
                if len(item) > LONG_ITEM:
                    message = f"{len(item)} characters: one line to an item is followed better"
                    yield Remark(Level.INFO, "long", message, (*path, name, place))


def people(policy: Policy) -> Iterator[Remark]:
    """What those who are given the policy will ask for."""
    for field, purpose in (("owner", "who answers for it"), ("licence", "what others may do with it")):
        if getattr(policy, field) is None:
            yield Remark(Level.WARNING, f"no-{field}", f"there is no `{field}:`, {purpose}")
