"""The distances and depths that trained structural probes predict, and their scores against the gold trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft import kernels
from bertft.probes.structural.evaluation import evaluate_depths, evaluate_distances
from bertft.probes.structural.examples import Examples, GoldBatch, GoldTensors, read_batches
from bertft.probes.structural.losses import squared_distances
from bertft.probes.structural.punctuation import check_preset, keep_masks
from bertft.probes.structural.training import Evaluation, Kind, Probe
from bertft.probes.threads import one_thread


def predict(
    probes: Sequence[Probe],
    examples: Examples,
    sentences: Sequence[NDArray[np.int64]] | None = None,
    *,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[GoldBatch, list[NDArray[np.float32]]]]:
    """Yield, batch by batch, the gold trees and the predictions of each probe: distances (s, n, n) or depths (s, n).

    sentences: the batches to read, by default those of all sentences that have vectors.
    """
    for gold, predicted in _predicted(probes, examples, sentences, device):
        yield gold.batch, [values.cpu().numpy() for values in predicted]


def evaluate_probes(
    probes: Sequence[Probe], examples: Examples, preset: str = "paper", *, device: str | torch.device = "cpu"
) -> list[Evaluation]:
    """Return the evaluation of each probe over all sentences that have vectors.

    See `evaluate_distances` and `evaluate_depths` for the measures.
    """
    results: list[Evaluation | None] = [None] * len(probes)
    with one_thread():
        for on_device, predicted in _predicted(probes, examples, None, device):
            # Predictions on a GPU stay there, with the gold values: `evaluate_distances` picks the faster device.
            gold = replace(on_device.batch, distances=on_device.distances, depths=on_device.depths)
            for place, (probe, values) in enumerate(zip(probes, predicted, strict=True)):
                found, so_far = evaluate_batch(probe.kind, values, gold, preset), results[place]
                results[place] = found if so_far is None else so_far.merge(found)  # type: ignore[arg-type]
    return [result for result in results if result is not None]


def evaluate_batch(kind: Kind, predicted: Any, gold: GoldBatch, preset: str) -> Evaluation:
    """Return the evaluation of one kind of prediction on one batch, by the preset's punctuation and gold edges.

    Predictions and gold values are on one device, as NumPy arrays or as tensors.
    """
    keep = _keep(gold, preset)
    if kind == "depth":
        return evaluate_depths(predicted, gold.depths, gold.lengths, keep, preset)
    heads = gold.heads if preset == "today" else None
    return evaluate_distances(predicted, gold.distances, gold.lengths, keep, preset, heads)


def spanning_edges(distances: NDArray[np.float32], gold: GoldBatch, preset: str) -> list[tuple[tuple[int, int], ...]]:
    """Return the edges of each sentence's predicted tree, between the words that the preset counts, from index 0."""
    parents = kernels.select("cpu").spanning_trees(distances, gold.lengths, _keep(gold, preset))
    return [tuple((word, int(parent)) for word, parent in enumerate(row) if parent >= 0) for row in parents]


def _keep(gold: GoldBatch, preset: str) -> NDArray[np.bool_]:
    return keep_masks([tree.xpos if check_preset(preset) == "paper" else tree.upos for tree in gold.trees], preset)


def _predicted(
    probes: Sequence[Probe],
    examples: Examples,
    sentences: Sequence[NDArray[np.int64]] | None,
    device: str | torch.device,
) -> Iterator[tuple[GoldTensors, list[Tensor]]]:
    """Yield what `predict` does, as tensors on the device."""
    plan = examples.in_order() if sentences is None else sentences
    layers = sorted({probe.layer for probe in probes})
    weights = [probe.weights.to(device, torch.float32) for probe in probes]
    for of_layer, gold in read_batches(examples, plan, layers, device, torch.float32):
        predicted = []
        for probe, weight in zip(probes, weights, strict=True):
            projected = of_layer.padded(probe.layer) @ weight
            predicted.append(
                squared_distances(projected) if probe.kind == "distance" else projected.square().sum(dim=-1)
            )
        yield gold, predicted
