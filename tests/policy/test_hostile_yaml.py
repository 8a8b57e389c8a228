"""Broken and hostile policy files: each is refused at its place, in few words, and quickly."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyguard.errors import PolicyError
from policyguard.policy import load_policy
from policyguard.strict.documents import parse, plain
from support.work import calls

HEAD = "id: a\nversion: 1.0.0\ntitle: T\n"
RULE = "rules:\n  - id: w\n    title: W\n    unsafe: [knives]\n"
GOOD = HEAD + RULE
BOMB = "a0: &a0 [lol]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(20))
MERGES = "m0: &m0 {k: v}\n" + "".join(f"m{i + 1}: &m{i + 1} {{<<: [*m{i}, *m{i}]}}\n" for i in range(21))

# name: (file, words of the message). ¶ marks where the problem stands, and is taken out.
CASES: dict[str, tuple[str | bytes, str]] = {
    # what is not YAML, or not one mapping
    "empty": ("¶", "it is empty"),
    "comments only": ("¶# nothing\n# here\n", "comments only"),
    "only a document start": ("---\n¶", "mapping"),
    "a list at the top": ("¶- id: a\n", "holds a list"),
    "a word at the top": ("¶house rules\n", "a single value"),
    "two documents": (GOOD + "¶---\n" + GOOD, "second document"),
    "a second document that is empty": (GOOD + "¶---\n", "second document"),
    "an unclosed quote": ('id: ¶"a\ntitle: T\n', "quoted text is not closed"),
    "an unclosed bracket": (HEAD + "rules: [¶", "not closed"),
    "brackets that do not match": (HEAD + "rules: [a¶}\n", "opens on line 4"),
    "a tab for indentation": ("id: a\nrules:\n¶\t- id: w\n", "indent with spaces"),
    "a colon inside a text": ("id: a\ntitle: Weapons¶: all of them\n", "put the whole text in quotes"),
    "a colon inside a text of two lines": (
        "id: a\ntitle: Weapons\n  of all kinds¶: guns\n",
        "put the whole text in quotes",
    ),
    "a key deeper than the one above": (
        GOOD + "    action: block\n\n    # how sure\n      ¶threshold: 0.3\n",
        "indented further than the one above it: begin both in the same column",
    ),
    "a key deeper than a list": (GOOD + "      ¶safe: [toys]\n", "begin both in the same column"),
    "a key below an item": (
        HEAD + "rules:\n  - id: w\n    unsafe:\n      - guns\n        ¶safe: [toys]\n",
        "where the list's key begins",
    ),
    "an item with a colon deeper than the others": (
        HEAD + "rules:\n  - id: w\n    unsafe:\n      - guns\n        ¶- toys: all\n",
        "begin both in the same column",
    ),
    "a colon inside a text below a dash": (
        HEAD + "rules:\n  - id: w\n    title: Weapons¶: all\n",
        "put the whole text in quotes",
    ),
    "a key deeper than an id": (
        HEAD + "rules:\n  - id: w\n      ¶title: W\n",
        "begin both in the same column",
    ),
    "a key deeper than one in quotes": (
        'id: a\ntitle: "Weapons"\n  ¶"version": 1.0.0\n',
        "begin both in the same column",
    ),
    "a text that starts with @": ("id: ¶@home\n", "put the text in quotes"),
    "a text that starts with a backtick": ("id: ¶`a`\n", "put the text in quotes"),
    "a text that starts with %": (HEAD + "description: ¶%100\n", "put the text in quotes"),
    "wrong indentation": ("id: a\nrules:\n  - id: w\n ¶title: T\n", "indentation"),
    "a key without a colon": ("id: a\ntitle\n¶version: 1.0.0\n", "line above"),
    "an unknown escape": ('id: "\\¶q"\n', "single quotes"),
    "an escape beyond Unicode": ('id: "\\U¶FFFFFFFF"\n', "out of range"),
    "an unfinished escape": ('id: "\\u¶12"\n', "not complete"),
    "a directive": ("¶%YAML 1.1\n---\n" + GOOD, "directives"),
    "a tag directive": ("¶%TAG ! tag:x,2000:\n---\n" + GOOD, "directives"),
    # what could run code, expand, or recurse
    "a python object": ("id: ¶!!python/object/apply:os.system ['true']\n", "tags are refused"),
    "a python name": ("id: ¶!!python/name:os.system\n", "tags are refused"),
    "a local tag": ("id: ¶!secret a\n", "tags are refused"),
    "a standard tag": ("id: ¶!!str 1\n", "tags are refused"),
    "a tag on a mapping": (HEAD + "defaults: ¶!!map {threshold: 0.5}\n" + RULE, "tags are refused"),
    "a bare tag": ("id: ¶! a\n", "tags are refused"),
    "an anchor": ("id: ¶&a house\n", "anchors are refused"),
    "an anchor on the whole file": ("¶&all\n" + GOOD, "anchors are refused"),
    "an alias": ("id: ¶*a\n", "aliases are refused"),
    "an alias as a key": ("¶*a : b\n", "aliases are refused"),
    "a list that holds itself": (HEAD + "rules: ¶&a [*a]\n", "anchors are refused"),
    "an alias bomb": (BOMB.replace("&a0", "¶&a0", 1), "anchors are refused"),
    "a merge key": ("¶<<: {id: a}\n" + GOOD, "merge keys"),
    "a merge bomb": (MERGES.replace("&m0", "¶&m0", 1), "anchors are refused"),
    "deep flow lists": ("id: " + "[" * 15 + "¶" + "[" * 3000, "16 deep"),
    "deep flow mappings": ("{a: " * 16 + "¶{a: " * 3000, "16 deep"),
    "deep block lists": ("id: a\nrules:\n" + "- " * 15 + "¶" + "- " * 3000 + "x\n", "16 deep"),
    "deep question marks": ("? " * 16 + "¶" + "? " * 3000, "16 deep"),
    "too many items": (HEAD + "rules:\n" + "- a\n" * 9991 + "- ¶a\n- a\n", "10,000 values"),
    "too many keys": ("".join(f"k{i}: v\n" for i in range(4999)) + "k: ¶v\n", "10,000 values"),
    "too large": (b"#" * (256 * 1024 + 1), "over 256 KiB"),
    "a huge number": (HEAD + RULE + "defaults: {threshold: ¶" + "9" * 5000 + "}\n", "out of range"),
    "a number beyond floats": (GOOD + "defaults: {threshold: ¶1e999}\n", "out of range"),
    # what says one thing to a reader and another to the program
    "a repeated key": (GOOD + "¶title: Other\n", "already there, on line 3"),
    "a repeated key in a rule": (GOOD + "    action: flag\n    ¶action: allow\n", "already there, on line 8"),
    "a repeated key in quotes": (GOOD + '¶"title": Other\n', "already there"),
    "a repeated rule id": (GOOD + "  - id: ¶w\n    title: V\n    unsafe: [x]\n", "taken by rule 1"),
    "a text cut at a hashtag": (GOOD + "    description: ¶a #hashtag of hate\n", "ends before '#hashtag'"),
    "an item cut at a number": (GOOD + "    safe:\n      - ¶players  #10 and #11\n", "ends before '#10'"),
    "a NUL": ("id: a¶\x00b\n", "U+0000"),
    "an escape character": ("id: a\n# ¶\x1b[2J\n", "U+001B"),
    "a C1 control": ("title: a¶\x85b\n", "U+0085"),
    "text that runs backwards": ("title: ¶\u202egnihton\n", "U+202E (RIGHT-TO-LEFT OVERRIDE)"),
    "direction isolated in a comment": ("id: a # ¶\u2066x\u2069\n", "U+2066"),
    "a letter that is blank": ("title: kn¶\u3164ives\n", "U+3164"),
    "a zero-width space": ("title: kn¶\u200bives\n", "U+200B"),
    "an invisible tag letter": ("title: T¶\U000e0041\n", "U+E0041"),
    "a line separator": ("title: T¶\u2028x\n", "U+2028"),
    "a byte order mark inside": ("id: a\n¶\ufefftitle: T\n", "U+FEFF"),
    "direction as an escape": ('title: ¶"\\u202e"\n' + RULE, "as an escape too"),
    "a control character as an escape": ('title: ¶"a\\0b"\n' + RULE, "as an escape too"),
    "half a surrogate pair": ('title: ¶"\\ud800"\n' + RULE, "as an escape too"),
    "a hidden character in a key": ('¶"ti\\u200btle": T\n' + RULE, "as an escape too"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD.encode(), "byte order mark"),
    "UTF-16": (GOOD.encode("utf-16"), "UTF-16"),
    "Latin-1": (b"id: a\ntitle: Caf\xe9\n", "0xe9 is not UTF-8"),
    "surrogates in UTF-8": (b"\xed\xa0\x80", "not UTF-8"),
    # keys
    "a number as a key": (GOOD + "¶1: x\n", "a key is a piece of text"),
    "true as a key": (GOOD + "¶true: x\n", "a key is a piece of text"),
    "nothing as a key": (GOOD + "¶: x\n", "does not fit in"),
    "a list as a key": (GOOD + "? ¶[a]\n: x\n", "a key is a piece of text"),
    "an unknown key": (GOOD + "¶colour: red\n", "known here are id, version"),
    "a misspelt key": (GOOD + "¶desciption: x\n", "did you mean `description:`?"),
    "on for outcomes": (GOOD + "¶on: {error: block}\n", "did you mean `outcomes:`?"),
    "American spelling": (GOOD + "¶license: MIT\n", "did you mean `licence:`?"),
    "a field at the wrong level": (GOOD + "¶threshold: 0.4\n", "in a rule or under `defaults:`"),
    "a misspelt key in a rule": (GOOD + "    ¶exceptions: [x]\n", "did you mean `safe:`?"),
    "a misspelt key in defaults": (GOOD + "defaults:\n  ¶treshold: 0.4\n", "did you mean `threshold:`?"),
    # values
    "a rule without an id": (
        HEAD + "rules:\n  - ¶title: Big Knives\n    unsafe: [x]\n",
        "add `id: big-knives`",
    ),
    "a rule without id or title": (HEAD + "rules:\n  - ¶unsafe: [x]\n", "rule 1 has no id: add `id: rule-1`"),
    "no version": ("¶id: a\ntitle: T\n" + RULE, "add `version: 1.0.0`"),
    "no rules": ("¶" + HEAD, "at least one rule"),
    "an empty list of rules": (HEAD + "rules: ¶[]\n", "at least one rule"),
    "rules as a mapping": (HEAD + "rules:\n  ¶w: {title: W}\n", "start each rule with `- id:`"),
    "rules that are empty": (HEAD + "rules:¶\n", "found nothing"),
    "a rule that is a word": (HEAD + "rules:\n  - ¶weapons\n", "expected a mapping"),
    "27 rules": (
        HEAD + "rules:\n  ¶" + "  ".join(f"- {{id: r{i}, title: T, unsafe: [x]}}\n" for i in range(27)),
        "split it",
    ),
    "a rule that forbids nothing": (
        HEAD + "rules:\n  - ¶id: w\n    title: W\n    safe: [x]\n",
        "forbids nothing",
    ),
    "a number as an id": ("id: ¶1\nversion: 1.0.0\ntitle: T\n" + RULE, "put it in quotes"),
    "an id with a blank": ("id: ¶House Rules\nversion: 1.0.0\ntitle: T\n" + RULE, "such as house-rules"),
    "an id that climbs": ("id: ¶../a\nversion: 1.0.0\ntitle: T\n" + RULE, "use a-z"),
    "a version of two numbers": ("id: a\nversion: ¶1.0\ntitle: T\n" + RULE, "three numbers such as 1.0.0"),
    "a version that is a word": ("id: a\nversion: ¶next\ntitle: T\n" + RULE, "three numbers"),
    "a date as a version": ("id: a\nversion: ¶2026-01-01\ntitle: T\n" + RULE, "three numbers"),
    "a title that is empty": ("id: a\nversion: 1.0.0\ntitle:¶\n" + RULE, "found nothing"),
    "a title of blanks": ("id: a\nversion: 1.0.0\ntitle: ¶'  '\n" + RULE, "is empty"),
    "a title that is true": ("id: a\nversion: 1.0.0\ntitle: ¶true\n" + RULE, "found true: put it in quotes"),
    "a title of 201 letters": (
        f"id: a\nversion: 1.0.0\ntitle: ¶{'x' * 201}\n" + RULE,
        "at most 200 characters",
    ),
    "a lone text for a list": (GOOD + "    safe: ¶toys\n", "start each item with `- `"),
    "a dash without a blank": (
        GOOD + "    safe:\n      - toys\n      ¶-water pistols\n      -flags\n    status: active\n",
        "write a blank behind the dash of each item",
    ),
    "a dash without a blank at the end": (
        GOOD + "    safe:\n      - toys\n      ¶-water pistols\n",
        "write a blank behind the dash of each item",
    ),
    "dashes without blanks": (
        GOOD + "    safe:\n      ¶-toys\n      - flags\n",
        "a blank belongs behind each dash: start each item with `- ` on a line of its own",
    ),
    "an item that became a mapping": (GOOD + "    safe:\n      - ¶toys: all of them\n", "in quotes"),
    "an item that is a number": (GOOD + "    safe: [¶18]\n", "put it in quotes"),
    "an empty item": (GOOD + "    safe:\n      -¶\n", "found nothing"),
    "a threshold of 1.5": (GOOD + "    threshold: ¶1.5\n", "must be at most 1, found the number 1.5"),
    "a threshold of 0": (GOOD + "    threshold: ¶0\n", "must be above 0"),
    "a threshold of .nan": (GOOD + "    threshold: ¶.nan\n", "expected a number, found the text '.nan'"),
    "a threshold of .inf": (GOOD + "    threshold: ¶.inf\n", "expected a number"),
    "a threshold in octal": (GOOD + "    threshold: ¶0777\n", "expected a number, found the text '0777'"),
    "a threshold in base 60": (GOOD + "    threshold: ¶1:30\n", "expected a number, found the text '1:30'"),
    "a threshold with a comma": (GOOD + "    threshold: ¶0,5\n", "found the text '0,5': write 0.5"),
    "a threshold in quotes": (GOOD + '    threshold: ¶"0.5"\n', "found the text '0.5': write 0.5"),
    "a threshold in percent": (GOOD + "    threshold: ¶40%\n", "found the text '40%': write 0.4"),
    "a threshold of 40": (GOOD + "    threshold: ¶40\n", "found the number 40: write 0.4"),
    "a threshold of 140%": (GOOD + "    threshold: ¶140%\n", "expected a number, found the text '140%'"),
    "a no-break space after a key": (GOOD + "    threshold:¶\u00a00.4\n", "write an ordinary space"),
    "a no-break space before a value": (GOOD + "    threshold: ¶\u00a00.4\n", "write an ordinary space"),
    "no-break spaces as indentation": (
        GOOD + "¶\u00a0\u00a0\u00a0\u00a0status: active\n",
        "write an ordinary space",
    ),
    "a parameter without quotes": (GOOD + "    threshold: ¶{{ least }}\n", 'write "{{ least }}"'),
    "a parameter without quotes in a list": (GOOD + "    safe:\n      - ¶{{ toys }}\n", 'write "{{ toys }}"'),
    "a text that begins with a parameter": (
        GOOD + "    safe:\n      - ¶{{ toys }} on a shelf\n",
        "with the rest of the text inside the quotes",
    ),
    "outcomes that are not indented": (
        HEAD + "outcomes:¶\nundecided: flag\nrules:\n  - {id: a, title: A, unsafe: [x]}\n",
        "indent what belongs to `outcomes:`",
    ),
    "a threshold of true": (GOOD + "    threshold: ¶true\n", "expected a number, found true"),
    "an unknown status": (GOOD + "    status: ¶exemt\n", "did you mean exempt?"),
    "a status of no": (GOOD + "    status: ¶no\n", "found the text 'no'"),
    "an unknown action": (GOOD + "    action: ¶blok\n", "did you mean block?"),
    "an action in capitals": (GOOD + "    action: ¶BLOCK\n", "did you mean block?"),
    "an action of another product": (
        GOOD + "    action: ¶Deny\n",
        "found the text 'Deny': did you mean block?",
    ),
    "an action in other words": (GOOD + "outcomes: {undecided: ¶review}\n", "did you mean flag?"),
    "an action that holds it back": (GOOD + "outcomes: {undecided: ¶hold}\n", "did you mean flag?"),
    "a status of off": (GOOD + "    status: ¶off\n", "did you mean exempt?"),
    "an action of off": (GOOD + "defaults: {action: ¶off}\n", "expected allow, flag or block"),
    "unknown frames": (GOOD + "defaults: {frames: ¶some}\n", "expected all or sample"),
    "a band of one number": (GOOD + "defaults: {undecided_band: ¶0.4}\n", "two numbers such as"),
    "a band of three": (GOOD + "defaults: {undecided_band: ¶[0.1, 0.2, 0.3]}\n", "two numbers such as"),
    "a band upside down": (GOOD + "defaults: {undecided_band: ¶[0.6, 0.4]}\n", "[0.4, 0.6]"),
    "a band beyond 1": (GOOD + "defaults: {undecided_band: [0.4, ¶1.2]}\n", "must be at most 1"),
    "a colon without a blank": (
        GOOD + "defaults:\n  ¶threshold:0.3\n",
        "write a blank behind the colon of `threshold:`",
    ),
    "defaults as a list": (GOOD + "defaults: ¶[block]\n", "expected a mapping"),
    "an unknown outcome": (GOOD + "outcomes: {¶eror: block}\n", "did you mean error?"),
    "violations let through": (GOOD + "outcomes: {¶violates: allow}\n", "cannot be set here"),
    "compliance blocked": (GOOD + "outcomes: {¶complies: block}\n", "cannot be set here"),
    "a world with blanks": (GOOD + "world: ¶Picto Safe\n", "use a-z"),
}


def unmarked(file: str | bytes) -> tuple[bytes, tuple[int, int]]:
    if isinstance(file, bytes):  # no place for a mark: only Latin-1 is wrong anywhere but at the start
        return file, (2, 11) if b"\xe9" in file else (1, 1)
    before, _, after = file.partition("¶")
    return (before + after.replace("¶", "")).encode(), (
        before.count("\n") + 1,
        len(before) - before.rfind("\n"),
    )


@pytest.mark.parametrize("name", CASES)
def test_is_refused_at_its_place(name: str, tmp_path: Path) -> None:
    marked, words = CASES[name]
    data, place = unmarked(marked)
    path = tmp_path / "policy.yaml"
    path.write_bytes(data)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    here = [problem for problem in caught.value.problems if (problem.line, problem.column) == place]
    assert any(words in problem.message for problem in here), str(caught.value)
    assert f"{path}:{place[0]}:{place[1]}: " in str(caught.value)
    assert len(str(caught.value)) < 20_000
    assert all(line.isprintable() for line in str(caught.value).splitlines())


def test_a_no_break_space_inside_a_text_is_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        GOOD + "    description: Armes\u00a0: 18\u00a0%\n    safe: ['couteaux\u00a0: {{ x }}']\n", "utf-8"
    )
    with pytest.raises(PolicyError, match="x"):  # only the parameter that is not there
        load_policy(path)
    path.write_text(GOOD + "    description: 'Armes\u00a0:\u00a018\u00a0%'\n", "utf-8")
    assert load_policy(path).rules[0].description == "Armes\u00a0:\u00a018\u00a0%"


def test_the_table_is_long_enough_and_its_base_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(GOOD)
    assert load_policy(path).rules[0].unsafe == ("knives",)
    assert len(CASES) >= 120


def test_a_refusal_is_work_in_proportion_to_the_file(tmp_path: Path) -> None:
    """A call of a function is about 0.1 microseconds: 50 for each byte are about a second for 256 KiB."""
    large = ("too large", "too many items", "deep flow lists", "a merge bomb", "a huge number")
    files = {name: unmarked(CASES[name][0])[0] for name in large} | {
        "one long quoted text": b'title: "' + b"a b\n " * 10_000 + b'"',
        "one long plain text": b"title: " + b"a " * 25_000,
        "escapes": b'title: "' + rb"\x41" * 15_000 + b'"',
        "a block text": b"title: |\n" + b" x\n" * 15_000,
        "unknown keys": b"".join(b"k%d: v\n" % i for i in range(1_500)),
        "repeated keys": b"k: v\n" * 4_900,
        "one long key": b"k" * 250_000 + b": v\n",
    }
    path = tmp_path / "policy.yaml"

    def refuse() -> None:
        with pytest.raises(PolicyError):
            load_policy(path)

    for name, data in files.items():
        path.write_bytes(data)
        assert calls(refuse) < 20_000 + 60 * len(data), name


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("'a #hashtag'", "a #hashtag"),
        ('"a #hashtag" #ok', "a #hashtag"),
        ("a# b#c", "a# b#c"),
        ("a # the handbook says so", "a"),
        ("a  ## noted", "a"),
        ("a #", "a"),
        ("|\n      a #hashtag", "a #hashtag"),
    ],
)
def test_comments_and_quoted_hashes_are_fine(written: str, read: str) -> None:
    document = parse(f"{GOOD}    description: {written}\n".encode(), "x.yaml")
    rules = plain(document.root)["rules"]  # type: ignore[index]
    assert rules[0]["description"].strip() == read
