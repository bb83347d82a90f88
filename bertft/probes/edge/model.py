"""The edge probe of Tenney et al.: projection, self-attentive pooling of spans, and a small classifier.

    x_i    the input: a mix of all layers, one layer, or the concatenation of the top layer and the embeddings
    p_i    = P x_i + b                               for each subword, with one projection for each span of a target
    s      = Σ_i softmax_i(a · p_i) p_i              over the subwords of a span
    logits = V dropout(norm(tanh(U [s_1; s_2] + c))) + d

Probes of one shape on the same targets are one set of parameters with a leading axis. Each subword is projected once,
whatever the number of spans over it. Pooling is a ragged sum, so nothing is padded. The reference adds a bias to the
logits of the attention. It cancels in the softmax and is left out here.

Source: Tenney et al. 2019, *What do you learn from context?*, and the code of jiant 1.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor

from bertft.errors import OptionError
from bertft.probes.edge.targets import EdgeBatch, Indices, SpanRows, SubwordTask

Loss = Literal["sigmoid", "softmax"]
Kind = Literal["mix", "layer", "cat"]

Parameters = Mapping[str, Tensor]
"""Tensors (probes, ...) by name."""

NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Input:
    """The input of a probe: its kind, and the layers it reads, in the order in which it needs them.

    `mix` is a learned average of all layers, `top` the last layer, `layer:K` layer K, `lexical` the embeddings
    (layer 0), and `cat` the concatenation of the last layer and the embeddings.

    >>> Input.parse("cat", layers=range(7)).layers
    (6, 0)
    """

    name: str
    kind: Kind
    layers: tuple[int, ...]

    @classmethod
    def parse(cls, name: str, layers: Sequence[int]) -> Input:
        """Return the input of this name. Raises `OptionError` for an unknown input, and for a layer not in `layers`."""
        kind, _, number = name.partition(":")
        top = max(layers)
        known: dict[str, tuple[Kind, tuple[int, ...]]] = {
            "mix": ("mix", tuple(layers)),
            "top": ("layer", (top,)),
            "lexical": ("layer", (0,)),
            "cat": ("cat", (top, 0)),
        }
        if kind == "layer" and number.isdecimal():
            found: tuple[Kind, tuple[int, ...]] = ("layer", (int(number),))
        elif name in known:
            found = known[name]
        else:
            raise OptionError(f"unknown input {name!r}; choose one of {', '.join(known)}, layer:K")
        if missing := [layer for layer in found[1] if layer not in layers]:
            raise OptionError(
                f"input {name!r} needs layer {missing[0]}, and there are the layers {', '.join(map(str, layers))}"
            )
        return cls(name, *found)


@dataclass(frozen=True)
class Shape:
    """The settings that determine the sizes of a probe's parameters. Probes of one shape can be trained together."""

    kind: Kind
    layers: int
    """The number of layers that are mixed, 1 if none are."""
    width: int
    spans: int
    labels: int
    projected: int = 256
    hidden: int = 256

    @classmethod
    def of(cls, source: Input, width: int, task: SubwordTask, projected: int = 256, hidden: int = 256) -> Shape:
        layers = len(source.layers) if source.kind == "mix" else 1
        read = width * (2 if source.kind == "cat" else 1)
        return cls(source.kind, layers, read, len(task.spans), len(task.labels), projected, hidden)

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters of one probe, by name. Weights are (in, out)."""
        sizes: dict[str, tuple[int, ...]] = {}
        if self.kind == "mix":
            sizes |= {"mix": (self.layers,), "gamma": (1,)}
        for span in range(1, self.spans + 1):
            sizes |= {
                f"project{span}": (self.width, self.projected),
                f"project{span}_bias": (self.projected,),
                f"attend{span}": (self.projected,),
            }
        sizes |= {
            "hidden": (self.spans * self.projected, self.hidden),
            "hidden_bias": (self.hidden,),
            "norm": (self.hidden,),
            "norm_bias": (self.hidden,),
            "classify": (self.hidden, self.labels),
            "classify_bias": (self.labels,),
        }
        return sizes

    @property
    def places(self) -> Iterator[tuple[str, slice, tuple[int, ...]]]:
        """The name, position and shape of each parameter when those of a probe are concatenated to one vector."""
        first = 0
        for name, size in self.sizes.items():
            yield name, slice(first, first + math.prod(size)), size
            first += math.prod(size)

    def drawn(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return initial parameters of one probe, float64: uniform within 1/√inputs, as torch's linear layers."""
        drawn = {}
        for name, size in self.sizes.items():
            if name in ("gamma", "norm"):
                values = np.ones(size)
            elif name in ("mix", "norm_bias"):
                values = np.zeros(size)
            else:
                if not name.endswith("_bias"):  # a bias comes after its weights and has their bound
                    fan_in = size[0]
                values = rng.uniform(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), size)
            drawn[name] = torch.from_numpy(values)
        return drawn


