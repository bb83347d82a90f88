"""The rows of an edge-probing run: scores, differences with intervals, mix weights, training histories."""

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
class _Found:
    """The results of a model and a group of tasks, under the model's name; `alone` are inputs that are floors."""

    model: str
    floor: bool
    alone: tuple[str, ...]
    results: dict[str, Any]

    def named(self, what: str) -> Iterator[Row]:
        """Some of the results as rows."""
        for row in self.results[what]:
            yield {"model": self.model, "baseline": self.is_floor(row), **row}

    def is_floor(self, row: Row) -> bool:
        return self.floor or row["input"] in self.alone

    def counts(self) -> Iterator[tuple[Row, EdgeCounts]]:
        for row in self.named("counts"):
            counts = EdgeCounts(np.array(row.pop("sentences")), np.array(row.pop("cells")).reshape(-1, 3))
            yield row, counts

    def rows(self) -> Iterator[Row]:
        """Precision, recall and F1 with their intervals; of controls F1, and what the task's is above it."""
        controls: dict[tuple[Any, ...], float] = {}
        counted = list(self.counts())
        for row, counts in counted:
            if row["control"]:
                controls[_key(row)] = counts.measures["f1"]
        for row, counts in counted:
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


def _differences(found: Sequence[_Found]) -> Iterator[Row]:
    """How far the mean F1 over seeds is from the first model's, by the same input; floors of another from its first."""
    probes: dict[tuple[str, bool, str, str, str, str], list[EdgeCounts]] = {}
    for part in found:
        for row, counts in part.counts():
            if not row["control"]:
                key = (part.model, row["baseline"], row["task"], row["input"], row["split"], row["scoring"])
                probes.setdefault(key, []).append(counts)
    base = next(iter(probes))[0]
    first = next(iter(probes))[3]
    for (model, floor, task, source, split, scoring), of_seed in probes.items():
        if model == base and not floor:
            continue
        own = probes.get((base, False, task, source, split, scoring))
        against = source if own else first
        of_base = own or probes[base, False, task, first, split, scoring]
        value, low, high = difference(of_base, of_seed)
        yield {
            "model": model,
            "baseline": floor,
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


def _counted(what: Row, marked: NDArray[np.bool_], task: SubwordTask) -> Iterator[Row]:
    """Counts of all labels, and of those that Tenney et al. report where that is not all."""
    reported = reported_labels(task.name, task.labels)
    for scoring, labels in {"all": None, "reported": reported}.items():
        if scoring == "all" or labels is not None:
            counts = count_cells(marked, task, labels)
            yield {
                **what,
                "scoring": scoring,
                "n_targets": len(task),
                "sentences": counts.sentences.tolist(),
                "cells": counts.cells.ravel().tolist(),
            }


def _by_label(what: Row, marked: NDArray[np.bool_], task: SubwordTask) -> Iterator[Row]:
    """Precision, recall and F1 of each label that is gold or was marked."""
    sums = [counts.sum(axis=0).tolist() for counts in (marked & task.gold, marked, task.gold)]
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


def _norms(states: CachedSubwords) -> dict[int, float]:
    """The mean length of a vector by layer, over all pieces."""
    norms = {}
    for layer in states.layers:
        rows = states.layer(layer)
        parts = [rows[first : first + 4096].astype(np.float32) for first in range(0, len(rows), 4096)]
        norms[layer] = sum(float(np.linalg.norm(part, axis=1).sum()) for part in parts) / len(rows)
    return norms


def _mix(task: str, seed: int, probe: EdgeProbe, norms: dict[int, float]) -> Row:
    """What a probe mixes: the weight of each layer, and its share once the lengths of vectors are counted in."""
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


def _history(control: bool, probe: EdgeProbe) -> Row:
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


def _sizes(splits: Mapping[str, WordTask]) -> dict[str, Any]:
    first = next(iter(splits.values()))
    sizes = {split: {"targets": len(task), "sentences": len(task.sentences)} for split, task in splits.items()}
    return {"labels": len(first.labels), "spans": len(first.spans), **sizes}
