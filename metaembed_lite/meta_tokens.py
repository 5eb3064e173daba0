"""Meta tokens: a few learnable tokens whose last hidden states are the multi-vector embedding.

z = [content; M_q; M_c] goes through the backbone; the last hidden states at M_q (for a query) or at
M_c (for a candidate) are the embedding, (R, D) whatever the content's length (MetaEmbed, sec. 3).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor

from metaembed_lite import backbones
from metaembed_lite.arguments import is_count
from metaembed_lite.item_transformer import ItemTransformer

Layout = Literal["joint", "separate"]
DTYPES = ("float32", "bfloat16", "float16", "float64")


class MetaTokenTransformer(ItemTransformer):
    """A backbone that reads meta tokens after the content and returns only their hidden states.

    A query is read as [content; M_q]. A candidate is read as [content; M_q; M_c] in the ``joint``
    layout of the paper, as [content; M_c] in the ``separate`` one, R_q tokens cheaper. (The paper
    appends M_c to queries too; in a causal backbone M_q cannot see it, so it is left out.)

    Meta tokens are vocabulary entries, in slots the backbone leaves unused where it has enough of
    them, and are never truncated: content gives way. Rows are laid out anew as content, meta
    tokens, padding, so that the tokenizer's padding side does not matter. In a causal backbone a
    query may be encoded at a smaller budget, with the same vectors: set ``read_q``.

    The output has the type of ``precision``, a scalar that is cast together with the model: by
    ``model.half()``, ``model.double()`` and the like. So it fits the modules that follow.

    Args:
        model_name_or_path: a hub id, a folder, or a shipped backbone ("tiny-vlm").
        r_q: query meta tokens R_q.
        r_c: candidate meta tokens R_c.
        layout: "joint" or "separate".
        **kwargs: those of ``AdapterTransformer`` and of sentence-transformers' ``Transformer``.

    Raises:
        ValueError: on an unknown layout, counts that are not whole numbers from 1 up, or a type of
            weights that is not among ``DTYPES``.
    """

    config_keys: ClassVar[list[str]] = [
        *(key for key in Transformer.config_keys if key != "unpad_inputs"), "r_q", "r_c", "layout",
    ]  # fmt: skip
    forward_kwargs: ClassVar[set[str]] = {"task"}

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
                f"{model_name_or_path!r} has no tokenizer; meta tokens are vocabulary entries, so "
                "choose a text encoder or a vision-language model"
            )
        if self.tokenizer.chat_template is None:  # PaliGemma's text goes past its processor
            self.tokenizer.chat_template = getattr(self.processor, "chat_template", None)
        self.r_q, self.r_c, self.layout = int(r_q), int(r_c), layout
        ids = claim_vocabulary(self.tokenizer, self.model, r_q, r_c)
        self.meta_ids = {"query": ids[:r_q], "document": ids[r_q:]}
        self._read_q = self.r_q
        first = next(self.parameters())  # sentence-transformers casts what follows to its type
        self.register_buffer("precision", first.new_zeros(()), persistent=False)

    @property
    def read_q(self) -> int:
        """How many query meta tokens are read, R_q unless it was set to less.

        Raises:
            ValueError: when set to anything but a whole number from 1 to R_q, or to less than R_q
                in a backbone whose attention is not causal, because the vectors would differ.
        """
        return self._read_q

    @read_q.setter
    def read_q(self, count: int) -> None:
        if not is_count(count) or count > self.r_q:
            raise ValueError(f"read_q={count!r}: use a whole number from 1 to r_q={self.r_q}")
        if count < self.r_q and not self.is_causal():
            raise ValueError(
                f"read_q={count}: in {type(self.model).__name__} every token sees all others, so "
                f"fewer query tokens give other vectors. Read all {self.r_q} and keep the first "
                f"{count}"
            )
        self._read_q = int(count)

    @torch.no_grad()
    def is_causal(self) -> bool:
        """Whether a token's state is the same whatever comes after it.

        It is measured: one word and two meta tokens are read twice, with another last token, and
        the states before the last token are compared.
        """
        modes = [(module, module.training) for module in self.modules()]
        self.eval()  # dropout would look like a difference
        first, *_, other = [*self.meta_ids["query"], *self.meta_ids["document"]]
        states = [self._states_of("a", [first, last])[:-1] for last in (first, other)]
        for module, training in modes:
            module.training = training
        return bool((states[0] - states[1]).norm() <= 1e-5 * states[0].norm())

    def _states_of(self, text: str, appended: list[int]) -> Tensor:
        """Last hidden states (T, H) of a text and of the tokens that are appended to it."""
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
            return query[: self.read_q]
        return [*query, *document] if self.layout == "joint" else document

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Features of the inputs with the task's meta tokens appended to each row."""
        features = super().preprocess(inputs, prompt=prompt, **kwargs)
        if not features:
            return features
        appended = self.appended_ids(kwargs.get("task"))
        return append_tokens(
            backbones.add_missing_features(features, self.config.model_type), appended
        )

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds ``token_embeddings`` (B, R, H) and a mask (B, R) of ones: R_q or R_c by task."""
        task = kwargs.get("task") or features.get("task")
        r = self.read_q if task == "query" else self.r_c
        lengths = features["attention_mask"].sum(dim=1)
        features = super().forward(features)
        hidden = features["token_embeddings"]
        where = (lengths[:, None] - r + torch.arange(r, device=hidden.device))[..., None]
        meta = hidden.gather(1, where.expand(-1, -1, hidden.shape[2]))
        features["token_embeddings"] = meta.to(self.precision.dtype)
        features["attention_mask"] = torch.ones(
            hidden.shape[0], r, dtype=torch.long, device=hidden.device
        )
        features["input_ids"] = features["input_ids"].gather(1, where[..., 0])
        return features

    def infer_modalities(self, model: Any, processor: Any) -> tuple[Any, str]:
        """As sentence-transformers does, but a family in ``CHAT_TEMPLATES`` reads every kind.

        With a chat template text, image and both are laid out by the same rule.
        """
        template = backbones.CHAT_TEMPLATES.get(model.config.model_type)
        if template is None:
            return super().infer_modalities(model, processor)
        processor.chat_template = processor.chat_template or template
        modalities, output = super().infer_modalities(model, processor)
        read = {"method": "forward", "method_output_name": "last_hidden_state"}
        kinds = ("text", "image", ("image", "text"))
        return {**dict.fromkeys(kinds, read), "message": modalities["message"]}, output

    def __repr__(self) -> str:
        adapter = backbones.describe_adapter(self.model)
        return (
            f"{type(self).__name__}({type(self.model).__name__}, r_q={self.r_q}, r_c={self.r_c}, "
            f"{self.layout!r}{f', {adapter}' if adapter else ''})"
        )


def check_dtype(dtype: Any) -> None:
    """Check a type of weights: one of ``DTYPES``, a name or torch's; "auto" and None pass.

    Raises:
        ValueError: on any other.
    """
    if dtype is not None and str(dtype).removeprefix("torch.") not in (*DTYPES, "auto"):
        raise ValueError(f"dtype={dtype!r}: choose from {', '.join(DTYPES)}, or 'auto'")


def claim_vocabulary(tokenizer: Any, model: Any, r_q: int, r_c: int) -> list[int]:
    """Ids of R_q + R_c vocabulary entries for meta tokens: query first, then candidate.

    In order of preference: the entries claimed before (a saved model), entries that the backbone
    reserves ([unusedN], <unusedN>, <|reserved_special_token_N|>), embedding rows beyond the
    tokenizer's vocabulary (Qwen2.5-VL pads it), and, last, new rows.
    """
    vocabulary = tokenizer.get_vocab()
    names = [f"<|meta_q_{i}|>" for i in range(r_q)] + [f"<|meta_c_{i}|>" for i in range(r_c)]
    known = [name for name in names if name in vocabulary]
    if len(known) == len(names):
        return [vocabulary[name] for name in names]
    if known:
        missing = next(name for name in names if name not in vocabulary)
        raise ValueError(
            f"the tokenizer has {known[-1]} and not {missing}: it belongs to a model of other "
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

    Appended positions are attended to, and are text: 0 in ``token_type_ids`` and
    ``mm_token_type_ids``. In masks with more axes, such as Mllama's ``cross_attention_mask``
    (B, T, images, tiles), they see what the last content token sees.
    """
    mask = features["attention_mask"].bool()
    batch, width = mask.shape
    lengths = mask.sum(dim=1, keepdim=True)
    content_first = torch.argsort(~mask, dim=1, stable=True)
    where = lengths + torch.arange(len(ids))  # (B, n): the appended positions
    for key, value in list(features.items()):
        if not isinstance(value, Tensor) or value.shape[:2] != mask.shape:
            continue
        tail = value.shape[2:]
        index = content_first.view(batch, width, *[1] * len(tail)).expand(-1, -1, *tail)
        rows = value.gather(1, index)
        if key == "input_ids":
            new = torch.tensor(ids, dtype=value.dtype).expand(batch, -1)
        elif key == "attention_mask":
            new = torch.ones(batch, len(ids), dtype=value.dtype)
        elif tail:
            new = rows[torch.arange(batch), lengths[:, 0] - 1][:, None].expand(-1, len(ids), *tail)
        else:
            new = torch.zeros(batch, len(ids), dtype=value.dtype)
        grown = torch.cat([rows, torch.zeros_like(new)], dim=1)
        if key == "input_ids":  # padding keeps its id, wherever it now stands
            padding = value[~mask][0] if (~mask).any() else torch.zeros((), dtype=value.dtype)
            grown[:, width:] = padding
        spread = where.view(batch, len(ids), *[1] * len(tail)).expand(-1, -1, *tail)
        features[key] = grown.scatter(1, spread, new.contiguous())
    return features
