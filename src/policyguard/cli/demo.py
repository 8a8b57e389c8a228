"""``policyguard demo``: images of the toy world under five policies, judged by pico.

It shows what the project is about: the answer depends on the policy, and on what the image shows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import combinations, permutations
from time import perf_counter
from typing import TYPE_CHECKING

from policyguard.cli.errors import command
from policyguard.cli.progress import progress_bar, waiting
from policyguard.cli.quickstart import entering
from policyguard.outcomes import Action, Outcome
from policyguard.runs.exits import ExitCode

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from policyguard.guard import Guard
    from policyguard.pictosafe import Scene
    from policyguard.pictosafe.render import Style
    from policyguard.verdict import Verdict

__all__ = ["demo", "draw", "report"]

POLICIES = tuple(f"pictosafe/l{level}" for level in range(1, 6))
PICO = (
    "pico is a toy: it judges pictogram scenes under PictoSafe policies and nothing else. "
    "For photographs, `policyguard quickstart` prints commands that work on this machine."
)
SLOTS = ((8, 8), (56, 8), (8, 56), (56, 56))

SCENES: dict[str, tuple[Style, int, str]] = {
    "armoury": ("noto", 6, "dagger horse axe"),
    "museum": ("noto", 6, "dagger* horse axe*"),
    "pair-dagger": ("fluent", 129, "guitar dagger cactus"),
    "pair-camera": ("fluent", 129, "guitar camera cactus"),
    "bar": ("twemoji", 40, "cocktail pizza saxophone beer"),
    "rally": ("noto", 77, "placard megaphone tree"),
    "beach": ("twemoji", 52, "bikini sun palm"),
    "picnic": ("fluent", 20, "dog apple sunflower cake"),
}
"""Name: drawing style, background, pictograms; a * hangs one in a museum frame."""

Results = Mapping[str, Mapping[str, "Verdict"]]


def draw() -> dict[str, Image.Image]:
    """The images by name: scenes at four times their native size, and one that is no scene."""
    from policyguard.pictosafe import Renderer

    images = {
        name: Renderer(style).draw(scene(background, words), scale=4)
        for name, (style, background, words) in SCENES.items()
    }
    return dict(sorted((images | {"chart": chart()}).items()))


def scene(background: int, words: str) -> Scene:
    """The pictograms of ``words`` in the four quarters, each a little turned."""
    from policyguard.pictosafe import Placement, Scene

    placements = tuple(
        Placement(word.rstrip("*"), x, y, 32, place * 3 % 8, "framed" if word.endswith("*") else None, 1)
        for place, (word, (x, y)) in enumerate(zip(words.split(), SLOTS, strict=False))
    )
    return Scene(placements, background, shift=0, gain=1.0)


def chart() -> Image.Image:
    """A bar chart: a perfectly harmless picture that pico knows nothing about."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (384, 384), "white")
    draw = ImageDraw.Draw(picture)
    draw.line((48, 30, 48, 340, 356, 340), fill="black", width=3)
    for number, height in enumerate((120, 190, 90, 250, 210)):
        left = 68 + 58 * number
        draw.rectangle((left, 338 - height, left + 38, 338), fill=(70, 110 + 25 * number, 180))
        draw.text((left + 12, 346), f"Q{number + 1}", fill="black")
    draw.text((130, 8), "Orders per quarter", fill="black")
    return picture


def judge(guard: Guard, images: Mapping[str, Image.Image]) -> Results:
    """Every image under every policy; the model is loaded once."""
    results: dict[str, dict[str, Verdict]] = {name: {} for name in images}
    with progress_bar(sys.stderr) as move:
        for row, policy in enumerate(POLICIES):
            verdicts = guard.with_policy(policy).check_many(images.values())
            for done, (name, verdict) in enumerate(zip(images, verdicts, strict=True), row * len(images) + 1):
                results[name][policy] = verdict
                move(done, len(images) * len(POLICIES), policy)
    return results


def table(results: Results) -> Table:
    """Images down, policies across."""
    from rich import box
    from rich.table import Table

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
        grid.add_row(image, *(cell(verdicts[policy]) for policy in POLICIES))
    return grid


