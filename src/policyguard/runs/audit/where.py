r"""Conditions on the rows of an audit, such as ``action == "block" and score > 0.9``.

A condition is read by the grammar below and becomes an expression of ``pyarrow.compute``; nothing of it is
run as code. As in SQL, a comparison with what is not there (a row without a score) does not hold, and neither
does its opposite::

    any    = all, {"or", all} ;
    all    = one, {"and", one} ;
    one    = "not", one | "(", any, ")" | text, ["not"], "in", "rules" | column, [test] ;
    test   = ("==" | "!=" | "<" | "<=" | ">" | ">="), value | ["not"], "in", "(", value, {",", value}, ")"
           | ("contains" | "startswith" | "endswith"), text | "is", ["not"], "null" ;
    value  = text | number | "true" | "false" ;
    text   = '"', ... , '"' | "'", ... , "'" ;    (* \" \' and \\ stand for themselves *)
    column = name | "`", any name, "`" ;
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from policyguard.errors import UsageError
from policyguard.outcomes import Action, Outcome
from policyguard.runs.audit.rows import arrow, schema
from policyguard.strict.explain import nearest
from policyguard.strict.text import quoted, visible

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Where", "parse_where"]

_MAX_LENGTH, _MAX_DEPTH = 10_000, 50
_TOKEN = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\["'\\])*"|'(?:[^'\\]|\\["'\\])*')"""
    r"|(?P<number>-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?)(?![\w.])"
    r"|(?P<column>`[^`]+`)"
    r"|(?P<word>[A-Za-z_][\w.]*)"
    r"|(?P<sign>==|!=|<=|>=|<|>|\(|\)|,)"
    r"|(?P<end>$)"
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda one, other: one == other,
    "!=": lambda one, other: one != other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}
_FOREIGN = {"=": "==", "&&": "and", "&": "and", "||": "or", "|": "or", "!": "not", "<>": "!=", "~": "not"}
_WORDS = {"and", "or", "not", "in", "is", "null", "true", "false", "contains", "startswith", "endswith"}


class _Kind(StrEnum):
    TEXT = "a text"
    NUMBER = "a number"
    BOOL = "true or false"
    RULES = "the rules that are violated"


class _Token(NamedTuple):
    kind: str
    text: str
    place: int


@dataclass(frozen=True)
class Where:
    """A condition. ``columns``: those it looks at; ``rules``: the rules it asks for."""

    text: str
    expression: Any
    columns: frozenset[str]
    rules: tuple[str, ...]

    def filter(self, table: pa.Table) -> pa.Table:
        """The rows of ``table`` that the condition holds for."""
        for rule in self.rules:
            table = table.append_column(_asked(rule), _violating(table["rules"], rule))
        kept = table.filter(self.expression)
        return kept.drop_columns([_asked(rule) for rule in self.rules])


def _asked(rule: str) -> str:
    return f"\0violates {rule}"


def _violating(rules: pa.ChunkedArray, rule: str) -> pa.Array:
    """Whether each row violates ``rule``."""
    import numpy as np
    from pyarrow import compute as pc

    found = np.zeros(len(rules), bool)
    whole = rules.combine_chunks()
    named = pc.equal(pc.struct_field(pc.list_flatten(whole), "rule"), rule)
    found[pc.list_parent_indices(whole).filter(named).to_numpy(zero_copy_only=False)] = True
    return arrow().array(found)


def parse_where(text: str, *, keep: Sequence[str] = (), rules: Sequence[str] = ()) -> Where:
    """Read a condition. ``keep``: the carried columns, which go by their own name too; ``rules``: those of
    the audit's policies.

    Raises UsageError that points at what is wrong.
    """
    return _Parser(text, keep, rules).parse()


