"""The length of a policy's prompt in tokens, and texts that no image can decide.

Tokens are counted by the model's own tokenizer, or estimated; the image is not counted, because its tokens
depend on its size. What no image shows (intentions, permissions, laws, what happened before, who sent it) is
found by a list of English phrases, so some of it and not all; each comes with what could be written instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from policyguard.authoring.linter.remark import Level, Remark, Step
from policyguard.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from policyguard.backends.registry import KnownModel
    from policyguard.dialects import Dialect, Prompt
    from policyguard.policy.policy import Policy
    from policyguard.policy.resolved import ResolvedPolicy

__all__ = [
    "DEFAULT_BUDGET",
    "TokenCounter",
    "default_dialect",
    "length",
    "pixels",
    "transcript",
]


_INTENT = "no image shows what somebody intends: describe what can be seen, such as an act or a gesture"
_CONSENT = "no image shows a permission: describe what can be seen, or decide it before the guard is asked"
_LAW = "no image shows what the law of a place says: describe what can be seen"
_STORY = "no image shows what came before or will follow: describe what can be seen"
_SENDER = "no image shows who sent it, or where it is posted: choose a policy for that place instead"
_TRUTH = "no image shows whether what it says is true: name the claims, or the signs of a fake"
_WHOSE: Final = r"(?:the |any |their |his |her |express |prior |explicit )*"
_PHRASES: Final = (
    (_INTENT, r"inten(?:d|ds|ded|ding|tion|tions|tional|tionally|t)"),
    (_INTENT, r"(?:in order|so as) to"),
    (_INTENT, r"on purpose|(?:for|with) the purposes? of|purposely|deliberate(?:ly)?|accidental(?:ly)?"),
    (_INTENT, r"(?:wants?|wanting|plans?|planning|hopes?|hoping|tries|trying|means|meant) to"),
    (_INTENT, r"motives?|motivated by|in (?:good|bad) faith"),
    (_CONSENT, rf"(?:without|with) {_WHOSE}(?:permission|consent|authori[sz]ation|approval|licen[cs]e)"),
    (_CONSENT, r"(?:non-?)?consensual(?:ly)?|unauthori[sz]ed|unlicen[cs]ed"),
    (_LAW, r"(?:il)?legal(?:ly)?|(?:un)?lawful(?:ly)?|criminal offen[cs]es?|copyrighted|counterfeit"),
    (_STORY, r"stolen|used to be|in the past|previously|formerly|later|going to be|will be used"),
    (_SENDER, r"(?:posted|uploaded|sent|shared|submitted) (?:by|to|on|for)"),
    (_SENDER, r"the (?:uploader|poster|sender|author)"),
    (_TRUTH, r"misinformation|disinformation|untrue|false (?:claims?|statements?|information)|hoax(?:es)?"),
)
_FIND: Final = tuple(
    (re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE), advice) for advice, words in _PHRASES
)
_VAGUE: Final = re.compile(
    r"(?<!\w)(?:inappropriate|objectionable|unacceptable|bad|improper|problematic|unsuitable"
    r"|offensive|questionable|harmful|etc)(?!\w)",
    re.IGNORECASE,
)


def pixels(policy: Policy) -> Iterator[Remark]:
    """Per text, a remark about the first phrase that cannot be seen, and one about words that say little."""
    for index, rule in enumerate(policy.rules):
        if rule.status == "exempt":
            continue
        texts: list[tuple[tuple[Step, ...], str]] = [(("description",), rule.description)]
        texts += [(("unsafe", place), item) for place, item in enumerate(rule.unsafe)]
        texts += [(("safe", place), item) for place, item in enumerate(rule.safe)]
        for path, text in texts:
            yield from _unseen(text, ("rules", index, *path))


def _unseen(text: str, path: tuple[Step, ...]) -> Iterator[Remark]:
    # In a description, a phrase may explain the rule; an item is what the model looks for.
    level = Level.INFO if path[-1] == "description" else Level.WARNING
    for words, advice in _FIND:
        if match := words.search(text):
            yield Remark(level, "not-visible", f"'{match[0]}': {advice}", path)
            break
    if path[-1] != "description" and (match := _VAGUE.search(text)):
        message = f"'{match[0]}' is a judgement, not a sight: name the objects, acts or words that are meant"
        yield Remark(Level.INFO, "vague", message, path)


DEFAULT_BUDGET = 4000
"""Tokens. Longer policies are followed less well, and cost more."""


class TokenCounter:
    """Counts the tokens of a prompt as ``model`` would, chat template included; estimates without a model.

    ``exact`` says which. ``context`` is the most tokens that the model takes, where it is known.
    Only a local folder, or the packaged pico, has a tokenizer here: nothing is fetched to count.
    Raises ConfigurationError for anything else, and MissingExtraError without transformers.
    """

    def __init__(self, model: str | None = None) -> None:
        self.model = model
        self.exact = model is not None
        self.context: int | None = None
        self._tokenizer: Any = None
        if model is not None:
            self._tokenizer, self.context = _load(model)

    def count(self, prompt: Prompt) -> int:
        """Tokens of the whole text before the image is added."""
        if self._tokenizer is None:
            return _estimate(transcript(prompt))
        ids = self._tokenizer(self.text(prompt), add_special_tokens=False)["input_ids"]
        return len(ids)

    def text(self, prompt: Prompt) -> str:
        """The chat as the model's own template writes it, up to where the answer is read."""
        messages = [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                    for part in message.parts
                ],
            }
            for message in prompt.messages
        ]
        try:
            written = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **prompt.template
            )
        except Exception as error:  # a template is code of the model's makers: it may raise what it likes
            raise ConfigurationError(f"the chat template of model '{self.model}' fails: {error}") from error
        return f"{written}{prompt.prefill}"


