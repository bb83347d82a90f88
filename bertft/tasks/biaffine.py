"""A dependency parser over any encoder: two biaffine scorers, of the arcs and of their relations.

The vector of a word is the mean over its pieces of the encoder's last hidden layer.  The root of the tree is a node of
its own, a learned vector, so that encoders without a [CLS] serve too.  Each word, as a dependent and as a head, passes
through an MLP of one layer, for arcs and for relations; the score of an arc is

    [dependent; 1] . U . head        and of each relation it may bear        [dependent; 1] . V . [head; 1]

The loss is the cross-entropy of the right head among all nodes, plus that of the right relation on the right arc.  In
evaluation mode the parser gives the best tree of one root, see `kernels.reference.arborescences`: each word's best head
where these make a tree, which they mostly do; and the best relation of each arc of the tree.

The config is the encoder's, with the parser's sizes in its field `biaffine` and the relations in `id2label`.  So a
saved parser is to transformers an encoder with a head, as a saved classifier is: `AutoModel` reads the encoder from it,
and whatever freezes, truncates or adapts an encoder finds it as `base_model`.

Source: Dozat and Manning 2017, with the sizes and the dropout of its authors' parser and of SuPar.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils.generic import ModelOutput

from bertft import kernels
from bertft.errors import CheckpointError

SIZES = {"arc_size": 500, "relation_size": 100, "dropout": 0.33}
"""Widths of the two pairs of MLPs, and the share of their outputs that training drops."""

IGNORED = -100
"""In place of a head or relation: there is none to learn, as beyond a sentence's end."""


@dataclass
class ParserOutput(ModelOutput):
    """The loss where heads and relations were given; in evaluation mode the trees, -1 beyond a sentence's end."""

    loss: Tensor | None = None
    heads: Tensor | None = None
    relations: Tensor | None = None


class BiaffineScorer(nn.Module):
    """The scores of all arcs between the words of a batch, and of the relations on some of them."""

    def __init__(self, hidden_size: int, relations: int, *, arc_size: int, relation_size: int, dropout: float) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.empty(hidden_size))
        self.arc_dependent = nn.Linear(hidden_size, arc_size)
        self.arc_head = nn.Linear(hidden_size, arc_size)
        self.relation_dependent = nn.Linear(hidden_size, relation_size)
        self.relation_head = nn.Linear(hidden_size, relation_size)
        self.arc = nn.Parameter(torch.empty(arc_size + 1, arc_size))
        self.relation = nn.Parameter(torch.empty(relations, relation_size + 1, relation_size + 1))
        self.dropout = dropout

    def draw(self, std: float) -> None:
        """Draw what is not a `Linear`, whose weights the model draws."""
        for parameter in (self.root, self.arc, self.relation):
            nn.init.normal_(parameter, std=std)

    def nodes(self, words: Tensor) -> Tensor:
        """The root and the words, (batch, words + 1, d), of the words' vectors."""
        return torch.cat([self.root.to(words.dtype).expand(len(words), 1, -1), words], dim=1)

    def arc_scores(self, nodes: Tensor, lengths: Tensor) -> Tensor:
        """Of each word under each node, (batch, words, words + 1); -inf under itself and beyond its sentence."""
        dependents = _with_one(self._view(self.arc_dependent, nodes[:, 1:]))
        scores = dependents @ self.arc @ self._view(self.arc_head, nodes).transpose(1, 2)
        heads = torch.arange(nodes.shape[1], device=nodes.device)
        beyond = heads > lengths[:, None]
        itself = heads == heads[1:, None]
        return scores.float().masked_fill(beyond[:, None] | itself, -torch.inf)

    def relation_scores(self, nodes: Tensor, heads: Tensor) -> Tensor:
        """Of each relation between each word and the one head named for it, (batch, words, relations)."""
        dependents = _with_one(self._view(self.relation_dependent, nodes[:, 1:]))
        head_views = _with_one(self._view(self.relation_head, nodes))
        chosen = head_views.gather(1, heads[..., None].expand(-1, -1, head_views.shape[-1]))
        return torch.einsum("bwx,rxy,bwy->bwr", dependents, self.relation, chosen).float()

    def _view(self, layer: nn.Linear, nodes: Tensor) -> Tensor:
        view = functional.leaky_relu(layer(nodes), negative_slope=0.1)
        # One mask a sentence: what a word hides, its heads hide too.
        kept = functional.dropout(view.new_ones(len(view), 1, view.shape[-1]), self.dropout, self.training)
        return view * kept


