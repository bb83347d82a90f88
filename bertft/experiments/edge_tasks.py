"""Edge-probing tasks prepared for probes: read, cut to size, grouped by text, and aligned to subwords.

Tasks on one text, such as the parts of speech, dependencies and roles of one treebank, form a group: their sentences
are run through a model once, whatever the number of tasks. A sentence that occurs several times in a file is
one sentence with all its targets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertft.activations.subwords import SubwordRanges
from bertft.activations.vectors import CachedSubwords, subword_vectors
from bertft.checkpoints.anatomy import n_layers
from bertft.data.edge import EdgeCorpus, EdgeRecord, read_edge_corpus
from bertft.data.text_file import local_path
from bertft.data.treebank import read_treebank
from bertft.data.treebank_edges import edge_corpus
from bertft.errors import DataError, OptionError
from bertft.experiments.inputs import ProbedModel, ProbedModels, ProbingInputs
from bertft.experiments.run import Run, versions
from bertft.probes.edge import Input, SubwordTask, WordTask

FROM_TREEBANK = ("pos", "dep")
"""Tasks whose records can be derived from a treebank."""

SHARED = 0.5
"""Two tasks are on one text if at least this share of the sentences of the smaller one also occurs in the other."""

FORMAT = 2
"""Part of the name of every kept result: raised when results of an older bertft must not be used."""

Words = tuple[str, ...]


TASKS = ("pos", "dep", "const", "ner", "srl", "coref", "spr", "rel")
"""The tasks of Merchant et al. 2020."""


@dataclass(frozen=True, eq=False)
class TaskGroup:
    """Tasks on one text: its distinct sentences, and the targets of each task and split, with spans in words.

    The labels of a task are those of all its splits, even if only some of the training sentences are used.
    """

    sentences: tuple[Words, ...]
    tasks: Mapping[str, Mapping[str, WordTask]]
    content_hash: str

    @property
    def name(self) -> str:
        """The names of the tasks, joined."""
        return "+".join(self.tasks)

    def over_subwords(self, ranges: SubwordRanges) -> tuple[dict[str, dict[str, SubwordTask]], list[str]]:
        """Return the tasks with their spans over subwords, and notes on targets that were left out.

        See `WordTask.over_subwords`. Raises `DataError` where no target of a split is left.
        """
        found: dict[str, dict[str, SubwordTask]] = {}
        notes = []
        for name, splits in self.tasks.items():
            found[name] = {}
            for split, task in splits.items():
                fitting = task.over_subwords(ranges)
                if not len(fitting):
                    raise DataError(f"{name}, {split}: no target fits into the tokens that the model takes")
                if dropped := len(task) - len(fitting):
                    notes.append(f"{name}, {split}: {dropped:,} of {len(task):,} targets do not fit and were left out")
                found[name][split] = fitting
        return found, notes

    def control(self, seed: int = 0) -> TaskGroup:
        """Return the control tasks: the same targets, with labels drawn at random once for each type of word.

        The type of a target is the first word of its first span, and its labels are those of a random training target,
        so that the frequencies of the labels are kept. A probe can only memorise these labels; how much better it does
        on the task itself is its selectivity.

        Source: Hewitt and Liang 2019.
        """
        tasks: dict[str, dict[str, WordTask]] = {}
        for name, splits in self.tasks.items():
            drawn_from = splits["train"].gold
            tasks[name] = {}
            for split, task in splits.items():
                words = [
                    self.sentences[sentence][start]
                    for sentence, start in zip(task.sentence.tolist(), task.span1[:, 0].tolist(), strict=True)
                ]
                drawn = {word: _number(f"{seed} {name} {word}") % len(drawn_from) for word in set(words)}
                tasks[name][split] = replace(task, gold=drawn_from[[drawn[word] for word in words]])
        return replace(self, tasks=tasks)


def read_tasks(
    names: Sequence[str],
    data: str | Path | None = None,
    treebank: str | Path | None = None,
    *,
    tags: str = "xpos",
) -> list[EdgeCorpus]:
    """Read each task from the folder `data/NAME` if there is one; otherwise `pos` and `dep` from a treebank.

    tags: the part-of-speech tags of a treebank to use, `xpos` or `upos`.

    Raises `OptionError` if no task is named, and `DataError` for a task that is found in neither or cannot be read.
    """
    if not names:
        raise OptionError("no task was named; name at least one")
    folder = None if data is None else local_path(data)
    bank = None
    found = []
    for name in dict.fromkeys(names):
        if folder is not None and local_path(folder / name).is_dir():
            found.append(read_edge_corpus(folder / name))
        elif name in FROM_TREEBANK and treebank is not None:
            bank = bank or read_treebank(treebank)
            found.append(edge_corpus(bank, name, tags=tags))
        elif name in FROM_TREEBANK:
            raise DataError(
                f"task {name}: no folder {folder / name if folder else name}; give a treebank to derive it from"
            )
        else:
            there = (
                []
                if folder is None or not folder.is_dir()
                else sorted(p.parent.name for p in folder.glob("*/dev.jsonl"))
            )
            raise DataError(
                f"task {name}: no folder {folder / name if folder else name}; "
                + (
                    f"{folder} has the tasks {', '.join(there)}"
                    if there
                    else "give the folder above those of the tasks"
                )
            )
    return found


def group_tasks(corpora: Iterable[EdgeCorpus], sentences: int | None = None, seed: int = 0) -> list[TaskGroup]:
    """Group tasks that share their text, with at most `sentences` training sentences of each task.

    Which sentences are drawn depends only on the seed and their words, so tasks on one text draw the same ones where
    they can. Raises `DataError` for a task without targets or labels in a split, and for one in which some targets have
    one span and some two.

    >>> from bertft.data.edge import EdgeRecord, Target
    >>> rain = EdgeRecord(("It", "rains"), (Target((1, 2), None, ("VBZ",)),), {}, "rain:1")
    >>> (group,) = group_tasks([EdgeCorpus("pos", {"train": (rain, rain), "dev": (rain,)}, "0f")])
    >>> group.sentences, len(group.tasks["pos"]["train"])
    ((('It', 'rains'),), 2)
    """
    given = list(corpora)
    groups: list[tuple[list[int], set[Words]]] = []
    for number, corpus in enumerate(given):
        own = {record.words for records in corpus.splits.values() for record in records}
        members, text = [number], set(own)
        apart = []
        for group in groups:
            if len(own & group[1]) >= SHARED * min(len(own), len(group[1])):
                members, text = [*group[0], *members], text | group[1]
            else:
                apart.append(group)
        groups = [*apart, (sorted(members), text)]
    groups.sort(key=lambda group: group[0])
    return [_group([given[number] for number in members], sentences, seed) for members, _ in groups]


def _group(corpora: Sequence[EdgeCorpus], sentences: int | None, seed: int) -> TaskGroup:
    numbers: dict[Words, int] = {}
    tasks = {}
    for corpus in corpora:
        labels = tuple(sorted({label for records in corpus.splits.values() for label in _labels(records)}))
        tasks[corpus.name] = {
            split: _task(
                corpus.name, split, _drawn(records, sentences if split == "train" else None, seed), labels, numbers
            )
            for split, records in corpus.splits.items()
        }
    parts: list[Any] = [(corpus.name, corpus.content_hash) for corpus in corpora]
    digest = hashlib.sha256(repr([*parts, sentences, seed]).encode()).hexdigest()
    return TaskGroup(tuple(numbers), tasks, digest)


def _number(text: str) -> int:
    """Return a pseudo-random number that depends on a text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _labels(records: Iterable[EdgeRecord]) -> set[str]:
    return {label for record in records for target in record.targets for label in target.labels}


