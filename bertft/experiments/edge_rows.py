"""The rows of an edge-probing run: scores and differences with intervals, mix weights, training histories."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertft.activations.vectors import CachedSubwords
from bertft.probes.edge import EdgeProbe, SubwordTask, WordTask
from bertft.probes.edge.counts import EdgeCounts, count_cells, difference, intervals, reported_labels
from bertft.records import Row


@dataclass(frozen=True)
class GroupResults:
    """The results of a group of tasks in one model. Inputs in `extra` are baselines, even if the model is not."""

    model: str
    baseline: bool
    extra: tuple[str, ...]
    results: dict[str, Any]

    def named(self, what: str) -> Iterator[Row]:
        """Yield the rows of one of the results, with the model they are of."""
        for row in self.results[what]:
            yield {"model": self.model, "baseline": self.is_baseline(row), **row}

    def is_baseline(self, row: Row) -> bool:
        """Return whether a row is of a baseline."""
        return self.baseline or row["input"] in self.extra

    def counts(self) -> Iterator[tuple[Row, EdgeCounts]]:
        """Yield the counts of each probe and split, with what they are of."""
        for row in self.named("counts"):
            counts = EdgeCounts(np.array(row.pop("sentences")), np.array(row.pop("cells")).reshape(-1, 3))
            yield row, counts

    def rows(self) -> Iterator[Row]:
        """Yield precision, recall and F1 with their intervals, and the F1 of control tasks with the selectivity."""
        controls: dict[tuple[Any, ...], float] = {}
        found = list(self.counts())
        for row, counts in found:
            if row["control"]:
                controls[_key(row)] = counts.measures["f1"]
        for row, counts in found:
            if row.pop("control"):
                continue
            sizes = {"n_targets": row.pop("n_targets"), "n_sentences": len(counts.sentences)}
            halves, ranges = counts.reference_half, intervals(counts)
            for measure, value in counts.measures.items():
                low, high = ranges[measure]
                interval = {"value": value, "low": low, "high": high, "reference_half": halves[measure]}
                yield {**row, "measure": measure, **interval, **sizes}
            if (control := controls.get(_key(row))) is not None:
                for measure, value in (("control_f1", control), ("selectivity", counts.measures["f1"] - control)):
                    yield {**row, "measure": measure, "value": value, "low": None, "high": None, **sizes}


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("task", "input", "seed", "split", "scoring"))


def named_rows(found: Sequence[GroupResults], what: str) -> list[Row]:
    """Return the rows of one of the results, of all models and groups."""
    return [row for part in found for row in part.named(what)]


def differences(found: Sequence[GroupResults]) -> Iterator[Row]:
    """Yield how far the mean F1 over seeds is from that of the first model with the same input.

    An input with which the first model is probed only as a baseline is compared with the model's first input.
    """
    probes: dict[tuple[str, bool, str, str, str, str], list[EdgeCounts]] = {}
    for part in found:
        for row, counts in part.counts():
            if not row["control"]:
                key = (part.model, row["baseline"], row["task"], row["input"], row["split"], row["scoring"])
                probes.setdefault(key, []).append(counts)
    base = next(iter(probes))[0]
    first = next(iter(probes))[3]
    for (model, baseline, task, source, split, scoring), of_seed in probes.items():
        if model == base and not baseline:
            continue
        own = probes.get((base, False, task, source, split, scoring))
        against = source if own else first
        of_base = own or probes[base, False, task, first, split, scoring]
        value, low, high = difference(of_base, of_seed)
        yield {
            "model": model,
            "baseline": baseline,
            "task": task,
            "input": source,
            "seed": None,
            "split": split,
            "scoring": scoring,
            "measure": "f1_difference",
            "value": value,
            "low": low,
            "high": high,
            "against": f"{base}, {against}",
            "n_sentences": len(of_seed[0].sentences),
        }


def counted(what: Row, predicted: NDArray[np.bool_], task: SubwordTask) -> Iterator[Row]:
    """Yield the counts over all labels, and over those that Tenney et al. report if these are fewer."""
    reported = reported_labels(task.name, task.labels)
    for scoring, labels in {"all": None, "reported": reported}.items():
        if scoring == "all" or labels is not None:
            counts = count_cells(predicted, task, labels)
            yield {
                **what,
                "scoring": scoring,
                "n_targets": len(task),
                "sentences": counts.sentences.tolist(),
                "cells": counts.cells.ravel().tolist(),
            }


def by_label(what: Row, predicted: NDArray[np.bool_], task: SubwordTask) -> Iterator[Row]:
    """Yield precision, recall and F1 of each label that is gold or was predicted."""
    sums = [counts.sum(axis=0).tolist() for counts in (predicted & task.gold, predicted, task.gold)]
    for label, right, found, gold in zip(task.labels, *sums, strict=True):
        if found or gold:
            yield {
                **what,
                "label": label,
                "precision": right / found if found else math.nan,
                "recall": right / gold if gold else math.nan,
                "f1": 2 * right / (found + gold),
                "gold": gold,
                "marked": found,
            }


def norms_by_layer(states: CachedSubwords) -> dict[int, float]:
    """Return the mean norm of the vectors of each layer, over all subwords."""
    norms = {}
    for layer in states.layers:
        rows = states.layer(layer)
        parts = [rows[first : first + 4096].astype(np.float32) for first in range(0, len(rows), 4096)]
        norms[layer] = sum(float(np.linalg.norm(part, axis=1).sum()) for part in parts) / len(rows)
    return norms


def mix(task: str, seed: int, probe: EdgeProbe, norms: dict[int, float]) -> Row:
    """Return the weight of each layer in the mix of a probe, and its share if the norms of the vectors are included."""
    weights = np.array(probe.mix_weights)
    shares = weights * [norms[layer] for layer in probe.input.layers]
    shares /= shares.sum()
    return {
        "task": task,
        "input": probe.input.name,
        "seed": seed,
        "layers": list(probe.input.layers),
        "weights": weights.tolist(),
        "shares": shares.tolist(),
        "center": float(weights @ probe.input.layers),
        "center_of_shares": float(shares @ probe.input.layers),
    }


def history(control: bool, probe: EdgeProbe) -> Row:
    """Return how a probe was trained."""
    return {
        "task": probe.task,
        "control": control,
        "input": probe.input.name,
        "seed": probe.seed,
        "steps": probe.steps,
        "best": probe.best + 1,
        "dev_f1": list(probe.dev_f1),
        "dev_losses": list(probe.dev_losses),
        "train_losses": list(probe.train_losses),
        "learning_rates": list(probe.learning_rates),
    }


def sizes(splits: Mapping[str, WordTask]) -> dict[str, Any]:
    """Return how many labels, spans a target, targets and sentences a task has."""
    first = next(iter(splits.values()))
    of_splits = {split: {"targets": len(task), "sentences": len(task.sentences)} for split, task in splits.items()}
    return {"labels": len(first.labels), "spans": len(first.spans), **of_splits}
