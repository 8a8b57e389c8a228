"""Broken and hostile policy files that build on others; see tests/policy/test_compose_hostile.py."""

from __future__ import annotations

__all__ = ["BASE", "CASES", "CHANGE", "HEAD"]

BASE = """\
id: base
version: 1.0.0
title: Base
description: What it is about.
parameters: {age: 18, place: here}
rules:
  - id: weapons
    title: Weapons
    description: Things made to hurt.
    unsafe: [a gun, toy guns]
    safe: [a museum piece]
    threshold: 0.4
    action: block
  - {id: gambling, title: Gambling, unsafe: ["dice {{ place }}"], safe: [chess], status: sensitive}
defaults: {threshold: 0.5, undecided_band: [0.3, 0.4]}
outcomes: {error: flag}
"""
HEAD = "id: top\nversion: 1.0.0\nextends: base.yaml\n"
CHANGE = HEAD + "overrides:\n  weapons: "
WHY = "say why with"

# name: (file, words of the message). ¶ marks where the problem stands, and is taken out.
CASES: dict[str, tuple[str, str]] = {
    # what is extended
    "nothing": ("id: a\nversion: 1.0.0\nextends:¶\n", "expected the name of a packaged policy"),
    "an empty list": ("id: a\nversion: 1.0.0\nextends: ¶[]\n", "expected 1 to 32 policies, found 0"),
    "33 bases": (f"id: a\nversion: 1.0.0\nextends: ¶[{'x, ' * 33}]\n", "expected 1 to 32 policies, found 33"),
    "a number": ("id: a\nversion: 1.0.0\nextends: ¶1\n", "expected the name"),
    "a mapping": ("id: a\nversion: 1.0.0\nextends: ¶{file: base.yaml}\n", "expected the name"),
    "a list in a list": ("id: a\nversion: 1.0.0\nextends: [¶[base.yaml]]\n", "expected the name"),
    "the same twice": ("id: a\nversion: 1.0.0\nextends: [base.yaml, ¶base.yaml]\n", "is there already"),
    "a missing base": ("id: a\nversion: 1.0.0\nextends: ¶bas.yaml\n", "there is no such file"),
    "a misspelt packaged name": (
        "id: a\nversion: 1.0.0\nextends: ¶safeedit/l33\n",
        "did you mean safeedit/l3",
    ),
    "itself": ("id: a\nversion: 1.0.0\nextends: ¶top.yaml\n", "a cycle: "),
    "itself by another name": ("id: a\nversion: 1.0.0\nextends: ¶./x/../top.yaml\n", "a cycle: "),
    "a ring of three": ("id: a\nversion: 1.0.0\nextends: ring1.yaml\n", "a cycle: "),
    "a folder": ("id: a\nversion: 1.0.0\nextends: ¶./\n", "this is a folder"),
    "a misspelt key": ("id: a\nversion: 1.0.0\n¶extend: base.yaml\n", "did you mean `extends:`?"),
    "include": ("id: a\nversion: 1.0.0\n¶include: base.yaml\n", "did you mean `extends:`?"),
    "nine levels": ("id: a\nversion: 1.0.0\nextends: deep1.yaml\n", "more than 8 deep"),
    "65 files": (
        "id: a\nversion: 1.0.0\nextends: [many1.yaml, many2.yaml, many3.yaml]\n",
        "more than 64 files",
    ),
    "a base that is broken": ("id: a\nversion: 1.0.0\nextends: broken.yaml\n", "tags are refused"),
    "a base that is no policy": ("id: a\nversion: 1.0.0\nextends: list.yaml\n", "holds a list"),
    "a base that is too large": ("id: a\nversion: 1.0.0\nextends: large.yaml\n", "over 256 KiB"),
    # heads
    "no id": ("¶version: 1.0.0\nextends: base.yaml\n", "add `id: house-rules`"),
    "no version": ("¶id: a\nextends: base.yaml\n", "add `version: 1.0.0`"),
    "overrides without a base": (
        "id: a\nversion: 1.0.0\ntitle: T\n¶overrides: {}\nrules: [{id: w, title: W, unsafe: [x]}]\n",
        "add `extends:`",
    ),
    "a reason without a base": (
        "id: a\nversion: 1.0.0\ntitle: T\n¶weakens: so\nrules: [{id: w, title: W, unsafe: [x]}]\n",
        "add `extends:`",
    ),
    "a reason beside a rule without a base": (
        "id: a\nversion: 1.0.0\ntitle: T\nrules: [{id: w, title: W, unsafe: [x], ¶weakens: so}]\n",
        "unknown key",
    ),
    "an empty reason": (HEAD + "weakens: ¶''\n", "is empty"),
    "a reason that is true": (HEAD + "weakens: ¶true\n", "found true"),
    "a world": (HEAD + "world: ¶pictosafe\n", "cannot be changed"),
    "a misspelt top key": (HEAD + "¶overides: {}\n", "did you mean `overrides:`?"),
    "override for overrides": (HEAD + "¶override: {}\n", "did you mean `overrides:`?"),
    # rules
    "a rule that is there": (
        HEAD + "rules:\n  - id: ¶weapons\n    title: W\n    unsafe: [x]\n",
        "`overrides:`, or give",
    ),
    "the same new rule twice": (
        HEAD + "rules:\n  - {id: x, title: X, unsafe: [y]}\n  - {id: ¶x, title: X, unsafe: [y]}\n",
        "taken by entry 1",
    ),
    "a new rule that forbids nothing": (HEAD + "rules:\n  - ¶{id: x, title: X}\n", "forbids nothing"),
    "a new rule without an id": (
        HEAD + "rules:\n  - ¶{title: Big Knives, unsafe: [y]}\n",
        "add `id: big-knives`",
    ),
    "a new exempt rule": (HEAD + "rules:\n  - ¶{id: x, title: X, unsafe: [a gun], status: exempt}\n", WHY),
    "rules as a mapping": (HEAD + "rules:\n  ¶x: {title: X}\n", "start each entry with `- id:`"),
    "27 rules": (
        HEAD + "rules:\n" + "".join(f"  - {{id: r{i}, title: T, unsafe: [x]}}\n" for i in range(25)),
        "split it",
    ),
    "a threshold of 1.5": (
        HEAD + "rules:\n  - {id: x, title: X, unsafe: [y], threshold: ¶1.5}\n",
        "must be at most 1",
    ),
    # overrides
    "an unknown rule": (HEAD + "overrides:\n  ¶wepons: {threshold: 0.3}\n", "did you mean 'weapons'?"),
    "a rule unlike any": (HEAD + "overrides:\n  ¶zzz: {threshold: 0.3}\n", "it has weapons, gambling"),
    "overrides as a list": (HEAD + "overrides:\n  ¶- id: weapons\n", "such as `weapons:`"),
    "a rule to drop, without a key": (
        HEAD + "drop:\n  - ¶weapons\n",
        "put `id:` before it",
    ),
    "an override that is a word": (CHANGE + "¶exempt\n", "expected a mapping"),
    "an override that is nothing": (CHANGE.rstrip() + "¶\n", "found nothing"),
    "an override's threshold of 1.5": (
        CHANGE + "{threshold: ¶1.5}\n",
        "must be at most 1, found the number 1.5",
    ),
    "an override's threshold in quotes": (CHANGE + "{threshold: ¶'0.3'}\n", "expected a number"),
    "an override's unknown status": (CHANGE + "{status: ¶exemt}\n", "did you mean exempt?"),
    "an override's unknown action": (CHANGE + "{action: ¶blok}\n", "did you mean block?"),
    "an override's id": (CHANGE + "{¶id: arms}\n", "unknown key 'id'"),
    "a misspelt field": (CHANGE + "{¶treshold: 0.3}\n", "did you mean `threshold:`?"),
    "a list for changes": (CHANGE + "{unsafe: ¶[a bow]}\n", "under `add:` or `remove:`"),
    "a misspelt change": (CHANGE + "{unsafe: {¶ad: [a bow]}}\n", "did you mean `add:`?"),
    "a misspelt move": (CHANGE + "{move: {¶to_save: [a gun]}}\n", "did you mean `to_safe:`?"),
    "a text for a list": (CHANGE + "{unsafe: {add: ¶a bow}}\n", "start each item with `- `"),
    "an item that is not there": (
        CHANGE + "{unsafe: {remove: [¶toy gun]}, weakens: so}\n",
        "did you mean 'toy guns'?",
    ),
    "an item of the other list": (
        CHANGE + "{safe: {remove: [¶a gun]}}\n",
        "does not list this under `safe:`: it lists 'a museum piece'",
    ),
    "a move of what is not there": (
        CHANGE + "{move: {to_unsafe: [¶a museum peace]}}\n",
        "did you mean 'a museum piece'?",
    ),
    "a title of nothing": (CHANGE + "{title: ¶null, weakens: so}\n", "found nothing"),
    "nothing left to forbid": (
        CHANGE + "¶{unsafe: {remove: [a gun, toy guns]}, description: '', weakens: so}\n",
        "forbids nothing",
    ),
    # what can loosen, without a reason
    "a raised threshold": (CHANGE + "{threshold: ¶0.45}\n", "raised from 0.4 to 0.45"),
    "a threshold taken back": (CHANGE + "{threshold: ¶null}\n", "raised from 0.4 to 0.5"),
    "a softer action": (CHANGE + "{action: ¶flag}\n", "softened from block to flag"),
    "an exemption": (CHANGE + "{status: ¶exempt}\n", "changed from active to exempt"),
    "a status that excuses": (
        HEAD + "overrides:\n  gambling: {status: ¶active}\n",
        "changed from sensitive to active",
    ),
    "an item removed": (CHANGE + "{unsafe: ¶{remove: [toy guns]}}\n", "no longer lists 'toy guns'"),
    "an item moved": (CHANGE + "{move: ¶{to_safe: [toy guns]}}\n", "no longer lists 'toy guns'"),
    "an exception added": (CHANGE + "{safe: ¶{add: [a bow]}}\n", "excuses 'a bow'"),
    "a sensitive rule's item": (
        HEAD + "overrides:\n  gambling: {safe: ¶{remove: [chess]}}\n",
        "a sensitive rule forbids",
    ),
    "a title reworded": (CHANGE + "{title: ¶Arms}\n", "reworded"),
    "a description reworded": (CHANGE + "{description: ¶Toys.}\n", "reworded"),
    "a description removed": (CHANGE + "{description: ¶''}\n", "removed"),
    "a dropped rule": (HEAD + "drop:\n  - ¶{id: gambling}\n", "the rule 'gambling' is dropped"),
    "a replaced rule": (HEAD + "replace:\n  - ¶{id: gambling, title: G, unsafe: [dice]}\n", "is replaced"),
    "a higher default": (HEAD + "defaults: {threshold: ¶0.6}\n", "raised from 0.5 to 0.6"),
    "a softer default": (HEAD + "defaults: {action: ¶flag}\n", "softened from block to flag"),
    "no band": (HEAD + "defaults: {undecided_band: ¶null}\n", "from [0.3, 0.4] to none"),
    "a narrower band": (HEAD + "defaults: {undecided_band: ¶[0.35, 0.4]}\n", "scores that were undecided"),
    "a lower floor": (HEAD + "defaults: {min_label_mass: ¶0.2}\n", "changed from 0.5 to 0.2"),
    "frames sampled": (HEAD + "defaults: {frames: ¶sample}\n", "changed from all to sample"),
    "a softer outcome": (HEAD + "outcomes: {undecided: ¶flag}\n", "softened from block to flag"),
    "a value reworded": (HEAD + "parameters: {place: ¶there}\n", "changed from 'here' to 'there'"),
    # drop and replace
    "a drop of an unknown rule": (HEAD + "drop: [{id: ¶gamblin, weakens: so}]\n", "did you mean 'gambling'?"),
    "a drop by name alone": (HEAD + "drop: [¶gambling]\n", "expected a mapping"),
    "a drop without an id": (HEAD + "drop: [¶{weakens: so}]\n", "the id of the rule that is dropped"),
    "a drop with too much": (
        HEAD + "drop: [{id: gambling, ¶title: G, weakens: so}]\n",
        "unknown key 'title'",
    ),
    "drop as a mapping": (HEAD + "drop: ¶{id: gambling}\n", "expected a list"),
    "a drop twice": (
        HEAD + "drop: [{id: weapons, weakens: a}, {id: ¶weapons, weakens: b}]\n",
        "taken by entry 1",
    ),
    "a drop of what is overridden": (
        CHANGE + "{threshold: 0.3}\ndrop: [{id: ¶weapons, weakens: so}]\n",
        "under `overrides:` already",
    ),
    "a drop of all rules": (
        HEAD + "drop: [{id: weapons, weakens: so}, {id: gambling, weakens: so}]\n",
        "at least one rule",
    ),
    "a replacement of an unknown rule": (
        HEAD + "replace: [{id: ¶wepons, title: W, unsafe: [x], weakens: so}]\n",
        "did you mean 'weapons'?",
    ),
    "a replacement that forbids nothing": (
        HEAD + "replace: [¶{id: weapons, title: W, weakens: so}]\n",
        "forbids nothing",
    ),
    # parameters
    "a missing parameter": (HEAD + "parameters: {city: ¶null}\n", "the parameter 'city' has no value"),
    "a value taken back": (
        HEAD + "parameters: {place: ¶null}\n",
        "gives it the value 'here': leave this out",
    ),
    "a parameter's name": (HEAD + "parameters: {¶Min-Age: 1}\n", "made of a-z, 0-9 and _"),
    "a list as a value": (HEAD + "parameters: {city: ¶[a]}\n", "found a list"),
    "a mapping as a value": (HEAD + "parameters: {city: ¶{a: b}}\n", "found a mapping"),
    "a value with markers": (HEAD + "parameters: {city: ¶'{{ age }}'}\n", "holds `{{`"),
    "a value of two lines": (HEAD + "parameters:\n  city: ¶|\n    a\n    b\n", "holds a line end"),
    "a value that is too long": (HEAD + f"parameters: {{city: ¶{'x' * 201}}}\n", "at most 200 characters"),
    "parameters as a list": (HEAD + "parameters: ¶[age]\n", "expected a mapping"),
    "an unknown parameter": (
        CHANGE + "{unsafe: {add: ['¶{{ agee }}']}}\n".replace("'¶", "¶'"),
        "did you mean age?",
    ),
    "an expression": (CHANGE + "{unsafe: {add: [¶'{{ age + 1 }}']}}\n", "is no parameter"),
    "a filter": (CHANGE + "{unsafe: {add: [¶'{{ age | upper }}']}}\n", "is no parameter"),
    "an attribute": (CHANGE + "{unsafe: {add: [¶'{{ age.__class__ }}']}}\n", "is no parameter"),
    "the environment": (CHANGE + "{unsafe: {add: [¶'{{ HOME }}']}}\n", "is no parameter"),
    "a marker that is not closed": (CHANGE + "{unsafe: {add: [¶'{{ age']}}\n", "is no parameter"),
    "a marker that is not opened": (CHANGE + "{unsafe: {add: [¶'age }}']}}\n", "is no parameter"),
    "a marker in a marker": (CHANGE + "{unsafe: {add: [¶'{{ {{ age }} }}']}}\n", "is no parameter"),
}
