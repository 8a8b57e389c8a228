"""What GRPO asks: image and policy such that the label cannot be told without reading the one and seeing
the other.

Prompts come in *halves* of two: one policy text, one unsafe and one safe image. So whatever looks at the
text alone is right half of the time, exactly, in every half and every batch of whole halves. A *unit* is
one or two halves:

- ``pair``: the two images of an edit pair, side by side.
- ``swap``: images a and b that break different rules; under one policy b's rules are taken away, under the
  other a's. Both images have both labels, so the image alone says nothing either. Only rows that list all
  the rules they break are swapped: the others might break one that stays.
- ``across``: one image that is unsafe under one given policy and safe under another, each time beside an
  image with the other label.
- ``plain``: an unsafe and a safe image of one given policy.
- ``lone``: only where asked for: an unsafe and a safe image of two policies that have one label each. Then
  the text does tell the label, unless there are so many policies that it cannot be learnt.

Then the policy of each half is varied (``variants``), the same for both images. Rows that find no partner are
dropped and counted: a policy under which all rows have one label teaches that label and nothing else.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from policyguard.errors import PolicyGuardError
from policyguard.policy import ResolvedPolicy, Status
from policyguard.train.assess_data import with_exemptions
from policyguard.train.data import LabelRow
from policyguard.train.recipe import Variants
from policyguard.train.rows import Located
from policyguard.train.variants import rename, reorder, reword, without

__all__ = ["Half", "Prompt", "Units", "build_units"]

_EXEMPT_UP_TO = 3
_Item = Located[LabelRow]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question with its answer. ``categories``: the rules that are broken, where known."""

    path: Path
    policy: ResolvedPolicy
    label: str
    categories: tuple[str, ...]

    @property
    def policy_key(self) -> str:
        """The same for policies that a model sees, and ``decide`` applies, alike."""
        return f"{self.policy.fingerprint[:32]}-{self.policy.decision_fingerprint[:16]}"


@dataclass(frozen=True, slots=True)
class Half:
    """Two prompts under one policy text, the unsafe one first. ``unit``: halves of one unit stay adjacent.

    Lone halves have two texts, and two prompts of one label where the rows have no other.
    """

    first: Prompt
    second: Prompt
    kind: str
    unit: int

    @property
    def prompts(self) -> tuple[Prompt, Prompt]:
        return self.first, self.second


@dataclass(frozen=True, slots=True)
class Units:
    """``dropped``: rows in no unit."""

    halves: tuple[Half, ...]
    dropped: int

    def __len__(self) -> int:
        return len(self.halves)

    @property
    def prompts(self) -> list[Prompt]:
        return [prompt for half in self.halves for prompt in half.prompts]

    @property
    def digest(self) -> str:
        """SHA-256 of all prompts, in order."""
        lines = [f"{one.path.name} {one.policy_key} {one.label} {one.categories}" for one in self.prompts]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def build_units(
    items: Sequence[_Item],
    settings: Variants,
    *,
    wordings: Mapping[str, Sequence[str]],
    fits: Callable[[ResolvedPolicy], bool],
    seed: int,
) -> Units:
    """All units, shuffled.

    ``fits`` says whether the dialect can put a policy; a variant that it cannot is not used.
    """
    return _Builder(items, settings, wordings, fits, seed).units()