class BiaffineParser(PreTrainedModel):  # type: ignore[no-untyped-call]
    """An encoder with a `BiaffineScorer`, saved and loaded as any model of transformers.

    `from_config` and `from_pretrained` take the config of an encoder whose fields `biaffine` (see `SIZES`) and
    `id2label` are set. Raises `CheckpointError` for a config without them, and where no tree can be made of the scores.

    >>> from transformers import BertConfig
    >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 5}
    >>> config = BertConfig(**sizes, id2label={0: "nsubj", 1: "root"}, biaffine=SIZES)
    >>> parser = BiaffineParser.from_config(config).eval()
    >>> tokens = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    >>> parser(**tokens, words=torch.tensor([[1, 2, 2]])).heads.shape  # the second word has two pieces
    torch.Size([1, 2])
    """

    # What the encoder was built with holds for the whole, so this class must not choose for it.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True

    def __init__(self, config: Any) -> None:
        sizes = getattr(config, "biaffine", None)
        if not sizes:
            raise CheckpointError(
                f"this {config.model_type} is no parser: its config has no field `biaffine`; give a folder that "
                "`bertft tune dep` wrote"
            )
        encoder = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        super().__init__(config)
        self.base_model_prefix = encoder.base_model_prefix
        setattr(self, self.base_model_prefix, encoder)
        hidden_size = config.get_text_config().hidden_size
        self.scorer = BiaffineScorer(hidden_size, len(config.id2label), **sizes)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_config(cls, config: Any, **settings: Any) -> BiaffineParser:
        """A parser of a config, all its weights drawn from torch's generator."""
        parser: BiaffineParser = cls._from_config(config, **settings)  # type: ignore[no-untyped-call]
        return parser

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, source: str | os.PathLike[str], *, config: Any = None, **settings: Any
    ) -> BiaffineParser:
        """The parser of a folder that `save_pretrained` wrote."""
        # The class of the config is the encoder's, which only the file can tell.
        config = AutoConfig.from_pretrained(source) if config is None else config
        parser: BiaffineParser = super().from_pretrained(source, config=config, **settings)
        return parser

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        words: Tensor,
        head_labels: Tensor | None = None,
        relation_labels: Tensor | None = None,
    ) -> ParserOutput:
        """Score, and in evaluation mode parse, a padded batch.

        `words` (batch, tokens) is the number of the word that a token is a piece of, from 1, and 0 for special tokens
        and padding; every word has a piece.  `head_labels` and `relation_labels` (batch, words) are to be learned: the
        number of the head, 0 for the root, and of the relation as in the config; `IGNORED` where there is none.
        """
        encoder = self.base_model
        hidden = encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        lengths = words.amax(dim=1)
        nodes = self.scorer.nodes(_means(hidden, words, int(lengths.max())))
        arc_scores = self.scorer.arc_scores(nodes, lengths)
        output = ParserOutput()
        if head_labels is not None and relation_labels is not None:
            relation_scores = self.scorer.relation_scores(nodes, head_labels.clamp(min=0))
            output.loss = _cross_entropy(arc_scores, head_labels) + _cross_entropy(relation_scores, relation_labels)
        if not self.training:
            output.heads = _trees(arc_scores, lengths)
            chosen = self.scorer.relation_scores(nodes, output.heads.clamp(min=0)).argmax(dim=-1)
            output.relations = chosen.masked_fill(output.heads < 0, -1)
        return output

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, BiaffineScorer):
            module.draw(getattr(self.config.get_text_config(), "initializer_range", 0.02))
        else:
            super()._init_weights(module)  # type: ignore[no-untyped-call]


def biaffine_settings(relations: Sequence[str], **sizes: float) -> dict[str, Any]:
    """The fields that make an encoder's config a parser's, of the relations it is to know.

    >>> biaffine_settings(["nsubj", "root"], dropout=0.1)["biaffine"]
    {'arc_size': 500, 'relation_size': 100, 'dropout': 0.1}
    """
    return {
        "id2label": dict(enumerate(relations)),
        "label2id": {relation: index for index, relation in enumerate(relations)},
        "biaffine": {**SIZES, **sizes},
    }


def _means(hidden: Tensor, words: Tensor, longest: int) -> Tensor:
    """The mean of each word's pieces, (batch, words, d)."""
    numbers = torch.arange(1, longest + 1, device=words.device)
    # As a product, since a GPU adds scattered rows in no fixed order.
    pieces = (words[:, None] == numbers[:, None]).to(hidden.dtype)
    return pieces @ hidden / pieces.sum(dim=-1, keepdim=True).clamp(min=1)


def _with_one(vectors: Tensor) -> Tensor:
    return torch.cat([vectors, torch.ones_like(vectors[..., :1])], dim=-1)


def _cross_entropy(scores: Tensor, gold: Tensor) -> Tensor:
    """The mean over the words that have a gold answer, 0 where none has."""
    losses = functional.cross_entropy(scores.flatten(0, 1), gold.flatten(), ignore_index=IGNORED, reduction="sum")
    return losses / (gold != IGNORED).sum().clamp(min=1)


def _trees(arc_scores: Tensor, lengths: Tensor) -> Tensor:
    """The heads of the best tree of one root of each sentence, (batch, words), on the scores' device."""
    scores = arc_scores.detach().cpu().contiguous().numpy()
    try:
        heads = kernels.select("cpu").arborescences(scores, lengths.cpu().numpy())
    except ValueError as error:
        raise CheckpointError(
            f"the parser's scores make no tree ({error}); its weights are damaged, or training ran away: "
            "lower the learning rate"
        ) from error
    return torch.as_tensor(heads, dtype=torch.long, device=arc_scores.device)
