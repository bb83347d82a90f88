"""How far the weights of tuned checkpoints are from the base's: block by block and kind by kind, without running them.

The tensors are read from their files one pair at a time, so the memory is that of the two largest.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.checkpoints.load import display_name
from bertft.checkpoints.tensor_names import Place, bodies, place_of
from bertft.checkpoints.weights import Weights, read_weights
from bertft.errors import CheckpointError, OptionError
from bertft.experiments.inputs import distinct_names
from bertft.experiments.results import Drawing, Layout, Report, Results
from bertft.experiments.run import Run
from bertft.options import several
from bertft.progress import Feedback, Progress
from bertft.records import Row
from bertft.report.rows import WHOLE

_PIECE = 1 << 15  # elements that are widened to float64 at once: they stay in the processor's cache
_SMALLEST = 1e-200  # a sum of squares below may have lost some that are subnormal


def _whole_layers(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["kind"] == WHOLE]


@dataclass(frozen=True)
class DiffResults(Results):
    """What `diff` returns: one row for each tuned model, layer and kind of tensor, and the record of the run.

    `run["tensors"]` lists for each tuned model the tensors that are missing, added, or of another shape or type.
    """

    layout: ClassVar[Layout] = Layout(("part", "layer"), ("tuned",), kept=_whole_layers, value="relative_change")

    title: ClassVar[str] = "Change of the weights"
    stem: ClassVar[str] = "weights"

    def report(self) -> Report:
        """Return the figure `weights` and a finding for each tuned model."""
        from bertft.report.diff import COLUMNS, figures, findings

        return Report(COLUMNS, figures(self.rows, self.run), findings(self.rows, self.run))

    def drawing(self) -> Drawing:
        """Return the relative change by layer, a line for each tuned model."""
        from bertft.report.drawing import Line
        from bertft.report.rows import short_names

        whole = [row for row in _whole_layers(self.rows) if row["layer"] is not None]
        names = short_names(dict.fromkeys(row["tuned"] for row in whole))
        lines = []
        for tuned, name in names.items():
            own = [row for row in whole if row["tuned"] == tuned]
            lines.append(Line(name, False, [row["layer"] for row in own], [row["relative_change"] for row in own]))
        label = "‖W′ − W‖ / ‖W‖"
        return Drawing("Change of the weights", f"from {self.rows[0]['base']}", "Layer (0 = embeddings)", label, lines)

    @property
    def equal(self) -> list[str]:
        """The tuned models all of whose tensors are equal to the base's, bit for bit, and none of which is missing."""
        return [name for name, found in self.run["tensors"].items() if found["same"]]


@dataclass
class _Sums:
    """Of the tensors of one layer and kind: their norms, the norms of their changes, and counts.

    `matrices` holds the Frobenius and the spectral norm of the change of each matrix, where they were asked for.
    """

    norms: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    matrices: list[tuple[float, float]] = field(default_factory=list)
    parameters: int = 0
    equal: int = 0

    def add(self, other: _Sums) -> None:
        self.norms += other.norms
        self.changes += other.changes
        self.matrices += other.matrices
        self.parameters += other.parameters
        self.equal += other.equal

    def row(self) -> dict[str, Any]:
        norm, change = math.hypot(*self.norms), math.hypot(*self.changes)
        relative = change / norm if norm else (math.inf if change else 0.0)
        return {
            "relative_change": relative,
            "change": change,
            "norm": norm,
            "n_tensors": len(self.norms),
            "n_equal": self.equal,
            "n_parameters": self.parameters,
        }

    def spectrum(self) -> dict[str, Any]:
        """Return the spectral norm and the stable rank of the change; nan unless it is of one matrix that changed."""
        frobenius, largest = self.matrices[0] if len(self.matrices) == 1 else (math.nan, math.nan)
        return {"spectral_norm": largest, "stable_rank": (frobenius / largest) ** 2 if largest else math.nan}


