"""pico's tokenizer and chat template: every word of the world is one token, the rest falls back to bytes.

There are no merges. A byte-level BPE with ``ignore_merges`` looks a whole word up in its vocabulary first, so
the vocabulary *is* the list of words (with their leading space), and an unknown word is spelled in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from policyguard.pictosafe.world import GROUP_NAMES, NAMES, Context

KEYS = tuple(" " + letter for letter in "ABCDEFGHI")
LABELS = (" safe", " unsafe", " undecided")
CONTEXT_WORDS: dict[Context, tuple[str, ...]] = {
    "framed": (" framed", " exhibited", " museum", " exhibits"),
    "prohibited": (" prohibited", " banned", " prohibition", " signs", " barred"),
}
WORDS = (
    *LABELS, *KEYS, " no", " fine", *CONTEXT_WORDS["framed"], *CONTEXT_WORDS["prohibited"],
    " exempt", " outside", " background",
    " any", " all", " every", " a", " an", " the", " pictures", " images", " of",
    "system", "user", "assistant",
)  # fmt: skip
SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
END, PAD, IMAGE = "<|im_end|>", "<|endoftext|>", "<|image_pad|>"

CHAT_TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{ message.content }}{%- else %}"
    "{%- for part in message.content %}"
    "{%- if part.type in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif 'text' in part %}{{ part.text }}{%- endif %}{%- endfor %}{%- endif %}{{ '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Language:
    """The words of which lists about a picture, and the answers to them, are made."""

    labels: tuple[str, ...] = LABELS
    """Nothing listed is there; something is; the picture is none of this world."""
    keys: tuple[str, ...] = KEYS
    listed: str = " no"
    excused: str = " fine"


def build_tokenizer(extra: tuple[str, ...] = ()) -> Any:
    """A ``PreTrainedTokenizerFast``; the same ids in every process, because nothing is trained.

    ``extra`` words come last, so that they change no other word's id.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*WORDS, *(" " + name for name in (*NAMES, *GROUP_NAMES)), *extra]
    entries = [*SPECIALS, *alphabet, *(word.replace(" ", "Ġ") for word in words)]
    vocabulary = {entry: index for index, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[s for s in SPECIALS if s not in (END, PAD)],
        model_max_length=2048,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    for word in words:
        if len(fast.encode(word, add_special_tokens=False)) != 1:
            raise ValueError(f"{word!r} is not a single token")
    return fast


@dataclass(frozen=True)
class Vocabulary:
    """Token ids by their job. The chat template gives ``prefix + policy + before + 36 images + after``."""

    tokenizer: Any
    language: Language = field(default_factory=Language)
    names: tuple[int, ...] = field(init=False)
    groups: tuple[int, ...] = field(init=False)
    labels: tuple[int, ...] = field(init=False)
    keys: tuple[int, ...] = field(init=False)
    prefix: tuple[int, ...] = field(init=False)
    before: tuple[int, ...] = field(init=False)
    after: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        def put(name: str, value: tuple[int, ...]) -> None:
            object.__setattr__(self, name, value)

        put("names", tuple(self.id(" " + name) for name in NAMES))
        put("groups", tuple(self.id(" " + name) for name in GROUP_NAMES))
        put("labels", tuple(self.id(label) for label in self.language.labels))
        put("keys", tuple(self.id(key) for key in self.language.keys))
        put("prefix", self.ids("<|im_start|>system\n"))
        put("before", self.ids("<|im_end|>\n<|im_start|>user\n<|vision_start|>"))
        put("after", self.ids("<|vision_end|><|im_end|>\n<|im_start|>assistant\n"))

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def id(self, word: str) -> int:
        """Raises ValueError for a word that the tokenizer does not have."""
        ids = self.ids(word)
        if len(ids) != 1:
            raise ValueError(f"{word!r} is {len(ids)} tokens: this tokenizer was built without that word")
        return ids[0]
