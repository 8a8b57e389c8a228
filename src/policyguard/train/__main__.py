"""``python -m policyguard.train RECIPE``: one process of a run, for accelerate and torchrun.

The stage is the one that the recipe names. Ends with 2 for mistakes in the recipe.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial

from policyguard.errors import ConfigurationError, PolicyGuardError
from policyguard.train.command import dry_run, prepare, start
from policyguard.train.recipe import RecaptionRecipe

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m policyguard.train")
    parser.add_argument("recipe", help="a path that ends in .yaml, or the name of a packaged recipe")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--dry-run", action="store_true", help="check everything and estimate; train nothing")
    options = parser.parse_args(arguments)
    try:
        recipe = prepare(None, options.recipe, settings=options.settings)
        if isinstance(recipe, RecaptionRecipe):
            raise ConfigurationError(
                "this recipe is for stage 'recaption', which trains nothing",
                hint=f"run `policyguard train recaption {options.recipe}`",
            )
        if options.dry_run:
            lines = dry_run(recipe)
        else:
            lines = [f"the model is in {start(recipe, note=partial(print, file=sys.stderr))}"]
    except PolicyGuardError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if os.environ.get("RANK", "0") == "0":
        print("\n".join(lines))


if __name__ == "__main__":
    main()
