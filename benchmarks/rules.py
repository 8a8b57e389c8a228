"""One image under 20 rules asked one by one, against 20 single checks on kept prefixes; a new image each.

Goal: at most 1.15. The image is prepared and looked at once for all rules, so it is usually below 1.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter

from models import ITEM, build_100m
from PIL import Image

from policyguard.assessment import Assessment
from policyguard.backends import AssessmentRequest, TransformersBackend
from policyguard.dialects import get_dialect
from policyguard.policy import ResolvedPolicy, parse_policy

RULES, RUNS = 20, 3


def policy(*numbers: int) -> ResolvedPolicy:
    rules = [
        {"id": f"rule-{number}", "title": f"Rule {number}", "unsafe": [ITEM, f"number {number}"]}
        for number in numbers
    ]
    return parse_policy(
        {"id": "benchmark", "version": "1.0.0", "title": "Benchmark", "rules": rules}
    ).resolve()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(build_100m(Path(folder)))
        together, alone = policy(*range(RULES)), [policy(number) for number in range(RULES)]
        spoken = get_dialect("safeguard+per-rule")
        with TransformersBackend(path, device="cpu", dialect=spoken) as guard:
            all_rules: list[float] = []
            one_by_one: list[float] = []
            for run in range(RUNS + 1):
                frame = Image.effect_noise((224, 224), 90 + run).convert("RGB")
                for policies, times in (([together], all_rules), (alone, one_by_one)):
                    started = perf_counter()
                    for under in policies:
                        (found,) = guard.assess([AssessmentRequest(frame, under)])
                        assert isinstance(found, Assessment), found
                    if run:  # the first loads the weights and fills the prefixes
                        times.append(perf_counter() - started)
        ratios = sorted(one / other for one, other in zip(all_rules, one_by_one, strict=True))
        print(f"{RULES} rules in one check {min(all_rules):.2f} s, in {RULES} checks {min(one_by_one):.2f} s")
        print(f"ratio {min(all_rules) / min(one_by_one):.2f} fastest, {ratios[len(ratios) // 2]:.2f} median")


if __name__ == "__main__":
    main()