def _load(model: str) -> tuple[Any, int | None]:
    from policyguard.backends.transformers.files import find, is_local

    location = _reader(model).location
    if not is_local(location) or ("/" not in location and not Path(location).exists()):
        raise ConfigurationError(
            f"the tokenizer of '{model}' is not on this machine, and nothing is fetched to count tokens",
            hint="give the folder of a local copy, or leave --model out for an estimate",
        )
    files = find(location, name=model)
    try:
        from transformers import AutoConfig, AutoTokenizer
    except ImportError:
        raise MissingExtraError("transformers", "transformers") from None
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(files.folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(files.folder, **options)
    except Exception as error:
        raise ConfigurationError(f"the tokenizer of '{model}' cannot be loaded: {error}") from error
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return tokenizer, context if isinstance(context, int) else None


def transcript(prompt: Prompt) -> str:
    """All the texts of ``prompt``, without roles and control tokens."""
    texts = [part for message in prompt.messages for part in message.parts if isinstance(part, str)]
    return "\n".join([*texts, prompt.prefill])


def _estimate(text: str) -> int:
    """Four ASCII characters to a token, one and a half of any other script."""
    ascii_letters = sum(char.isascii() for char in text)
    return math.ceil(ascii_letters / 4 + (len(text) - ascii_letters) / 1.5)


def _reader(model: str) -> KnownModel:
    """What ``model`` stands for. Raises ConfigurationError for a sensor."""
    from policyguard.backends.registry import resolve_model

    known = resolve_model(model)
    if known.sensor is not None:
        raise ConfigurationError(
            f"'{model}' is a sensor: it reads no policy, so there is no prompt",
            hint=f"policyguard doctor --model {model} --policy FILE says what of a policy it looks at",
        )
    return known


def default_dialect(policy: ResolvedPolicy, model: str | None = None) -> Dialect:
    """How ``model`` is spoken to; without one, the dialect of the model that the policy would get."""
    from policyguard.backends.registry import DEFAULT_DIALECT
    from policyguard.dialects import get_dialect

    if model is not None:
        return get_dialect(_reader(model).dialect)
    return get_dialect("pico" if policy.world == "pictosafe" else DEFAULT_DIALECT)


def _rule_named(policy: ResolvedPolicy, message: str) -> tuple[Step, ...]:
    """The path of the rule that a dialect names first, if it names one."""
    places = {rule.id: place for place, rule in enumerate(policy.rules)}
    named = [name for name in re.findall(r"\brule '([^']+)'", message) if name in places]
    return ("rules", places[named[0]]) if named else ()


def length(policy: ResolvedPolicy, counter: TokenCounter, budget: int | None) -> Iterator[Remark]:
    """One remark if the model cannot be asked, or if the prompt is longer than its context or the budget."""
    try:
        prompts = default_dialect(policy, counter.model).render(policy)
    except ConfigurationError as error:
        # What follows, a line to an item, is said at the items too, in whichever file they stand.
        said, *items = error.message.splitlines()
        more = f" (and {len(items) - 1} more, at their own lines)" if len(items) > 1 else ""
        message = f"{said} {items[0]}{more}" if items else said
        yield Remark(Level.ERROR, "unreadable", message, _rule_named(policy, message))
        return
    tokens = max(map(counter.count, prompts))
    how = f"counted by the tokenizer of {counter.model}" if counter.exact else "estimated"
    length = f"the prompt is {tokens:,} tokens long without the image ({how})"
    if counter.context is not None and tokens >= counter.context:
        message = f"{length}, and the model takes {counter.context:,}: split the policy"
        yield Remark(Level.ERROR, "too-long", message)
    elif tokens > (limit := DEFAULT_BUDGET if budget is None else budget):
        message = f"{length}, over the budget of {limit:,}: delete what is not needed, or split the policy"
        yield Remark(Level.WARNING, "too-long", message)
