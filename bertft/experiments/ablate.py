"""How many layers a task needs: fine-tuning with more and more layers frozen, and of models cut shorter and shorter.

A sweep is a table of cells, one run of `bertft.tune` each, under `out/TASK/seed-N/CELL`: `untouched`, with
nothing frozen and nothing cut, `freeze-K` and `truncate-K`. A cell that is finished is not run again, one that was
killed is taken up where it was, and both only with the options they began with. Sweeps of several tasks can share
`out`: their rows then stand in one record, and their lines in one picture.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertft.checkpoints.anatomy import block_stack
from bertft.checkpoints.edit import POOLERS
from bertft.errors import BertftError, OptionError
from bertft.experiments.inputs import Source, loaded
from bertft.experiments.run import Clock, same_run, versions
from bertft.experiments.tune import recipe_of, tune
from bertft.files import require_writable
from bertft.options import integer
from bertft.progress import Progress, Say
from bertft.records import Row
from bertft.tasks import named_task

Cells = str | int | Iterable[int] | None

KEEP = {"all": (), "best": ("last",), "none": ("last", "best")}
"""Which models of a finished cell stay, and what is deleted of it."""

KEPT = {
    "all": "the best and the last model of each cell",
    "best": "the best model of each cell",
    "none": "metrics alone: the models of finished cells are deleted",
}
"""The same in words."""

UNTOUCHED = "untouched"
RECORD, OPTIONS = "ablation.json", "options.json"
_RANGE = re.compile(r"\s*(-?\d+)\s*(?:-\s*(\d+)\s*)?")


@dataclass(frozen=True)
class Ablated:
    """What `ablate` found: one row for each task, kind, k, seed and metric, and a record of the run."""

    rows: list[Row]
    run: dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A sweep over a model of some depth: its k from `least` to `most`, and the k that changes nothing."""

    name: str
    least: int
    most: int
    untouched: int
    advice: str