class _Builder:
    def __init__(
        self,
        items: Sequence[_Item],
        settings: Variants,
        wordings: Mapping[str, Sequence[str]],
        fits: Callable[[ResolvedPolicy], bool],
        seed: int,
    ) -> None:
        self._items = list(items)
        self._settings = settings
        self._wordings = wordings
        self._fits = fits
        self._random = random.Random(f"grpo/{seed}")
        self._units: list[list[Half]] = []
        self._used: set[int] = set()

    def units(self) -> Units:
        self._random.shuffle(self._items)
        self._pairs()
        self._across()
        self._swaps()
        self._plain()
        if self._settings.lone == "keep":
            self._lone()
        self._random.shuffle(self._units)
        kept: list[Half] = []
        for number, unit in enumerate(self._units[: self._settings.units]):
            kept += [Half(half.first, half.second, half.kind, number) for half in unit]
        return Units(tuple(kept), sum(id(item) not in self._used for item in self._items))

    def _left(self, label: str) -> list[_Item]:
        return [item for item in self._items if id(item) not in self._used and item.row.label == label]

    def _pairs(self) -> None:
        pairs: dict[tuple[str, str], list[_Item]] = defaultdict(list)
        for item in self._items:
            if item.row.pair_id is not None:
                pairs[item.row.pair_id, _policy(item).fingerprint].append(item)
        for twins in pairs.values():
            by_label = {item.row.label: item for item in twins}
            if len(by_label) == 2:
                self._add("pair", [(by_label["unsafe"], by_label["safe"], _policy(twins[0]))])

    def _across(self) -> None:
        by_image: dict[str, dict[str, _Item]] = defaultdict(dict)
        pools: dict[tuple[str, str], list[_Item]] = defaultdict(list)
        for item in [*self._left("unsafe"), *self._left("safe")]:
            by_image[item.row.sha256].setdefault(item.row.label, item)
            pools[_policy(item).fingerprint, item.row.label].append(item)
        for sides in by_image.values():
            if len(sides) < 2:
                continue
            unsafe, safe = sides["unsafe"], sides["safe"]
            first = self._partner(pools[_policy(unsafe).fingerprint, "safe"], unsafe)
            second = self._partner(pools[_policy(safe).fingerprint, "unsafe"], safe)
            if first is not None and second is not None and not self._is_used(unsafe, safe):
                halves = [(unsafe, first, _policy(unsafe)), (second, safe, _policy(safe))]
                self._add("across", halves)

    def _swaps(self) -> None:
        by_policy: dict[str, list[_Item]] = defaultdict(list)
        for item in self._left("unsafe"):
            draws_swap = item.row.violated and self._random.random() < self._settings.swap
            if draws_swap and item.row.knows_all:  # else it may be unsafe without the rules it names
                by_policy[_policy(item).fingerprint].append(item)
        for items in by_policy.values():
            while items:
                first = items.pop()
                broken = set(first.row.violated or ())
                second = next((item for item in items if broken.isdisjoint(item.row.violated or ())), None)
                if second is None:
                    continue
                one = self._lift(_policy(first), second.row.violated or ())
                other = self._lift(_policy(first), first.row.violated or ())
                if one is not None and other is not None:
                    items.remove(second)
                    self._add("swap", [(first, second, one), (second, first, other)])

    def _plain(self) -> None:
        """What is left, the rarer label repeated, so that no row is lost while both labels are there."""
        sides: dict[str, dict[str, list[_Item]]] = defaultdict(lambda: {"unsafe": [], "safe": []})
        for item in self._items:
            sides[_policy(item).fingerprint][item.row.label].append(item)
        for side in sides.values():
            fresh = {
                label: [item for item in items if id(item) not in self._used] for label, items in side.items()
            }
            if not side["unsafe"] or not side["safe"]:
                continue
            for number in range(max(map(len, fresh.values()))):
                unsafe, safe = (
                    fresh[label][number] if number < len(fresh[label]) else self._random.choice(side[label])
                    for label in ("unsafe", "safe")
                )
                self._add("plain", [(unsafe, safe, _policy(unsafe))])

    def _lone(self) -> None:
        """What is left, one of each label at a time; if all rows have one label, two of it at a time."""
        unsafe, safe = self._left("unsafe"), self._left("safe")
        if {item.row.label for item in self._items} != {"unsafe", "safe"}:
            alike = unsafe or safe
            unsafe, safe = alike[::2], alike[1::2]
        for pair in zip(unsafe, safe, strict=False):
            first, second = (
                self._prompt(item, self._vary(_policy(item), item.row.violated)) for item in pair
            )
            self._units.append([Half(first, second, "lone", len(self._units))])
            self._used.update(map(id, pair))

    def _prompt(self, item: _Item, policy: ResolvedPolicy) -> Prompt:
        return Prompt(item.path, policy, item.row.label, tuple(item.row.violated or ()))

    def _add(self, kind: str, halves: Sequence[tuple[_Item, _Item, ResolvedPolicy]]) -> None:
        unit = []
        for unsafe, safe, policy in halves:
            violated = unsafe.row.violated
            varied = self._vary(policy, violated)
            categories = tuple(violated or ())
            unit.append(
                Half(
                    Prompt(unsafe.path, varied, "unsafe", categories),
                    Prompt(safe.path, varied, "safe", ()),
                    kind,
                    len(self._units),
                )
            )
            self._used.update((id(unsafe), id(safe)))
        self._units.append(unit)

    def _vary(self, policy: ResolvedPolicy, violated: Sequence[str] | None) -> ResolvedPolicy:
        """Another form of ``policy`` under which both images of a half keep their labels."""
        draw, settings = self._random, self._settings
        varied = policy
        if violated:  # where it is not known what is broken, no rule may be taken away
            others = [
                rule.id
                for rule in policy.rules
                if rule.id not in violated and rule.status is not Status.EXEMPT
            ]
            if others and draw.random() < settings.exempt:
                count = draw.randint(1, min(_EXEMPT_UP_TO, len(others)))
                chosen = draw.sample(others, count)
                varied = with_exemptions(varied, chosen)
                others = [rule for rule in others if rule not in chosen]
            if others and draw.random() < settings.subset:
                varied = without(varied, draw.sample(others, draw.randint(1, len(others))))
        if draw.random() < settings.rename and policy.world is None:
            varied = rename(varied, draw)
        if draw.random() < settings.reorder:
            varied = reorder(varied, draw)
        if draw.random() < settings.reword:
            varied = reword(varied, draw, self._wordings)
        return varied if self._fits(varied) else policy

    def _lift(self, policy: ResolvedPolicy, rules: Sequence[str]) -> ResolvedPolicy | None:
        """``policy`` without ``rules``: declared exempt, or taken out."""
        try:
            lifted = with_exemptions(policy, rules) if self._random.random() < 0.5 else without(policy, rules)
        except PolicyGuardError:  # no rule would be left
            return None
        return lifted if self._fits(lifted) else None

    def _partner(self, pool: list[_Item], item: _Item) -> _Item | None:
        return next(
            (other for other in pool if not self._is_used(other) and other.row.sha256 != item.row.sha256),
            None,
        )

    def _is_used(self, *items: _Item) -> bool:
        return any(id(item) in self._used for item in items)


def _policy(item: _Item) -> ResolvedPolicy:
    assert item.policy is not None
    return item.policy
