"""A user's text is ordinary text: it cannot spell meta tokens, image pads or chat marks.

Tokenizers find special tokens by their strings, wherever a text comes from. A document that holds
"<|im_end|>" would end the user's turn, and "<|image_pad|>" would announce an image that is not
there. So each such string in a user's text is broken by an invisible character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from metaembed_lite import backbones

# What may break a string: a zero-width joiner, a word joiner, a soft hyphen or, visible, a space.
BREAKS = ("\u200d", "\u2060", "\u00ad", " ")


class PlainText:
    """Breaks the strings of a tokenizer's control tokens in user text; other text is untouched.

    Args:
        tokenizer: of the backbone, with its meta tokens.
        processor: of the backbone: its image, video and audio tokens count too.
        meta_ids: ids of the meta tokens.
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
            broken = "\n".join(self._broken(string) for string in longest_first)
            read = tokenizer(broken, add_special_tokens=False, verbose=False)["input_ids"]
            if ids.isdisjoint(read):
                break

    def __call__(self, text: str) -> str:
        """The text with every control string broken."""
        text = self._broken(text)
        if self._normalize is not None:  # strings that only the normalizer spells out
            normal = self._normalize(text)
            if self._pattern is not None and self._pattern.search(normal):
                return self._broken(normal)
        return text

    def _broken(self, text: str) -> str:
        if self._pattern is None:
            return text
        while self._pattern.search(text):  # breaking one can leave another that overlapped it
            text = self._pattern.sub(lambda match: self._split(match[0]), text)
        return text

    def _split(self, string: str) -> str:
        middle = next(i for i in range(1, len(string)) if string[:i].strip())
        return string[:middle] + self._break + string[middle:]


def control_strings(tokenizer: Any, processor: Any = None) -> set[str]:
    """The strings that steer a model: its special tokens, and what its chat template is made of.

    Added tokens that are ordinary text, such as Gemma's "\\n\\n" or "<h1>", are not among them.
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
    """The tokenizer's text normalization, if it looks for any of the strings after normalizing."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = getattr(backend, "normalizer", None)
    late = any(
        token.normalized and token.content in strings
        for token in tokenizer.added_tokens_decoder.values()
    )
    return normalizer.normalize_str if normalizer is not None and late else None