def cell(verdict: Verdict) -> Text:
    """The action and the score; for an image that could not be judged, what came out instead."""
    from rich.text import Text

    from policyguard.cli.output import ACTION_STYLES

    if verdict.outcome not in (Outcome.COMPLIES, Outcome.VIOLATES):
        return Text(verdict.outcome.upper(), style="magenta")
    score = "" if verdict.score is None else f" {verdict.score:.2f}"
    return Text(f"{verdict.action.upper():<5}{score}", style=ACTION_STYLES[verdict.action])


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
        f"The same image, two answers: {image} is allowed under {lenient} and blocked under {strict} "
        f"({rules(results[image][strict])})."
    )


def two_images_one_difference(results: Results, images: Mapping[str, Image.Image]) -> str:
    """The two most similar images of which a policy blocks only one."""
    for share, first, second in alike(images):
        for policy in POLICIES:
            for bad, good in ((first, second), (second, first)):
                if fails(results[bad][policy]) and passes(results[good][policy]):
                    return (
                        f"Two images, one difference: {bad} and {good} differ in {share:.0%} of "
                        f"their pixels, and {policy} blocks only {bad} ({rules(results[bad][policy])})."
                    )
    return "No policy tells two similar images apart: pico got something wrong."


def alike(images: Mapping[str, Image.Image]) -> Iterator[tuple[float, str, str]]:
    """Pairs of images, the most similar first, with the share of pixels in which they differ."""
    from PIL import ImageChops

    pairs = []
    for first, second in combinations(images, 2):
        one, other = images[first], images[second]
        if one.size == other.size:
            equal = ImageChops.difference(one, other).convert("L").histogram()[0]
            pairs.append((1 - equal / (one.width * one.height), first, second))
    yield from sorted(pairs)


def outside(results: Results) -> str:
    """The images that pico says nothing about."""
    strange = [
        image
        for image, verdicts in results.items()
        if all(verdict.outcome is Outcome.UNDECIDED for verdict in verdicts.values())
    ]
    if not strange:
        return "No image was UNDECIDED throughout."
    return (
        f"Outside its world: on {', '.join(strange)} pico answers UNDECIDED, and what is undecided is "
        "blocked unless a policy says otherwise."
    )


def titles() -> str:
    """What each column stands for."""
    from policyguard.policy import load_policy

    return "; ".join(f"{name.removeprefix('pictosafe/')} {load_policy(name).title}" for name in POLICIES)


def score(verdict: Verdict) -> float:
    return verdict.score or 0.0


def rules(verdict: Verdict) -> str:
    return ", ".join(finding.title for finding in verdict.findings if finding.violates) or "no rule named"


def report(guard: Guard, console: Console) -> Results:
    """Judge, print the table, and say what to see in it."""
    from rich.text import Text

    images = draw()
    started = perf_counter()
    results = judge(guard, images)
    seconds = perf_counter() - started
    count = sum(len(verdicts) for verdicts in results.values())
    console.print(table(results))
    console.print(f"{count} verdicts in {seconds:.1f} s. The number is P(unsafe | image, policy).")
    console.print(Text(f"The policies: {titles()}.\n"))
    for sentence in (
        one_image_two_answers(results),
        two_images_one_difference(results, images),
        outside(results),
    ):
        console.print(Text(f"- {sentence}"))
    console.print(f"\n{PICO}")
    if enter := entering():
        console.print(Text(f"Before it, enter the environment that has it: {enter}"), soft_wrap=True)
    return results


@command
def demo() -> ExitCode:
    """Judge drawn images under five policies with the packaged toy model.

    It needs no GPU and downloads nothing. One policy allows what another one blocks.
    """
    with waiting("loading the packaged model", sys.stderr):
        from rich.console import Console

        from policyguard.backends import build_backend
        from policyguard.guard import Guard

        # built here, so that it is pico whatever POLICYGUARD_BASE_URL says
        guard = Guard(POLICIES[0], backend=build_backend("pico")).warm()
    with guard:
        report(guard, Console(highlight=False))
    return ExitCode.OK