def read_by(kind: Kind, inputs: Sequence[Input]) -> tuple[int, ...]:
    """Return the layers that probes of one kind read, in the order that `arranged` expects."""
    return tuple(sorted({source.layers[0] for source in inputs})) if kind == "layer" else inputs[0].layers


def arranged(kind: Kind, inputs: Sequence[Input], vectors: Tensor) -> Tensor:
    """Return the input of `logits`, given the vectors of the layers that `read_by` names, (layers, n, d)."""
    if kind == "cat":
        return torch.cat(list(vectors), dim=1).unsqueeze(0)
    if kind == "mix":
        return vectors
    layers = read_by(kind, inputs)
    places = [layers.index(source.layers[0]) for source in inputs]
    return vectors if places == list(range(len(layers))) else vectors[places]


def generator(seed: int, task: str, source: str) -> np.random.Generator:
    """Return the random generator of a probe. It depends only on the probe's seed, task and input."""
    return np.random.default_rng([seed, zlib.crc32(f"{task}/{source}".encode())])


@dataclass(frozen=True)
class BatchTensors:
    """A batch of targets, as tensors on the device of the probes."""

    targets: Indices
    spans: tuple[tuple[Tensor | None, Tensor, Tensor, Tensor], ...]
    """For each span of a target: covered rows, and the row indices, offsets and span indices of the ragged rows."""
    gold: Tensor

    @classmethod
    def of(cls, batch: EdgeBatch, device: str | torch.device, dtype: torch.dtype) -> BatchTensors:
        def moved(spans: SpanRows) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
            covered = None if spans.covered is None else torch.from_numpy(spans.covered).to(device)
            rows, offsets, span = (torch.from_numpy(a).to(device) for a in (spans.rows, spans.offsets, spans.span))
            return covered, rows, offsets, span

        gold = torch.from_numpy(batch.gold).to(device).to(dtype)
        return cls(batch.targets, tuple(map(moved, batch.spans)), gold)


