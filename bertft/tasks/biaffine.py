"""A dependency parser on top of any encoder, with biaffine scores of arcs and of their relations.

The vector of a word is the mean over its subwords in the last hidden layer of the encoder. The root of the tree is a
node with a learned vector, so that encoders without a [CLS] token can be used. Four MLPs of one layer map each word to
its vectors as a dependent and as a head, for arcs and for relations. The scores of an arc and of its relations are

    [dependent; 1] . U . head        and        [dependent; 1] . V . [head; 1]

The loss is the cross-entropy of the gold head among all nodes, plus that of the gold relation on the gold arc. In
evaluation mode the parser returns the best tree with one root, see `kernels.reference.arborescences`, and the best
relation of each of its arcs. The best heads of all words are this tree if they form a tree, which they usually do.

The config is that of the encoder, with the sizes of the parser in its field `biaffine` and the relations in `id2label`.
To transformers, a saved parser is therefore an encoder with a head, like a saved classifier: `AutoModel` loads the
encoder from it, and functions that freeze, truncate or adapt an encoder find it as `base_model`.

Source: Dozat and Manning 2017, with the sizes and the dropout of their published parser and of SuPar.
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
"""The widths of the MLPs for arcs and for relations, and the dropout of their outputs."""

IGNORED = -100
"""The label of a head or relation that is not to be learned, such as after the end of a sentence."""


@dataclass
class ParserOutput(ModelOutput):
    """The loss if heads and relations were given; in evaluation mode the trees, with -1 after the end of a sentence."""

    loss: Tensor | None = None
    heads: Tensor | None = None
    relations: Tensor | None = None


class BiaffineScorer(nn.Module):
    """Scores all arcs between the words of a batch, and all relations on given arcs."""

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
        """Draw the initial weights that do not belong to a `Linear`; the model draws the others."""
        for parameter in (self.root, self.arc, self.relation):
            nn.init.normal_(parameter, std=std)

    def nodes(self, words: Tensor) -> Tensor:
        """Return the vectors of the root and the words, (batch, words + 1, d)."""
        return torch.cat([self.root.to(words.dtype).expand(len(words), 1, -1), words], dim=1)

    def arc_scores(self, nodes: Tensor, lengths: Tensor) -> Tensor:
        """Return the score of each word with each node as its head, (batch, words, words + 1).

        A word cannot be its own head or depend on a node after the end of its sentence: these scores are -inf.
        """
        dependents = _with_one(self._view(self.arc_dependent, nodes[:, 1:]))
        scores = dependents @ self.arc @ self._view(self.arc_head, nodes).transpose(1, 2)
        heads = torch.arange(nodes.shape[1], device=nodes.device)
        beyond = heads > lengths[:, None]
        itself = heads == heads[1:, None]
        return scores.float().masked_fill(beyond[:, None] | itself, -torch.inf)

    def relation_scores(self, nodes: Tensor, heads: Tensor) -> Tensor:
        """Return the score of each relation between each word and its given head, (batch, words, relations)."""
        dependents = _with_one(self._view(self.relation_dependent, nodes[:, 1:]))
        head_views = _with_one(self._view(self.relation_head, nodes))
        chosen = head_views.gather(1, heads[..., None].expand(-1, -1, head_views.shape[-1]))
        return torch.einsum("bwx,rxy,bwy->bwr", dependents, self.relation, chosen).float()

    def _view(self, layer: nn.Linear, nodes: Tensor) -> Tensor:
        view = functional.leaky_relu(layer(nodes), negative_slope=0.1)
        # One mask for each sentence: the same dimensions are dropped for all its nodes.
        kept = functional.dropout(view.new_ones(len(view), 1, view.shape[-1]), self.dropout, self.training)
        return view * kept


class BiaffineParser(PreTrainedModel):  # type: ignore[no-untyped-call]
    """An encoder with a `BiaffineScorer`, saved and loaded like any model of transformers.

    `from_config` and `from_pretrained` take the config of an encoder whose fields `biaffine` (see `SIZES`) and
    `id2label` are set. Raises `CheckpointError` for a config without them, and for scores that are not finite.

    >>> from transformers import BertConfig
    >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 5}
    >>> config = BertConfig(**sizes, id2label={0: "nsubj", 1: "root"}, biaffine=SIZES)
    >>> parser = BiaffineParser.from_config(config).eval()
    >>> tokens = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    >>> parser(**tokens, words=torch.tensor([[1, 2, 2]])).heads.shape  # the second word has two subwords
    torch.Size([1, 2])
    """

    # The encoder decides how attention is computed, so this class declares support for every implementation.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True

    def __init__(self, config: Any) -> None:
        sizes = getattr(config, "biaffine", None)
        if not sizes:
            raise CheckpointError(
                f"this {config.model_type} is not a parser: its config has no field `biaffine`; give a folder that "
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
        """Return a parser with random weights from torch's generator."""
        parser: BiaffineParser = cls._from_config(config, **settings)  # type: ignore[no-untyped-call]
        return parser

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, source: str | os.PathLike[str], *, config: Any = None, **settings: Any
    ) -> BiaffineParser:
        """Load a parser from a folder that `save_pretrained` wrote."""
        # The class of the config is that of the encoder, which only the file names.
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

        words: (batch, tokens), the number of the word that each token belongs to, from 1; 0 for special tokens and
            padding. Every word has at least one token.
        head_labels, relation_labels: (batch, words), what is to be learned: the number of the head, 0 for the root, and
            the index of the relation in the config; `IGNORED` if there is none.
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
    """Return the fields to add to the config of an encoder for a parser that knows some relations.

    >>> biaffine_settings(["nsubj", "root"], dropout=0.1)["biaffine"]
    {'arc_size': 500, 'relation_size': 100, 'dropout': 0.1}
    """
    return {
        "id2label": dict(enumerate(relations)),
        "label2id": {relation: index for index, relation in enumerate(relations)},
        "biaffine": {**SIZES, **sizes},
    }


def _means(hidden: Tensor, words: Tensor, longest: int) -> Tensor:
    """Return the mean of the subwords of each word, (batch, words, d)."""
    numbers = torch.arange(1, longest + 1, device=words.device)
    # A product, since a GPU adds scattered rows in no fixed order.
    members = (words[:, None] == numbers[:, None]).to(hidden.dtype)
    return members @ hidden / members.sum(dim=-1, keepdim=True).clamp(min=1)


def _with_one(vectors: Tensor) -> Tensor:
    return torch.cat([vectors, torch.ones_like(vectors[..., :1])], dim=-1)


def _cross_entropy(scores: Tensor, gold: Tensor) -> Tensor:
    """Return the mean over the words that have a gold label, or 0 if none has."""
    losses = functional.cross_entropy(scores.flatten(0, 1), gold.flatten(), ignore_index=IGNORED, reduction="sum")
    return losses / (gold != IGNORED).sum().clamp(min=1)


def _trees(arc_scores: Tensor, lengths: Tensor) -> Tensor:
    """Return the heads of the best tree with one root of each sentence, (batch, words), on the device of the scores."""
    scores = arc_scores.detach().cpu().contiguous().numpy()
    try:
        heads = kernels.select("cpu").arborescences(scores, lengths.cpu().numpy())
    except ValueError as error:
        raise CheckpointError(
            f"no tree can be built from the scores of the parser ({error}); its weights are damaged, or training "
            "diverged: lower the learning rate"
        ) from error
    return torch.as_tensor(heads, dtype=torch.long, device=arc_scores.device)