def diff(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    spectral: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> DiffResults:
    """Compare the weights W' of tuned checkpoints with the base's W: ‖W' − W‖ / ‖W‖ by layer and kind of tensor.

    base, tuned: folders of models or of adapters, or hub names. Nothing is run, and no tokenizer is needed.
    spectral: also give, for each matrix, the largest singular value of the change and its stable rank
        ‖W' − W‖² / ‖W' − W‖₂², where the norm in the numerator is Frobenius'. It takes minutes for large models.
    allow_pickle: also load weights that are pickled. Do this only if you trust their author.
    progress: called as progress(done, total, what) after every tensor.

    Layer 0 is the embeddings, layer k the k-th block; layer None holds what is in neither, such as a pooler. Heads are
    left out. Tensors of another shape, and those that one side lacks, are listed in `run["tensors"]` and enter no row.
    Tensors of another type are compared in float64.

    Raises `CheckpointError` for checkpoints without usable weights, or with no tensor in common, and `OptionError` for
    an option of a wrong type.

    >>> found = diff("bert-base-uncased", ["runs/mnli", "runs/squad"])  # doctest: +SKIP
    >>> found.rows[0]  # doctest: +SKIP
    {'base': 'bert-base-uncased', 'tuned': 'mnli', 'layer': 0, 'kind': 'all', 'relative_change': 0.0021, …}

    Source: Merchant et al. 2020, section 6, asks whether updates are concentrated in few layers. Stable rank: Rudelson
    and Vershynin 2007, section 1.
    """
    run = Run(Feedback(progress))
    sources = several("tuned", tuned, (str, os.PathLike))
    if not sources:
        raise OptionError("no tuned checkpoint was given; give at least one to compare with the base")
    given = [base, *sources]
    own, *names = distinct_names([display_name(os.fspath(source)) for source in given], given)
    rows: list[Row] = []
    tensors: dict[str, Any] = {}
    # The files are hashed while they are compared, which takes another processor about as long.
    with ThreadPoolExecutor(1) as beside:
        ours = read_weights(base, allow_pickle=allow_pickle)
        hashes = {own: beside.submit(ours.content_hash)}
        for name, source in zip(names, sources, strict=True):
            theirs = read_weights(source, allow_pickle=allow_pickle)
            hashes[name] = beside.submit(theirs.content_hash)
            with run.clock.phase("compare"):
                found, tensors[name] = _compare(ours, theirs, (own, name), spectral=spectral, run=run)
            rows += found
        with run.clock.phase("hash"):
            checkpoints = {name: hashed.result() for name, hashed in hashes.items()}
    record = run.record({"spectral": spectral, "allow_pickle": allow_pickle}, checkpoints=checkpoints, tensors=tensors)
    return DiffResults(rows, record)


def _compare(
    base: Weights, tuned: Weights, names: tuple[str, str], *, spectral: bool, run: Run
) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows of one tuned model, and its tensors that have no counterpart; `names` are of both models."""
    name = names[1]
    ours_at, theirs_at = bodies(base.tensors, tuned.tensors)
    ours, theirs = _inside(base, ours_at), _inside(tuned, theirs_at)
    common = [key for key in ours if key in theirs]
    if not common:
        raise CheckpointError(
            f"{names[0]} and {name} have no tensor in common, such as {next(iter(ours))} and {next(iter(theirs))}; "
            "give checkpoints of one architecture"
        )
    found: dict[str, Any] = {
        "missing": _alone(base, ours, theirs),
        "added": _alone(tuned, theirs, ours),
        "other shape": [],
        "other type": [],
    }
    sums: defaultdict[Place, _Sums] = defaultdict(_Sums)
    step = run.feedback.phase(name)
    undefined = []
    for done, key in enumerate(common, start=1):
        first, second = base.tensors[ours[key]](), tuned.tensors[theirs[key]]()
        if first.shape != second.shape:
            found["other shape"].append(f"{key} {list(first.shape)} → {list(second.shape)}")
        else:
            if first.dtype != second.dtype:
                found["other type"].append(f"{key} {first.dtype} → {second.dtype}".replace("torch.", ""))
            one = _sums(first, second, spectral=spectral)
            if not math.isfinite(one.norms[0] + one.changes[0]):
                undefined.append(key)
            sums[place_of(key)].add(one)
        if step is not None:
            step(done, len(common))
    found["same"] = not any(found.values()) and all(one.equal == len(one.norms) for one in sums.values())
    run.notes += _notes(name, found, undefined)
    return list(_rows(*names, sums, spectral=spectral)), found


def _inside(weights: Weights, path: str) -> dict[str, str]:
    """Return the names of the body's tensors, without and with the path of the body."""
    return {name[len(path) :]: name for name in weights.tensors if name.startswith(path)}


def _alone(weights: Weights, own: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """Return the tensors that the other side lacks, but for integers, such as the position ids that some files hold."""
    return [key for key in sorted(own) if key not in others and weights.tensors[own[key]]().is_floating_point()]


def _sums(first: Tensor, second: Tensor, *, spectral: bool) -> _Sums:
    """Return the norms of one tensor and of its change; integers that differ count as changed by their difference."""
    norm, change = _norms(first, second)
    # Only -0 and 0 differ without a change, and only values that are not finite change without a difference.
    equal = not change > 0 and first.dtype == second.dtype and torch.equal(_bits(first), _bits(second))
    if equal:
        change = 0.0
    matrices = []
    if spectral and first.ndim == 2:
        compared = not equal and math.isfinite(change)
        matrices.append((change, _largest_singular_value(first, second) if compared else change))
    return _Sums([norm], [change], matrices, first.numel(), int(equal))


def _largest_singular_value(first: Tensor, second: Tensor) -> float:
    return float(torch.linalg.matrix_norm(second.double() - first.double(), 2))


def _bits(tensor: Tensor) -> Tensor:
    """Return the bits of a tensor, so that a nan equals itself and 0 does not equal -0."""
    return tensor.contiguous().flatten().view(torch.uint8) if tensor.numel() else tensor


def _norms(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Return the Frobenius norms of a tensor and of the change to another, in float64."""
    ours, theirs = first.flatten(), second.flatten()
    buffers = torch.empty(2, min(_PIECE, max(1, ours.numel())), dtype=torch.float64)
    norms, changes = [], []
    for start in range(0, ours.numel(), _PIECE):
        piece = slice(start, start + _PIECE)
        one, two = (buffer[: len(ours[piece])] for buffer in buffers)
        one.copy_(ours[piece])
        two.copy_(theirs[piece])
        wide, change = one.numpy(), two.numpy()
        with np.errstate(invalid="ignore"):  # infinities have no difference
            np.subtract(change, wide, out=change)
        norms.append(_norm(wide))
        changes.append(_norm(change))
    return math.hypot(*norms), math.hypot(*changes)


def _norm(values: NDArray[np.float64]) -> float:
    """Return the norm of a vector, whose squares may leave the range of float64."""
    squares = float(np.einsum("i,i->", values, values))
    if _SMALLEST < squares < math.inf:
        return math.sqrt(squares)
    largest = float(np.abs(values).max())
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    scaled = values / largest
    return largest * math.sqrt(float(np.einsum("i,i->", scaled, scaled)))


def _rows(base: str, tuned: str, sums: Mapping[Place, _Sums], *, spectral: bool) -> Iterator[Row]:
    """Yield the row of each layer, followed by those of its kinds; layers ascend, other parts come last."""
    stacks = Counter(place.stack for place in sums if place.stack)
    layers: defaultdict[tuple[str, int | None], dict[str, _Sums]] = defaultdict(dict)
    for place, one in sums.items():
        kind = f"{place.stack}: {place.kind}" if place.stack and len(stacks) > 1 else place.kind
        layers[place.part, place.layer].setdefault(kind, _Sums()).add(one)
    for part, layer in sorted(layers, key=lambda at: (at[1] is None, at[1])):
        kinds = layers[part, layer]
        whole = _Sums()
        for one in kinds.values():
            whole.add(one)
        given = {"base": base, "tuned": tuned, "part": part, "layer": layer}
        nothing = {"spectral_norm": math.nan, "stable_rank": math.nan} if spectral else {}
        yield {**given, "kind": WHOLE, **whole.row(), **nothing}
        for kind, one in sorted(kinds.items()):
            yield {**given, "kind": kind, **one.row(), **(one.spectrum() if spectral else {})}


def _notes(name: str, found: Mapping[str, Any], undefined: Sequence[str]) -> Iterator[str]:
    for what, text in {
        "missing": "tensors of the base are missing",
        "added": "tensors are not in the base",
        "other shape": "tensors have another shape",
        "other type": "tensors have another type",
    }.items():
        if listed := found[what]:
            yield f"{name}: {len(listed)} {text}, such as {listed[0]}"
    if undefined:
        yield f"{name}: {len(undefined)} tensors hold values that are not finite, such as {undefined[0]}"
    if found["same"]:
        yield f"{name}: all weights equal the base's, bit for bit"
