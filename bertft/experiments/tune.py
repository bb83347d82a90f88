"""Fine-tuning a checkpoint on a task, over several seeds: what the paper compares its base with.

Everything that the result depends on stands in the record of the run. A run writes what it knows after every seed, so
that one that was killed is taken up where it was, and one with other options is refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from bertft.checkpoints.checkpoint import length_limit
from bertft.checkpoints.edit import POOLERS
from bertft.checkpoints.edit import freeze as freeze_blocks
from bertft.checkpoints.edit import truncate as truncate_blocks
from bertft.errors import BertftError, OptionError
from bertft.experiments.inputs import Source, loaded
from bertft.experiments.run import Clock, check_same, versions
from bertft.files import require_writable, write_files
from bertft.options import integer
from bertft.progress import Progress, Say
from bertft.records import Row, csv_bytes, json_bytes
from bertft.tasks import named_task
from bertft.tasks.lora import with_lora
from bertft.tasks.task import Recipe, Records, Task
from bertft.tasks.training import Trained, evaluate
from bertft.tasks.training import train as train_model

COLUMNS = ("model", "baseline", "seed", "epoch", "measure", "value", "best")
UNTRAINED = "untrained head"
_RECORD = "tuning.json"


@dataclass(frozen=True)
class Tuned:
    """What `tune` found: one row for each seed, epoch and measure, and for each floor; and a record of the run."""

    rows: list[Row]
    run: dict[str, Any]


def tune(
    task: str,
    model: Source,
    train: str | os.PathLike[str] | Records[Any],
    dev: str | os.PathLike[str] | Records[Any],
    out: str | os.PathLike[str],
    *,
    seeds: Sequence[int] = (1,),
    freeze: int = -1,
    truncate: int | None = None,
    pooler: str = "keep",
    lora: int | None = None,
    preset: str = "paper",
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    limit: int | None = None,
    dev_limit: int | None = None,
    resume: bool = False,
    device: str = "auto",
    allow_pickle: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
    say: Say | None = None,
) -> Tuned:
    """Fine-tune a checkpoint once a seed, and write the models and their metrics on dev to a folder.

    task: `mnli`, `squad` or `dep`.  model: a folder, a hub name, or a loaded `Checkpoint`.
    train, dev: a file in the task's published format, a data set of the hub as `NAME:SPLIT`, or `Records`.
    out: gets `seed-1/best`, `seed-1/last` and so on, `tuning.json` and `tuning.csv`.
    seeds: of the head's weights, the order of the data and dropout.
    freeze: the last block to keep as it is, with all before it; -1 for none.  truncate: how many blocks to keep.
    pooler: of a truncated model, `keep` or `reset`, see `models.truncate`.  lora: the rank of adapters to train alone.
    preset: `paper` or `today`; epochs, learning_rate, batch_size, max_length: instead of the preset's.
    limit, dev_limit: at most so many records, drawn once for all seeds.
    resume: take up the run that `out` holds, if its options are these.
    callbacks: for the Trainer.  progress: called as progress(done, total, what).  say: called with lines for people.

    Raises `DataError` for data that cannot be read or from which nothing can be learned, `OptionError` for an option
    out of range, `CheckpointError` for a model that cannot be read or cut, `BertftError` where `out` cannot be written
    or holds another run.

    >>> tuned = tune("mnli", "bert-base-uncased", "train.jsonl", "dev.jsonl", "runs/mnli", seeds=[1, 2, 3])
    ... # doctest: +SKIP

    Source: Merchant et al. 2020, section 3; Devlin et al. 2019.
    """
    clock = Clock()
    out = Path(out)
    kind = named_task(task)
    recipe = recipe_of(kind, preset, epochs, learning_rate, batch_size, max_length)
    seeds = tuple(dict.fromkeys(integer("seed", seed, least=0) for seed in seeds))
    if not seeds:
        raise OptionError("no seed was given; give at least one")
    if pooler not in POOLERS:
        raise OptionError(f"unknown treatment of the pooler {pooler!r}; choose one of {', '.join(POOLERS)}")
    if truncate is not None:
        integer("truncate", truncate, least=1)
    if lora is not None:
        integer("lora", lora, least=1)
        if truncate is not None:
            raise OptionError("an adapter is saved without the blocks it is for; give either truncate or lora")
    require_writable(out)
    held = _held(out, resume=resume)
    with clock.phase("read"):
        records = {
            name: _read(kind, source, most) for name, source, most in (("train", train, limit), ("dev", dev, dev_limit))
        }
        kind.check(records["train"])
    with clock.phase("load"):
        (checkpoint,) = loaded([model], device=_device(device), dtype="float32", allow_pickle=allow_pickle)
    recipe = dataclasses.replace(recipe, max_length=min(recipe.max_length, length_limit(checkpoint)))

    def built(seed: int) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = kind.build(checkpoint, records["train"])
            if truncate is not None:
                truncate_blocks(made, truncate, pooler=pooler)
            freeze_blocks(made, freeze)
            return made if lora is None else with_lora(made, lora, first_block=freeze + 1)

    untrained = built(seeds[0])
    run: dict[str, Any] = {
        "versions": versions(),
        "task": task,
        "checkpoints": {checkpoint.name: checkpoint.content_hash},
        "data": {name: _described(found) for name, found in records.items()},
        "options": {
            "seeds": seeds,
            "freeze": freeze,
            "truncate": truncate,
            "pooler": pooler if truncate is not None else None,
            "lora": lora,
            "preset": preset,
            "limit": limit,
            "dev_limit": dev_limit,
            "device": str(checkpoint.model.device.type),
        },
        "recipe": dataclasses.asdict(recipe),
        "metric": kind.metric,
    }
    if held is not None:
        parts = ("task", "checkpoints", "data", "options", "recipe")
        check_same(out, {part: held.get(part) for part in parts}, {part: run[part] for part in parts})
        floors = held["baselines"]
    else:
        with clock.phase("baselines"):
            floors = kind.floors(records["train"], records["dev"], seed=0)
            floors[UNTRAINED] = evaluate(
                kind, untrained, checkpoint.tokenizer, records["dev"], recipe, progress=progress
            )
    run |= {"baselines": floors, "finished": False}
    rows = list(_floor_rows(floors))
    notes = [f"{name}: {note}" for name, found in records.items() for note in found.notes]
    _write(out, rows, run | {"notes": notes, "timings": clock.timings()})
    for seed in seeds:
        with clock.phase("training"):
            trained = train_model(
                kind,
                built(seed),
                checkpoint.tokenizer,
                records["train"],
                records["dev"],
                out / f"seed-{seed}",
                recipe,
                seed=seed,
                resume=True,
                progress=_named(progress, seed),
                callbacks=callbacks,
            )
        rows += _rows(checkpoint.name, seed, trained)
        notes += [note for note in trained.notes if note not in notes]
        found = next(row for row in trained.history if row["epoch"] == trained.best_epoch)
        if say is not None:
            say(f"seed {seed}: {kind.metric} {found[kind.metric]:.4f} after epoch {trained.best_epoch}")
        run["finished"] = seed == seeds[-1]
        run["notes"], run["timings"] = notes, clock.timings()
        _write(out, rows, run)
    return Tuned(rows, run)


def recipe_of(
    task: Task[Any],
    preset: str,
    epochs: int | None,
    learning_rate: float | None,
    batch_size: int | None,
    max_length: int | None,
) -> Recipe:
    """The preset's recipe with what was asked for in its place; raises `OptionError` for what is out of range."""
    if preset not in task.recipes:
        raise OptionError(f"unknown preset {preset!r}; choose one of {', '.join(task.recipes)}")
    if learning_rate is not None and not 0 < learning_rate < 1:
        raise OptionError(f"learning_rate is {learning_rate!r}; give a number between 0 and 1, such as 3e-5")
    given: dict[str, Any] = {
        "epochs": None if epochs is None else integer("epochs", epochs, least=1),
        "learning_rate": learning_rate,
        "batch_size": None if batch_size is None else integer("batch_size", batch_size, least=1),
        "max_length": None if max_length is None else integer("max_length", max_length, least=8),
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(task.recipes[preset], **changes)


def _read(task: Task[Any], source: str | os.PathLike[str] | Records[Any], limit: int | None) -> Records[Any]:
    records = source if isinstance(source, Records) else task.read(os.fspath(source))
    return records.limited(None if limit is None else integer("limit", limit, least=1), seed=0)


def _device(device: str) -> str:
    if device.startswith("cuda:"):
        raise OptionError(
            f"the Trainer takes the first GPU it sees; give cuda, and set CUDA_VISIBLE_DEVICES={device[5:]}"
        )
    return device


def _described(records: Records[Any]) -> dict[str, Any]:
    return {"name": records.name, "content_hash": records.content_hash, "records": len(records.items)}


def _held(out: Path, *, resume: bool) -> dict[str, Any] | None:
    """The record of the run that the folder holds, None where it is empty or absent."""
    if not out.exists() or not any(out.iterdir()):
        return None
    try:
        run: dict[str, Any] = json.loads((out / _RECORD).read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, KeyError) as error:
        raise BertftError(f"{out}: holds other files, and no run to resume; name a new or an empty folder") from error
    if not resume:
        raise BertftError(f"{out}: holds a run already; resume it (--resume) or name another folder")
    return run


def _named(progress: Progress | None, seed: int) -> Progress | None:
    return None if progress is None else lambda done, total, what: progress(done, total, f"seed {seed}, {what}")


def _rows(model: str, seed: int, trained: Trained) -> Iterator[Row]:
    for entry in trained.history:
        for measure, value in entry.items():
            if measure not in ("epoch", "step"):
                yield {
                    "model": model,
                    "baseline": False,
                    "seed": seed,
                    "epoch": entry["epoch"],
                    "measure": measure,
                    "value": value,
                    "best": entry["epoch"] == trained.best_epoch,
                }


def _floor_rows(floors: dict[str, dict[str, float]]) -> Iterator[Row]:
    for name, metrics in floors.items():
        for measure, value in metrics.items():
            row = {"model": name, "baseline": True, "seed": None, "epoch": None}
            yield {**row, "measure": measure, "value": value, "best": False}


def _write(out: Path, rows: list[Row], run: dict[str, Any]) -> None:
    write_files(out, {_RECORD: json_bytes(rows, run), "tuning.csv": csv_bytes(rows, COLUMNS)})