def _drawn(records: Sequence[EdgeRecord], wanted: int | None, seed: int) -> list[EdgeRecord]:
    """Return the records that have targets, of at most `wanted` distinct sentences."""
    having = [record for record in records if record.targets]
    distinct = dict.fromkeys(record.words for record in having)
    if wanted is None or wanted >= len(distinct):
        return having
    by_hash = sorted(distinct, key=lambda words: _number(f"{seed} {' '.join(words)}"))
    chosen = set(by_hash[:wanted])
    return [record for record in having if record.words in chosen]


def _task(
    name: str, split: str, records: Sequence[EdgeRecord], labels: tuple[str, ...], numbers: dict[Words, int]
) -> WordTask:
    """Return the targets of some records; sentences that are not in `numbers` yet are added to it."""
    targets = [(record, target) for record in records for target in record.targets]
    if not targets:
        raise DataError(f"{name}, {split}: no targets; give records that have some")
    paired = targets[0][1].span2 is not None
    for record, target in targets:
        if (target.span2 is not None) is not paired:
            raise DataError(
                f"{record.where}: some targets of {name} have span2 and some do not; give all of them one form"
            )
    index = {label: number for number, label in enumerate(labels)}
    gold = np.zeros((len(targets), len(labels)), dtype=np.bool_)
    for row, (_, target) in zip(gold, targets, strict=True):
        row[[index[label] for label in target.labels]] = True
    if not gold.any():
        where = f"{name}, {split}" if labels else name
        raise DataError(f"{where}: no target has a label; give records of which some have labels")
    sentence: NDArray[np.int64] = np.array([numbers.setdefault(record.words, len(numbers)) for record, _ in targets])
    return WordTask(
        name=name,
        labels=labels,
        sentence=sentence,
        span1=np.array([target.span1 for _, target in targets]),
        span2=np.array([target.span2 for _, target in targets]) if paired else None,
        gold=gold,
    )


