"""Meta tokens: a few learnable tokens whose last hidden states are the multi-vector embedding.

The input z = [content; M_q; M_c] goes through the backbone (MetaEmbed, section 3). The last hidden
states at M_q for a query, or at M_c for a candidate, are the embedding. It has shape (R, D) for
content of any length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor

from metaembed_lite import backbones
from metaembed_lite.arguments import is_count
from metaembed_lite.budget import Budget, Budgets, budgets_within
from metaembed_lite.item_transformer import ItemTransformer

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

Layout = Literal["joint", "separate"]
DTYPES = ("float32", "bfloat16", "float16", "float64")


class MetaTokenTransformer(ItemTransformer):
    """A backbone that reads meta tokens after the content and returns only their hidden states.

    A query is read as [content; M_q]. In the ``joint`` layout of the paper, a candidate is read as
    [content; M_q; M_c]. In the ``separate`` layout it is [content; M_c], which saves R_q tokens.
    (The paper appends M_c to queries too. In a causal backbone M_q cannot see them, so they are
    left out.)

    Meta tokens are entries of the vocabulary. They take slots that the backbone leaves unused,
    where it has enough of them. They are never truncated: long content is cut instead. Each row
    becomes [content; meta tokens; padding], so the tokenizer's padding side does not matter.

    In a causal backbone, ``model.encode_query(texts, r_q=3)`` reads only three query meta tokens.
    It gives the same first three vectors for less work.

    The output has the type of ``precision``, a scalar buffer that ``model.half()``,
    ``model.double()`` and the like cast together with the modules that follow.

    Args:
        model_name_or_path: a hub id, a folder, or a bundled backbone ("tiny-vlm").
        r_q: query meta tokens R_q. Defaults to 16.
        r_c: candidate meta tokens R_c. Defaults to 64.
        layout: "joint" or "separate". Defaults to "joint".
        **kwargs: those of ``AdapterTransformer`` and of sentence-transformers' ``Transformer``.

    Raises:
        ValueError: on an unknown layout, counts that are not whole numbers from 1 up, or a type of
            weights that is not in ``DTYPES``.

    Example:
        >>> transformer = MetaTokenTransformer("tiny-vlm", r_q=2, r_c=4)
        >>> features = transformer.preprocess(["3 A1"], task="query")
        >>> transformer(features, task="query")["token_embeddings"].shape  # (B, R_q, H)
        torch.Size([1, 2, 128])
    """

    config_keys: ClassVar[list[str]] = [
        *(key for key in Transformer.config_keys if key != "unpad_inputs"), "r_q", "r_c", "layout",
    ]  # fmt: skip
    forward_kwargs: ClassVar[set[str]] = {"task", "r_q"}

    def __init__(
        self,
        model_name_or_path: str,
        *,
        r_q: int = 16,
        r_c: int = 64,
        layout: Layout = "joint",
        **kwargs: Any,
    ) -> None:
        if layout not in ("joint", "separate"):
            raise ValueError(f"layout {layout!r}: choose 'joint' (the paper's) or 'separate'")
        if not (is_count(r_q) and is_count(r_c)):
            raise ValueError(
                f"r_q={r_q!r}, r_c={r_c!r}: a model needs at least one meta token per side; use "
                "whole numbers from 1 up"
            )
        check_dtype((kwargs.get("model_kwargs") or {}).get("dtype"))
        # Meta tokens are appended to padded rows, so texts are never packed into one row.
        super().__init__(model_name_or_path, **{**kwargs, "unpad_inputs": False})
        if self.tokenizer is None:
            raise ValueError(
                f"{model_name_or_path!r} has no tokenizer, and meta tokens are entries of its "
                "vocabulary: choose a text encoder or a vision-language model"
            )
        if self.tokenizer.chat_template is None:  # PaliGemma's text goes past its processor
            self.tokenizer.chat_template = getattr(self.processor, "chat_template", None)
        self.r_q, self.r_c, self.layout = int(r_q), int(r_c), layout
        ids = claim_vocabulary(self.tokenizer, self.model, r_q, r_c)
        self.meta_ids = {"query": ids[:r_q], "document": ids[r_q:]}
        self._causal: bool | None = None
        weight = next(self.parameters())  # sentence-transformers casts what follows to its type
        self.register_buffer("precision", weight.new_zeros(()), persistent=False)

    def is_causal(self) -> bool:
        """Whether a token's state is the same whatever comes after it.

        It is measured once per model. A word is read with two meta tokens, and then with another
        last token. The states before the last token are compared.
        """
        if self._causal is None:
            self._causal = self._measure_causality()
        return self._causal

    @torch.no_grad()
    def _measure_causality(self) -> bool:
        modes = [(module, module.training) for module in self.modules()]
        self.eval()  # dropout would look like a difference
        first, *_, other = [*self.meta_ids["query"], *self.meta_ids["document"]]
        states = [self._read_states("a", [first, last])[:-1] for last in (first, other)]
        for module, training in modes:
            module.training = training
        return bool((states[0] - states[1]).norm() <= 1e-5 * states[0].norm())

    def _read_states(self, text: str, appended: list[int]) -> Tensor:
        """Last hidden states (T, H) of a text and of the tokens appended to it."""
        features = backbones.add_missing_features(
            super().preprocess([text]), self.config.model_type
        )
        features = append_tokens(features, appended)
        device = self.precision.device
        features = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in features.items()}
        return super().forward(features)["token_embeddings"][0].float()

    def appended_ids(self, task: str | None) -> list[int]:
        """The meta tokens that follow the content for a task, "query" or "document"."""
        query, document = self.meta_ids["query"], self.meta_ids["document"]
        if task == "query":
            return query
        return [*query, *document] if self.layout == "joint" else document

    def check_r_q(self, r_q: Any, task: str | None) -> int:
        """How many query meta tokens a call reads: ``r_q``, or R_q for None.

        Raises:
            ValueError: on anything but a whole number from 1 to R_q, or on a task other than
                "query". Also on fewer than R_q if the backbone's attention is not causal, because
                the vectors would differ.
        """
        if r_q is None:
            return self.r_q
        if not is_count(r_q) or r_q > self.r_q:
            raise ValueError(f"r_q={r_q!r}: use a whole number from 1 to {self.r_q}")
        if task != "query":
            raise ValueError(
                f"r_q={r_q}: only encode_query accepts it; leave it out for candidates"
            )
        if r_q < self.r_q and not self.is_causal():
            raise ValueError(
                f"r_q={r_q}: in {type(self.model).__name__} every token sees all others, so fewer "
                f"query tokens give other vectors. Encode with all {self.r_q} and keep the first "
                f"{r_q}, with token_pooling=PrefixPooling({r_q})"
            )
        return int(r_q)

    def preprocess(
        self, inputs: Any, prompt: str | None = None, *, r_q: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Features of the inputs, with the task's meta tokens appended to each row.

        Args:
            inputs: items, each a text, an image or a dict of both.
            prompt: text before each item. Defaults to none.
            r_q: read only the first r_q query meta tokens. Defaults to all of them.
            **kwargs: ``task`` ("query" or "document"), and those of ``ItemTransformer``.

        Raises:
            ValueError: as ``check_r_q``, or naming the item that cannot be read.
        """
        task = kwargs.get("task")
        r_q = self.check_r_q(r_q, task)
        features = super().preprocess(inputs, prompt=prompt, **kwargs)
        if not features:
            return features
        appended = self.appended_ids(task)
        if task == "query":
            appended = appended[:r_q]
            if r_q < self.r_q:
                features["r_q"] = r_q  # forward reads the same tokens
        features = backbones.add_missing_features(features, self.config.model_type)
        return append_tokens(features, appended)

    def forward(
        self, features: dict[str, Any], *, r_q: int | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Adds ``token_embeddings`` (B, R, H) and a mask (B, R) of ones.

        R is R_q (or ``r_q``) for queries and R_c for candidates.
        """
        task = kwargs.get("task") or features.get("task")
        r_q = features.pop("r_q", None) or r_q
        r = (r_q or self.r_q) if task == "query" else self.r_c
        lengths = features["attention_mask"].sum(dim=1)  # (B,)
        features = super().forward(features)
        hidden = features["token_embeddings"]  # (B, T, H)
        places = (lengths[:, None] - r + torch.arange(r, device=hidden.device))[..., None]
        meta = hidden.gather(1, places.expand(-1, -1, hidden.shape[2]))  # (B, T, H) -> (B, R, H)
        features["token_embeddings"] = meta.to(self.precision.dtype)
        features["attention_mask"] = torch.ones(
            hidden.shape[0], r, dtype=torch.long, device=hidden.device
        )
        features["input_ids"] = features["input_ids"].gather(1, places[..., 0])
        return features

    def infer_modalities(self, model: Any, processor: Any) -> tuple[Any, str]:
        """As sentence-transformers does, but a family in ``CHAT_TEMPLATES`` reads every kind.

        With a chat template, text, image and both are laid out by the same rule.
        """
        template = backbones.CHAT_TEMPLATES.get(model.config.model_type)
        if template is None:
            return super().infer_modalities(model, processor)
        processor.chat_template = processor.chat_template or template
        modalities, output = super().infer_modalities(model, processor)
        method = {"method": "forward", "method_output_name": "last_hidden_state"}
        kinds = ("text", "image", ("image", "text"))
        return {**dict.fromkeys(kinds, method), "message": modalities["message"]}, output

    def __repr__(self) -> str:
        adapter = backbones.describe_adapter(self.model)
        return (
            f"{type(self).__name__}({type(self.model).__name__}, r_q={self.r_q}, r_c={self.r_c}, "
            f"{self.layout!r}{f', {adapter}' if adapter else ''})"
        )


def full_budget(model: MultiVectorEncoder) -> Budget:
    """A model's full budget: its numbers of query and candidate meta tokens.

    Raises:
        ValueError: if the model was not built with meta tokens.

    Example:
        >>> from metaembed_lite import load
        >>> full_budget(load("tiny", device="cpu"))
        Budget(r_q=8, r_c=16)
    """
    if not isinstance(model[0], MetaTokenTransformer):
        raise ValueError(
            f"the model's first module is {type(model[0]).__name__}, not MetaTokenTransformer: it "
            "has no meta tokens and so no budget; make one with build() or load()"
        )
    return Budget(model[0].r_q, model[0].r_c)


def choose_budgets(model: MultiVectorEncoder, budgets: Budgets | None = None) -> tuple[Budget, ...]:
    """The budgets as given, if the model can meet each of them.

    Args:
        model: from ``build`` or ``load``.
        budgets: a list, or a single budget. Defaults to those of the paper that the model can
            meet, and its full budget.

    Raises:
        ValueError: on an empty list, on what is not a budget, or on one that needs more meta
            tokens.

    Example:
        >>> from metaembed_lite import load
        >>> [str(budget) for budget in choose_budgets(load("tiny", device="cpu"))]
        ['(1, 1)', '(2, 4)', '(4, 8)', '(8, 16)']
    """
    return budgets_within(full_budget(model), budgets)


def check_dtype(dtype: Any) -> None:
    """Check a type of weights: a name in ``DTYPES``, or torch's type. "auto" and None are accepted.

    Raises:
        ValueError: on any other.

    Example:
        >>> check_dtype("bfloat16")
    """
    if dtype is not None and str(dtype).removeprefix("torch.") not in (*DTYPES, "auto"):
        raise ValueError(f"dtype={dtype!r}: choose from {', '.join(DTYPES)}, or 'auto'")


def claim_vocabulary(tokenizer: Any, model: Any, r_q: int, r_c: int) -> list[int]:
    """Ids of R_q + R_c vocabulary entries for meta tokens: query first, then candidate.

    In order of preference:

    1. the entries of a saved model
    2. entries that the backbone reserves (``[unusedN]``, ``<unusedN>``,
       ``<|reserved_special_token_N|>``)
    3. embedding rows beyond the tokenizer's vocabulary, which Qwen2.5-VL has
    4. new rows

    Raises:
        ValueError: if the tokenizer has some of the meta tokens but not all.

    Example:
        >>> transformer = MetaTokenTransformer("tiny-vlm", r_q=2, r_c=4)
        >>> ids = claim_vocabulary(transformer.tokenizer, transformer.model, r_q=2, r_c=4)
        >>> ids == transformer.meta_ids["query"] + transformer.meta_ids["document"]
        True
    """
    vocabulary = tokenizer.get_vocab()
    names = [f"<|meta_q_{i}|>" for i in range(r_q)] + [f"<|meta_c_{i}|>" for i in range(r_c)]
    present = [name for name in names if name in vocabulary]
    if len(present) == len(names):
        return [vocabulary[name] for name in names]
    if present:
        missing = next(name for name in names if name not in vocabulary)
        raise ValueError(
            f"the tokenizer has {present[-1]} but not {missing}: it belongs to a model with other "
            f"numbers than r_q={r_q}, r_c={r_c}"
        )
    reserved = sorted(i for token, i in vocabulary.items() if backbones.RESERVED.fullmatch(token))
    if len(reserved) >= len(names):
        return reserved[: len(names)]
    tokenizer.add_tokens(names, special_tokens=True)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return list(tokenizer.convert_tokens_to_ids(names))


def append_tokens(features: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    """Each row of a padded batch as [content; ids; padding], in every tensor along the sequence.

    Appended positions are attended to and count as text: 0 in ``token_type_ids`` and
    ``mm_token_type_ids``. In masks with more axes, such as Mllama's ``cross_attention_mask``
    (B, T, images, tiles), they see what the last content token sees.

    Args:
        features: those of a batch, among them ``attention_mask`` (B, T). The dict is changed in
            place.
        ids: ids of n tokens.

    Returns:
        The features, with tensors (B, T + n, ...) in place of (B, T, ...).

    Example:
        >>> features = {"input_ids": torch.tensor([[5, 6, 0]]),
        ...             "attention_mask": torch.tensor([[1, 1, 0]])}
        >>> append_tokens(features, [98, 99])["input_ids"]
        tensor([[ 5,  6, 98, 99,  0]])
    """
    mask = features["attention_mask"].bool()  # (B, T)
    batch, width = mask.shape
    lengths = mask.sum(dim=1, keepdim=True)  # (B, 1)
    content_first = torch.argsort(~mask, dim=1, stable=True)  # (B, T): content, then padding
    places = lengths + torch.arange(len(ids))  # (B, n): the appended positions
    for key, value in list(features.items()):
        if not isinstance(value, Tensor) or value.shape[:2] != mask.shape:
            continue
        tail = value.shape[2:]  # value is (B, T, *tail)
        order = content_first.view(batch, width, *[1] * len(tail)).expand(-1, -1, *tail)
        content = value.gather(1, order)  # (B, T, *tail)
        if key == "input_ids":
            new = torch.tensor(ids, dtype=value.dtype).expand(batch, -1)
        elif key == "attention_mask":
            new = torch.ones(batch, len(ids), dtype=value.dtype)
        elif tail:  # what the last content token sees
            last = content[torch.arange(batch), lengths[:, 0] - 1]  # (B, *tail)
            new = last[:, None].expand(-1, len(ids), *tail)
        else:
            new = torch.zeros(batch, len(ids), dtype=value.dtype)
        longer = torch.cat([content, torch.zeros_like(new)], dim=1)  # (B, T + n, *tail)
        if key == "input_ids":  # padding keeps its id in its new place
            padding = value[~mask][0] if (~mask).any() else torch.zeros((), dtype=value.dtype)
            longer[:, width:] = padding
        index = places.view(batch, len(ids), *[1] * len(tail)).expand(-1, -1, *tail)
        features[key] = longer.scatter(1, index, new.contiguous())
    return features
