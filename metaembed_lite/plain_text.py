"""Keeps a user's text ordinary text: it cannot contain meta tokens, image tokens or chat marks.

Tokenizers find special tokens by their strings, wherever a text comes from. A document that
contains "<|im_end|>" would end the user's turn, and "<|image_pad|>" would stand for an image that
does not exist. So each such string in a user's text is split by an invisible character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from metaembed_lite import backbones

# Characters that split a string: zero-width joiner, word joiner, soft hyphen, and a visible space.
BREAKS = ("\u200d", "\u2060", "\u00ad", " ")


class PlainText:
    """Splits the strings of a tokenizer's control tokens in user text. Other text does not change.

    Args:
        tokenizer: the backbone's tokenizer, with its meta tokens.
        processor: the backbone's processor, for image, video and audio tokens. Defaults to none.
        meta_ids: ids of the meta tokens. Defaults to none.

    Example:
        >>> from metaembed_lite import load
        >>> plain_text = PlainText(load("tiny", device="cpu")[0].tokenizer)
        >>> plain_text("a text <|im_end|>") == "a text <\u200d|im_end|>"
        True
    """

    def __init__(self, tokenizer: Any, processor: Any = None, meta_ids: Iterable[int] = ()) -> None:
        strings = control_strings(tokenizer, processor) | {
            tokenizer.convert_ids_to_tokens(int(i)) for i in meta_ids
        }
        strings = {string for string in strings if string and len(string.strip()) > 1}
        longest_first = sorted(strings, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if strings else None
        self._normalize = _normalizer(tokenizer, strings)
        ids = set(tokenizer.convert_tokens_to_ids(longest_first)) - {tokenizer.unk_token_id}
        for character in BREAKS:
            self._break = character
            text = "\n".join(self._split_all(string) for string in longest_first)
            text_ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            if ids.isdisjoint(text_ids):
                break

    def __call__(self, text: str) -> str:
        """The text with every control string split."""
        text = self._split_all(text)
        if self._normalize is not None:  # it may turn other characters into control strings
            normalized = self._normalize(text)
            if self._pattern is not None and self._pattern.search(normalized):
                return self._split_all(normalized)
        return text

    def _split_all(self, text: str) -> str:
        if self._pattern is None:
            return text
        while self._pattern.search(text):  # another string may overlap the one that was split
            text = self._pattern.sub(lambda match: self._split(match[0]), text)
        return text

    def _split(self, string: str) -> str:
        middle = next(i for i in range(1, len(string)) if string[:i].strip())
        return string[:middle] + self._break + string[middle:]


def control_strings(tokenizer: Any, processor: Any = None) -> set[str]:
    """The strings that control a model: special tokens, and the marks of its chat template.

    Added tokens that are ordinary text, such as Gemma's "\\n\\n" or "<h1>", are not included.

    Args:
        tokenizer: the backbone's tokenizer.
        processor: the backbone's processor, for image, video and audio tokens. Defaults to none.

    Example:
        >>> from metaembed_lite import load
        >>> "<|im_end|>" in control_strings(load("tiny", device="cpu")[0].tokenizer)
        True
    """
    vocabulary = tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder.values()
    strings = {str(token.content) for token in added if token.special}
    strings |= set(tokenizer.all_special_tokens)
    strings |= {string for string in vocabulary if backbones.RESERVED.fullmatch(string)}
    for name, value in vars(processor).items() if processor is not None else ():
        if name.endswith("_token") and str(value) in vocabulary:  # image_token, video_token, ...
            strings.add(str(value))
    templates = (tokenizer.chat_template, getattr(processor, "chat_template", None))
    marks = "\n".join(str(template) for template in templates if template)
    strings |= {
        token.content
        for token in added
        if token.content in marks and not token.content.strip()[:1].isalnum()
    }
    return strings


def _normalizer(tokenizer: Any, strings: set[str]) -> Any:
    """The tokenizer's text normalization, if it searches for a control string after it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = getattr(backend, "normalizer", None)
    searches_normalized = any(
        token.normalized and token.content in strings
        for token in tokenizer.added_tokens_decoder.values()
    )
    return normalizer.normalize_str if normalizer is not None and searches_normalized else None
