"""Judges examples/images under five policies with pico, the toy guard that ships with the package.

    python examples/demo.py          (or: make demo)

It shows what the project is about: the answer depends on the policy, and on what the picture shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, permutations
from pathlib import Path
from time import perf_counter

from PIL import ImageChops
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from policyguard import Action, Guard, Outcome, Verdict
from policyguard.images import decode

IMAGES = Path(__file__).parent / "images"
POLICIES = tuple(f"pictosafe/l{level}" for level in range(1, 6))
PICO = (
    "pico is a toy: it judges pictogram scenes under PictoSafe policies and nothing else. For photographs, "
    "name a real guard model; `policyguard models` lists some."
)
STYLES = {Action.ALLOW: "green", Action.FLAG: "yellow", Action.BLOCK: "bold red"}

Results = Mapping[Path, Mapping[str, Verdict]]


def judge(guard: Guard, images: Sequence[Path]) -> Results:
    """Every image under every policy; the model is loaded once."""
    results: dict[Path, dict[str, Verdict]] = {image: {} for image in images}
    for policy in POLICIES:
        for image, verdict in zip(images, guard.with_policy(policy).check_many(images), strict=True):
            results[image][policy] = verdict
    return results


def table(results: Results) -> Table:
    """Images down, policies across."""
    grid = Table(
        "image",
        title="policies pictosafe/l1 to pictosafe/l5",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for policy in POLICIES:
        grid.add_column(policy.removeprefix("pictosafe/"), no_wrap=True)
    for image, verdicts in results.items():
        grid.add_row(image.name, *(cell(verdicts[policy]) for policy in POLICIES))
    return grid


def cell(verdict: Verdict) -> Text:
    """The action and the score; for an image that could not be judged, what came out instead."""
    if verdict.outcome not in (Outcome.COMPLIES, Outcome.VIOLATES):
        return Text(verdict.outcome.upper(), style="magenta")
    score = "" if verdict.score is None else f" {verdict.score:.2f}"
    return Text(f"{verdict.action.upper():<5}{score}", style=STYLES[verdict.action])


def passes(verdict: Verdict) -> bool:
    """Whether it was judged fine, and not merely let through."""
    return verdict.outcome is Outcome.COMPLIES and verdict.action is Action.ALLOW


def fails(verdict: Verdict) -> bool:
    """Whether it was judged to break the policy, and is blocked for that."""
    return verdict.outcome is Outcome.VIOLATES and verdict.action is Action.BLOCK


def one_image_two_answers(results: Results) -> str:
    """The image that two policies disagree about most clearly.

    Better still if the lenient one of the two blocks some other image: then neither is merely the stricter.
    """
    demanding = {policy: any(fails(verdicts[policy]) for verdicts in results.values()) for policy in POLICIES}
    found = [
        (demanding[lenient], score(verdicts[strict]) - score(verdicts[lenient]), image, lenient, strict)
        for image, verdicts in results.items()
        for lenient, strict in permutations(POLICIES, 2)
        if passes(verdicts[lenient]) and fails(verdicts[strict])
    ]
    if not found:
        return "No image is allowed under one policy and blocked under another: pico got something wrong."
    _, _, image, lenient, strict = max(found)
    return (
        f"The same image, two answers: {image.name} is allowed under {lenient} and blocked under {strict} "
        f"({rules(results[image][strict])})."
    )


def two_images_one_difference(results: Results) -> str:
    """The two most similar images of which a policy blocks only one."""
    for share, first, second in alike(list(results)):
        for policy in POLICIES:
            for bad, good in ((first, second), (second, first)):
                if fails(results[bad][policy]) and passes(results[good][policy]):
                    return (
                        f"Two images, one difference: {bad.name} and {good.name} differ in {share:.0%} of "
                        f"their pixels, and {policy} blocks only {bad.name} ({rules(results[bad][policy])})."
                    )
    return "No policy tells two similar images apart: pico got something wrong."


def alike(images: Sequence[Path]) -> Iterator[tuple[float, Path, Path]]:
    """Pairs of images, the most similar first, with the share of pixels in which they differ."""
    pictures = {image: decode(image).frames[0] for image in images}
    pairs = []
    for first, second in combinations(images, 2):
        one, other = pictures[first], pictures[second]
        if one.size == other.size:
            equal = ImageChops.difference(one, other).convert("L").histogram()[0]
            pairs.append((1 - equal / (one.width * one.height), first, second))
    yield from sorted(pairs)


def outside(results: Results) -> str:
    """The images that pico says nothing about."""
    strange = [
        image.name
        for image, verdicts in results.items()
        if all(verdict.outcome is Outcome.UNDECIDED for verdict in verdicts.values())
    ]
    if not strange:
        return "No image was UNDECIDED throughout."
    return (
        f"Outside its world: on {', '.join(strange)} pico answers UNDECIDED, and what is undecided is "
        "blocked unless a policy says otherwise."
    )


def score(verdict: Verdict) -> float:
    return verdict.score or 0.0


def rules(verdict: Verdict) -> str:
    return ", ".join(finding.title for finding in verdict.findings if finding.violates) or "no rule named"


def report(guard: Guard, console: Console) -> Results:
    """Judge, print the table, and say what to see in it."""
    started = perf_counter()
    results = judge(guard, sorted(IMAGES.glob("*.png")))
    seconds = perf_counter() - started
    count = sum(len(verdicts) for verdicts in results.values())
    console.print(table(results))
    console.print(f"{count} verdicts in {seconds:.1f} s. The number is P(unsafe | image, policy).\n")
    for sentence in (one_image_two_answers(results), two_images_one_difference(results), outside(results)):
        console.print(Text(f"- {sentence}"))
    console.print(f"\n{PICO}")
    return results


def main() -> None:
    os.environ.pop("POLICYGUARD_BASE_URL", None)  # the demo is about pico, whatever guard you use otherwise
    with Guard(POLICIES[0], model="pico") as guard:
        report(guard, Console(highlight=False))


if __name__ == "__main__":
    main()