def ablate(
    task: str,
    model: Source,
    train: str | os.PathLike[str],
    dev: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    freeze: Cells = None,
    truncate: Cells = None,
    pooler: str = "keep",
    seeds: Sequence[int] = (1,),
    keep: str = "best",
    preset: str = "paper",
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    limit: int | None = None,
    dev_limit: int | None = None,
    device: str = "auto",
    allow_pickle: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Ablated:
    """Fine-tune a checkpoint with k layers frozen, or cut down to k, for each k and seed that `out` does not hold yet.

    freeze: the last block that is frozen, with all before it, from -1, nothing, to the last: "all", a number, several,
        or a text such as "0,3-5".  truncate: how many blocks are left, from 1 to all, in the same forms.
    The untouched model is always among the cells, as k = -1 of the one and k = all of the other.
    pooler: of a model that is cut, see `models.truncate`.
    keep: of each cell `all` models, the `best`, or `none`; metrics always stay.
    task, model, train, dev and what else is not named here: see `tune`.

    A row holds the metric at the best epoch on dev, and its mean and spread (standard deviation, None for one seed)
    over the seeds.

    Raises `OptionError` for a k out of range or other options than `out` began with, and what `tune` raises.

    >>> ablate("mnli", "bert-base-uncased", "train.jsonl", "dev.jsonl", "ablation", freeze="all", seeds=(1, 2, 3))
    ... # doctest: +SKIP

    Source: Merchant et al. 2020, section 5.2, figures 3 and 4.
    """
    clock, out = Clock(), Path(out)
    kind = named_task(task)
    recipe = recipe_of(kind, preset, epochs, learning_rate, batch_size, max_length)
    if freeze is None and truncate is None:
        raise OptionError("there is nothing to sweep; give layers to freeze, numbers of blocks to truncate to, or both")
    if keep not in KEEP:
        raise OptionError(f"unknown choice of models to keep {keep!r}; choose one of {', '.join(KEEP)}")
    if pooler not in POOLERS:
        raise OptionError(f"unknown treatment of the pooler {pooler!r}; choose one of {', '.join(POOLERS)}")
    seeds = tuple(dict.fromkeys(integer("seed", seed, least=0) for seed in seeds))
    for name, most in (("limit", limit), ("dev_limit", dev_limit)):
        if most is not None:
            integer(name, most, least=1)
    if not seeds:
        raise OptionError("no seed was given; give at least one")
    require_writable(out)
    with clock.phase("load"):
        (checkpoint,) = loaded([model], device=device, dtype="float32", allow_pickle=allow_pickle)
    depth = len(block_stack(checkpoint.model))
    kinds = (
        Kind("freeze", -1, depth - 1, -1, f"this model has blocks 0 to {depth - 1}, and -1 freezes nothing"),
        Kind("truncate", 1, depth, depth, f"this model has {depth} blocks; keep 1 to {depth} of them"),
    )
    swept = {
        sweep: parse_cells(asked, sweep)
        for sweep, asked in zip(kinds, (freeze, truncate), strict=True)
        if asked is not None
    }
    with clock.phase("read"):
        records = {
            "train": kind.read(os.fspath(train)).limited(limit, seed=0),
            "dev": kind.read(os.fspath(dev)).limited(dev_limit, seed=0),
        }
        kind.check(records["train"])
    options = {
        "task": task,
        "checkpoint": {"name": checkpoint.name, "content_hash": checkpoint.content_hash},
        "data": {
            name: {"name": found.name, "content_hash": found.content_hash, "records": len(found.items)}
            for name, found in records.items()
        },
        "recipe": dataclasses.asdict(recipe),
        "pooler": pooler,
    }
    same_run(out / task / OPTIONS, options, resume=True)

    cells: dict[str, dict[str, int]] = {UNTOUCHED: {}}
    for sweep, values in swept.items():
        cells |= {cell_name(sweep, k): {sweep.name: k} for k in values if k != sweep.untouched}
    jobs = [(name, seed) for name in cells for seed in seeds]
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for number, (name, seed) in enumerate(jobs, start=1):
        folder = out / task / f"seed-{seed}" / name
        held = finished(folder)
        if held is None:
            with clock.phase("train"):
                tuned = tune(
                    task,
                    checkpoint,
                    records["train"],
                    records["dev"],
                    folder,
                    seeds=(seed,),
                    freeze=cells[name].get("freeze", -1),
                    truncate=cells[name].get("truncate"),
                    pooler=pooler,
                    preset=preset,
                    epochs=epochs,
                    learning_rate=learning_rate,
                    batch_size=batch_size,
                    max_length=max_length,
                    resume=True,
                    device=device,
                    progress=_named(progress, f"{number} of {len(jobs)}, {name}, "),
                )
            held = {"rows": tuned.rows, "run": tuned.run}
        for unwanted in KEEP[keep]:
            shutil.rmtree(folder / f"seed-{seed}" / unwanted, ignore_errors=True)
        found[name, seed] = held
        if say is not None:
            value = best_metrics(held["rows"])[kind.metric]
            say(f"{number} of {len(jobs)}: {task}, {name}, seed {seed}: {kind.metric} {value:.4f}")

    rows = [
        row
        for sweep, values in swept.items()
        for k in values
        for row in _rows(task, sweep, k, {seed: found[cell_name(sweep, k), seed] for seed in seeds})
    ]
    whole = found[UNTOUCHED, seeds[0]]["run"]
    mine = {
        "options": options | {"preset": preset, "limit": limit, "dev_limit": dev_limit},
        "metric": kind.metric,
        "depth": depth,
        "seeds": seeds,
        "swept": {sweep.name: values for sweep, values in swept.items()},
        "kept": KEPT[keep],
        "baselines": whole["baselines"],
        "notes": [f"{name}: {note}" for name, of in records.items() for note in of.notes],
        "timings": clock.timings(),
    }
    return _merged(out / RECORD, task, rows, mine)


def parse_cells(asked: Cells, sweep: Kind) -> tuple[int, ...]:
    """The k meant, increasing, the untouched one among them; raises `OptionError` for one out of range.

    >>> parse_cells("0,3-5", Kind("freeze", -1, 11, -1, ""))
    (-1, 0, 3, 4, 5)
    """
    if asked == "all":
        return tuple(range(sweep.least, sweep.most + 1))
    chosen = {sweep.untouched}
    parts = asked.split(",") if isinstance(asked, str) else asked if isinstance(asked, Iterable) else [asked]
    for part in parts:
        match = _RANGE.fullmatch(str(part))
        if match is None:
            raise OptionError(f"cannot {sweep.name} {part!r}; write all, a number, or a list such as 1,3-5")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if not sweep.least <= first <= last <= sweep.most:
            raise OptionError(f"cannot {sweep.name} {str(part).strip()}: {sweep.advice}")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def cell_name(sweep: Kind, k: int) -> str:
    """The name of a cell's folder."""
    return UNTOUCHED if k == sweep.untouched else f"{sweep.name}-{k}"


def finished(folder: Path) -> dict[str, Any] | None:
    """The rows and the record of a cell that was trained to its end; None for any other."""
    try:
        held: dict[str, Any] = json.loads((folder / "tuning.json").read_text(encoding="utf-8"))
        return held if held["run"]["finished"] else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BertftError(f"{folder / 'tuning.json'}: cannot be read ({error}); delete the folder {folder}") from error


def best_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """The metrics of a cell at its best epoch."""
    return {row["measure"]: row["value"] for row in rows if row["best"] and not row["measure"].endswith("loss")}


def _rows(task: str, sweep: Kind, k: int, cells: dict[int, dict[str, Any]]) -> Iterable[Row]:
    """The rows of one k: of each seed and metric."""
    by_seed = {seed: best_metrics(cell["rows"]) for seed, cell in cells.items()}
    for metric in next(iter(by_seed.values())):
        values = [metrics[metric] for metrics in by_seed.values()]
        for seed, value in zip(by_seed, values, strict=True):
            yield {
                "task": task,
                "kind": sweep.name,
                "k": k,
                "seed": seed,
                "metric": metric,
                "value": value,
                "mean": statistics.fmean(values),
                "spread": statistics.stdev(values) if len(values) > 1 else None,
                "seconds": cells[seed]["run"]["timings"]["training"],
            }


def _merged(path: Path, task: str, rows: list[Row], mine: dict[str, Any]) -> Ablated:
    """The rows and record of a task, with those of other tasks that stand in a record already."""
    others: dict[str, Any] = {"rows": [], "run": {"tasks": {}}}
    if path.exists():
        try:
            others = json.loads(path.read_text(encoding="utf-8"))
            others = {
                "rows": [row for row in others["rows"] if row["task"] != task],
                "run": {"tasks": {name: of for name, of in others["run"]["tasks"].items() if name != task}},
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BertftError(f"{path}: cannot be read ({error}); delete it to have it written again") from error
    return Ablated([*others["rows"], *rows], {"versions": versions(), "tasks": {**others["run"]["tasks"], task: mine}})


def _named(progress: Progress | None, before: str) -> Progress | None:
    return None if progress is None else lambda done, total, what: progress(done, total, before + what)