class Dropout:
    """Dropout with one generator for each probe, so that the masks do not depend on the other probes."""

    def __init__(self, generators: Sequence[torch.Generator], rate: float) -> None:
        self.generators = generators
        self.keep = 1 - rate

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (probes, ...) with a share `rate` of its values set to 0 and the others divided by 1 - rate."""
        if self.keep == 1:
            return x
        mask = torch.empty(x.shape, dtype=torch.float32)
        for own, chosen in zip(mask, self.generators, strict=True):
            torch.rand(own.shape, generator=chosen, out=own)
        return x * mask.lt_(self.keep).mul_(1 / self.keep).to(x)


def logits(
    parameters: Parameters,
    vectors: Tensor,
    batch: BatchTensors,
    drop_input: Dropout | None = None,
    drop_hidden: Dropout | None = None,
) -> Tensor:
    """Return the logits of all targets, (probes, t, K).

    vectors: the rows of the batch, (layers, n, d) for a mix, otherwise (probes or 1, n, d).
    """
    x = mixed(parameters, vectors) if "mix" in parameters else vectors
    probes = len(parameters["classify"])
    x = x.expand(probes, *x.shape[1:])
    if drop_input is not None:
        x = drop_input(x)
    pooled = []
    for number, (covered, rows, offsets, span) in enumerate(batch.spans, 1):
        own = x if covered is None else x.index_select(1, covered)
        projected = _linear(own, parameters, f"project{number}")
        attention = _each(torch.mv, projected, parameters[f"attend{number}"])
        weights = ragged_softmax(attention.index_select(1, rows), span, len(offsets))
        pooled.append(_ragged_sum(projected, weights, rows, offsets))
    hidden = _each(torch.tanh, _linear(torch.cat(pooled, dim=2), parameters, "hidden"))
    hidden = F.layer_norm(hidden, hidden.shape[-1:], eps=NORM_EPSILON)
    hidden = torch.addcmul(parameters["norm_bias"].unsqueeze(1), hidden, parameters["norm"].unsqueeze(1))
    if drop_hidden is not None:
        hidden = drop_hidden(hidden)
    return _linear(hidden, parameters, "classify")


def mix_weights(parameters: Parameters) -> Tensor:
    """Return the weight of each layer in a mix, (probes, layers). The weights of a probe sum to gamma."""
    return torch.softmax(parameters["mix"], dim=1) * parameters["gamma"]


def mixed(parameters: Parameters, vectors: Tensor) -> Tensor:
    """Return the mix of the layers (layers, n, d) by each probe, (probes, n, d)."""
    flat = vectors.flatten(1)
    return _each(lambda weights: weights @ flat, mix_weights(parameters)).view(-1, *vectors.shape[1:])


def ragged_softmax(values: Tensor, span: Tensor, spans: int) -> Tensor:
    """Return the softmax of ragged values (probes, m) within each span. `span` (m,) is the index of each value's span.

    >>> ragged_softmax(torch.zeros(1, 3), torch.tensor([0, 1, 1]), 2).tolist()
    [[1.0, 0.5, 0.5]]
    """
    with torch.no_grad():
        largest = values.new_full((len(values), spans), -math.inf)
        largest.scatter_reduce_(1, span.expand_as(values), values, "amax")
    powers = _each(torch.exp, values - largest.index_select(1, span))
    total = powers.new_zeros((len(values), spans)).index_add(1, span, powers)
    return powers / total.index_select(1, span)


def _ragged_sum(rows: Tensor, weights: Tensor, places: Tensor, offsets: Tensor) -> Tensor:
    """Return weighted sums of rows (probes, n, d) over ragged row indices `places` (m,), (probes, spans, d)."""
    return _each(
        lambda own, shares: F.embedding_bag(places, own, offsets, mode="sum", per_sample_weights=shares), rows, weights
    )


def _each(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Apply a function to the tensors of each probe separately, where rounding would always depend on the others.

    Exponentials of the last few numbers of an array differ in a bit from those of the others. Products with one row
    or column are summed in another order than those with several, and so are the gradients of an embedding bag. Other
    products may also round differently, on some processors and for some sizes.
    """
    return torch.stack([function(*own) for own in zip(*tensors, strict=True)])


def _linear(x: Tensor, parameters: Parameters, name: str) -> Tensor:
    return torch.baddbmm(parameters[f"{name}_bias"].unsqueeze(1), x, parameters[name])


def target_losses(found: Tensor, gold: Tensor, loss: Loss) -> Tensor:
    """Return the loss of each target in nats, (probes, t), from logits (probes, t, K) and gold labels (t, K).

    `sigmoid`: the sum of K binary cross-entropies. `softmax`: the cross-entropy of the one label of the target.
    """

    def cost(own: Tensor) -> Tensor:
        if loss == "softmax":
            return -(torch.log_softmax(own, dim=1) * gold).sum(dim=1)
        return F.binary_cross_entropy_with_logits(own, gold, reduction="none").sum(dim=1)

    return _each(cost, found)


def decide(found: Tensor, loss: Loss) -> Tensor:
    """Return which labels are predicted, (..., K) bool.

    `sigmoid`: those with a probability of at least one half. `softmax`: the most probable one.
    """
    if loss == "softmax":
        return F.one_hot(found.argmax(dim=-1), found.shape[-1]).bool()
    return found >= 0