class _Parser:
    def __init__(self, text: str, keep: Sequence[str], rules: Sequence[str]) -> None:
        self._text, self._place, self._depth = text, 0, 0
        self._rules, self._asked, self._columns = rules, dict[str, None](), set[str]()
        self._kinds = _kinds(keep)
        self._names = {name: name for name in self._kinds} | {
            name: f"keep_{name}" for name in keep if name not in self._kinds
        }
        if len(text) > _MAX_LENGTH:
            raise UsageError(
                f"--where is longer than {_MAX_LENGTH:,} characters",
                hint="select more, and filter the Parquet file with DuckDB, pandas or Polars",
            )
        self._token = self._read()

    def parse(self) -> Where:
        if self._token.kind == "end":
            self._fail("there is no condition", hint="""such as --where 'action == "block"'""")
        expression = self._any()
        if self._token.kind != "end":
            self._fail(f"expected 'and', 'or' or the end, found {self._seen()}")
        return Where(self._text, expression, frozenset(self._columns), tuple(self._asked))

    # The grammar, from the top.

    def _any(self) -> Any:
        expression = self._all()
        while self._take("or"):
            expression = expression | self._all()
        return expression

    def _all(self) -> Any:
        expression = self._one()
        while self._take("and"):
            expression = expression & self._one()
        return expression

    def _one(self) -> Any:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self._fail(f"the condition is nested more than {_MAX_DEPTH} deep")
        try:
            if self._take("not"):
                return ~self._one()
            if self._take("("):
                expression = self._any()
                self._need(")")
                return expression
            if self._token.kind == "text":
                return self._rule()
            return self._test()
        finally:
            self._depth -= 1

    def _rule(self) -> Any:
        from pyarrow import compute as pc

        token = self._next()
        rule = _unquoted(token.text)
        inside = not self._take("not")
        self._need("in", 'write "RULE" in rules, or the column first, as in action == "block"')
        if self._token.text != "rules":
            self._fail(f"expected 'rules', found {self._seen()}", hint='such as "weapons" in rules')
        self._next()
        if self._rules and rule not in self._rules:
            self._unknown(token, f"no policy of the audit has a rule {quoted(rule)}", rule, self._rules)
        self._asked[rule] = None
        self._columns.add("rules")
        found = pc.field(_asked(rule))
        return found if inside else ~found

    def _test(self) -> Any:
        from pyarrow import compute as pc

        column, kind, name = self._column()
        if kind is _Kind.RULES:
            self._fail("rules is a list", hint='ask for one, such as "weapons" in rules')
        if self._take("is"):
            wanted = not self._take("not")
            self._need("null")
            return column.is_null() if wanted else column.is_valid()
        token = self._token
        if token.text in ("contains", "startswith", "endswith"):
            return self._search(column, kind)
        if token.text in ("in", "not"):
            inside = not self._take("not")
            self._need("in")
            self._need("(", 'list the values in brackets, as in action in ("flag", "block")')
            values = [self._value(name, kind)]
            while self._take(","):
                values.append(self._value(name, kind))
            self._need(")")
            found = column.isin(values)
            nothing = arrow().scalar(None, arrow().bool_())
            return pc.if_else(column.is_valid(), found if inside else ~found, nothing)
        if token.text in _COMPARE:
            if kind is not _Kind.NUMBER and token.text not in ("==", "!="):
                self._fail(f"{name} is {kind}, which {token.text} does not compare", hint="use == or !=")
            self._next()
            return _COMPARE[token.text](column, self._value(name, kind))
        if kind is _Kind.BOOL:
            return column
        return self._fail(
            f"expected a comparison with {name}, found {self._seen()}",
            hint="==, !=, <, <=, >, >=, in, contains, startswith, endswith or is null",
        )

    def _search(self, column: Any, kind: _Kind) -> Any:
        from pyarrow import compute as pc

        search = {"contains": pc.match_substring, "startswith": pc.starts_with, "endswith": pc.ends_with}
        word = self._next()
        if kind is not _Kind.TEXT:
            self._fail(f"{word.text} is for texts, and this column is {kind}", token=word)
        if self._token.kind != "text":
            self._fail(f"expected a text in quotes, found {self._seen()}")
        return search[word.text](column, pattern=_unquoted(self._next().text))

    def _column(self) -> tuple[Any, _Kind, str]:
        from pyarrow import compute as pc

        token = self._token
        if token.kind not in ("word", "column") or (token.kind == "word" and token.text.lower() in _WORDS):
            self._fail(f"expected a column, found {self._seen()}")
        self._next()
        name = token.text.strip("`")
        known = self._names.get(name)
        if known is None:
            self._unknown(token, f"there is no column {quoted(name)}", name, list(self._names))
        parts = known.split(".") if known.startswith("closest.") else [known]
        self._columns.add(parts[0])
        column = pc.field(*parts)
        if known == "fingerprint":  # a dictionary, which texts are not searched for in
            column = column.cast("string")
        return column, self._kinds[known], name

    def _value(self, name: str, kind: _Kind) -> Any:
        token = self._token
        value: Any
        if token.kind == "text":
            found, value = _Kind.TEXT, _unquoted(token.text)
        elif token.kind == "number":
            found, value = _Kind.NUMBER, _number(token.text)
        elif token.text.lower() in ("true", "false"):
            found, value = _Kind.BOOL, token.text.lower() == "true"
        elif token.text.lower() == "null":
            self._fail("nothing is equal to null", hint=f"write {name} is null, or {name} is not null")
        else:
            guess = f'"{token.text}"' if kind is _Kind.TEXT and token.kind == "word" else None
            self._fail(f"expected a value, found {self._seen()}", hint=guess and f"put it in quotes: {guess}")
        if found is not kind:
            quotes = f'write "{token.text}"' if kind is _Kind.TEXT else None
            self._fail(f"{name} is {kind}, and {self._seen()} is {found}", hint=quotes)
        if (words := _VALUES.get(name)) and value not in words:
            self._unknown(token, f"{name} is never {quoted(value)}", value, words)
        if name == "dhash":
            if not isinstance(value, int) or not 0 <= value < 2**64:
                self._fail("dhash is a whole number from 0 to 2^64 - 1")
            value = arrow().scalar(value, arrow().uint64())
        self._next()
        if self._names[name] in ("score", "closest.score") and not 0 <= value <= 1:
            share = f"write {value / 100:g}" if 1 < value <= 100 else None
            self._fail(f"scores go from 0 to 1, and {quoted(token.text)} is none", hint=share, token=token)
        return value

    # Tokens and errors.

    def _read(self) -> _Token:
        while self._place < len(self._text) and self._text[self._place].isspace():
            self._place += 1
        match = _TOKEN.match(self._text, self._place)
        if match is None:
            self._stray()
        self._place = match.end()
        return _Token(str(match.lastgroup), match[0], match.start())

    def _stray(self) -> NoReturn:
        rest = self._text[self._place :]
        token = _Token("", rest[0], self._place)
        if rest[0] in "\"'`":
            self._fail("this quote is not closed, or a backslash in it escapes nothing", token=token)
        for sign in sorted(_FOREIGN, key=len, reverse=True):
            if rest.startswith(sign):
                self._fail(f"{sign} is not known here", hint=f"write {_FOREIGN[sign]}", token=token)
        percent = (
            re.search(r"(?<![\w.])(\d+(?:\.\d+)?) *$", self._text[: self._place]) if rest[0] == "%" else None
        )
        hint = percent and f"scores are from 0 to 1: write {float(percent[1]) / 100:g}"
        self._fail(f"{quoted(rest[0])} is not known here", hint=hint, token=token)

    def _next(self) -> _Token:
        token = self._token
        self._token = self._read()
        return token

    def _take(self, text: str) -> bool:
        if self._token.kind in ("word", "sign") and self._token.text.lower() == text:
            self._next()
            return True
        return False

    def _need(self, text: str, hint: str | None = None) -> None:
        if not self._take(text):
            self._fail(f"expected '{text}', found {self._seen()}", hint=hint)

    def _seen(self) -> str:
        return "the end" if self._token.kind == "end" else quoted(self._token.text, 40)

    def _unknown(self, token: _Token, message: str, word: str, known: Sequence[str]) -> NoReturn:
        guess = nearest(word, known)
        self._fail(
            message, hint=f"did you mean {guess}?" if guess else f"there are: {', '.join(known)}", token=token
        )

    def _fail(self, message: str, *, hint: str | None = None, token: _Token | None = None) -> NoReturn:
        """Raise, with the condition and a mark under the place."""
        place = (token or self._token).place
        start = max(0, place - 60)
        before = visible(self._text[start:place])
        line = f"{before}{visible(self._text[place : place + 40])}"
        raise UsageError(
            f"--where, character {place + 1}: {message}\n{line}\n{' ' * len(before)}^", hint=hint
        )


_VALUES: Mapping[str, list[str]] = {
    "outcome": [str(outcome) for outcome in Outcome],
    "action": [str(action) for action in Action],
}


def _kinds(keep: Sequence[str]) -> dict[str, _Kind]:
    """What each column holds."""
    types = arrow().types
    kinds: dict[str, _Kind] = {}
    for field in schema(keep):
        if types.is_struct(field.type):
            kinds |= {f"{field.name}.rule": _Kind.TEXT, f"{field.name}.score": _Kind.NUMBER}
        elif types.is_list(field.type):
            kinds[field.name] = _Kind.RULES
        elif types.is_boolean(field.type):
            kinds[field.name] = _Kind.BOOL
        else:
            is_text = types.is_string(field.type) or types.is_dictionary(field.type)
            kinds[field.name] = _Kind.TEXT if is_text else _Kind.NUMBER
    return kinds


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _number(text: str) -> int | float:
    whole = text.removeprefix("-").isdigit()
    return int(text) if whole and abs(int(text)) < 2**64 else float(text)