def input_names(wanted: Sequence[str], depth: int) -> tuple[str, ...]:
    """Return the names of the inputs for a model of `depth` blocks; `layers` stands for each of its layers."""
    names = [
        name
        for given in wanted
        for name in ([f"layer:{k}" for k in range(depth + 1)] if given == "layers" else [given])
    ]
    for name in names:
        Input.parse(name, range(depth + 1))
    return tuple(dict.fromkeys(names))


def layers_read(inputs: Sequence[str], depth: int) -> list[int]:
    """Return the layers that some inputs read, for a model of `depth` blocks."""
    return sorted({layer for name in inputs for layer in Input.parse(name, range(depth + 1)).layers})


@dataclass(frozen=True)
class GroupStates:
    """The hidden states of the text of a group of tasks in one model, and the inputs that probes take from them."""

    model: ProbedModel
    group: TaskGroup
    states: CachedSubwords
    inputs: tuple[str, ...]

    def key(self, *parts: Any) -> str:
        """Return a hash of the model, the states, the data, the inputs and `parts`, to name kept results by."""
        checkpoint = self.model.checkpoint
        known = [
            *(FORMAT, versions(), checkpoint.content_hash, str(checkpoint.model.dtype), str(self.states.dtype)),
            *(self.group.content_hash, list(self.inputs)),
        ]
        return hashlib.sha256(json.dumps([*known, *parts]).encode()).hexdigest()[:24]


def group_states(
    probed: ProbedModels,
    groups: Sequence[TaskGroup],
    inputs_of: Callable[[ProbedModel], tuple[str, ...]],
    given: ProbingInputs,
    run: Run,
) -> Iterator[GroupStates]:
    """Compute the hidden states of each group in each model and baseline, and note what was cut."""
    for model in probed:
        inputs = inputs_of(model)
        for group in groups:
            with run.clock.phase("vectors"):
                states = subword_vectors(
                    model.checkpoint,
                    group.sentences,
                    layers=layers_read(inputs, n_layers(model.checkpoint.model)),
                    **given.vector_options(run.feedback),
                )
            if not model.is_baseline:
                run.notes += [f"{model.name}, {group.name}: {note}" for note in states.notes]
            yield GroupStates(model, group, states, inputs)
