"""Predictions of trained edge probes: the probabilities of labels, and the cost of the true labels in nats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.errors import DataError, OptionError
from bertft.probes.edge import model as edge_model
from bertft.probes.edge.feed import Feed, Reader, cut
from bertft.probes.edge.model import BatchTensors, Input, Kind
from bertft.probes.edge.targets import IndexedTask, SubwordStates, SubwordTask
from bertft.probes.edge.training import EVALUATION_SENTENCES, EdgeProbe
from bertft.probes.threads import one_thread


def predict_edges(
    probes: Sequence[EdgeProbe], task: SubwordTask, states: SubwordStates, *, device: str | torch.device = "cpu"
) -> NDArray[np.float32]:
    """Return the probability of each label of each target by each probe, (probes, T, K), in the task's order.

    Raises `DataError` if the probes are of a task with other labels, and `OptionError` if they read layers that the
    states do not have.

    >>> predict_edges(probes, test, states).shape  # doctest: +SKIP
    (3, 25094, 50)
    """
    found = np.empty((len(probes), len(task), len(task.labels)), dtype=np.float32)
    for chosen, batch, logits in _logits(probes, task, states, device):
        softmax = probes[chosen[0]].loss == "softmax"
        found[np.ix_(np.array(chosen), batch.targets)] = (
            (logits.softmax(dim=2) if softmax else logits.sigmoid()).cpu().numpy()
        )
    return found


def target_nats(
    probes: Sequence[EdgeProbe], task: SubwordTask, states: SubwordStates, *, device: str | torch.device = "cpu"
) -> NDArray[np.float64]:
    """Return the cost of the labels of each target under each probe, in nats, (probes, T), in the task's order.

    See `bertft.probes.edge.model.target_losses`. Raises as `predict_edges` does.

    >>> target_nats(probes, test, states).sum(axis=1) / np.log(2)  # doctest: +SKIP
    array([10204.1, 9932.8])
    """
    found = np.empty((len(probes), len(task)))
    for chosen, batch, logits in _logits(probes, task, states, device):
        losses = edge_model.target_losses(logits.double(), batch.gold.double(), probes[chosen[0]].loss)
        found[np.ix_(np.array(chosen), batch.targets)] = losses.cpu().numpy()
    return found


def _logits(
    probes: Sequence[EdgeProbe], task: SubwordTask, states: SubwordStates, device: str | torch.device
) -> Iterator[tuple[list[int], BatchTensors, Tensor]]:
    """Yield the logits of some of the probes, (probes, t, K), for a batch of targets, until all pairs are covered."""
    alike: dict[tuple[Kind, str], list[int]] = {}
    for place, probe in enumerate(probes):
        spans = 2 if "project2" in probe.parameters else 1
        if probe.labels != task.labels or spans != len(task.spans):
            raise DataError(
                f"the probe of {probe.task} has {len(probe.labels)} labels of targets of {spans} spans, and the "
                f"targets of {task.name} have {len(task.labels)} and {len(task.spans)}; give targets of its own task"
            )
        if any(layer not in states.layers for layer in probe.input.layers):
            raise OptionError(f"the probe of {probe.task} reads layers that these states do not have")
        sizes = ",".join(f"{name}{tuple(part.shape)}" for name, part in probe.parameters.items())
        alike.setdefault((probe.input.kind, probe.loss + sizes), []).append(place)
    if not probes:
        return
    indexed = IndexedTask(task, np.asarray(states.lengths, dtype=np.int64))
    groups = []
    for (kind, _), chosen in alike.items():
        inputs: list[Input] = [probes[place].input for place in chosen]
        stacked = {
            name: torch.stack([probes[place].parameters[name] for place in chosen]).to(device)
            for name in probes[chosen[0]].parameters
        }
        feed = Feed(
            indexed,
            edge_model.read_by(kind, inputs),
            cut(indexed.sentences, EVALUATION_SENTENCES),
            stacked["classify"].dtype,
        )
        groups.append((kind, chosen, inputs, stacked, feed))
    layers = sorted({layer for *_, feed in groups for layer in feed.layers})
    with torch.no_grad(), one_thread():
        for window in Reader(states, device).windows(indexed.sentences, layers):
            for kind, chosen, inputs, stacked, feed in groups:
                for vectors, batch in feed.take(window):
                    yield chosen, batch, edge_model.logits(stacked, edge_model.arranged(kind, inputs, vectors), batch)
