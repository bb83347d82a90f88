"""A callback for any Hugging Face Trainer: how far each layer of the model in training has moved from where it began.

The hidden states of the start are computed once, on a fixed draw of tokens, and kept in the memory of the CPU; of the
model itself no second copy is made. At every evaluation the same tokens are read again and compared with them. Nothing
that training depends on is left changed: on a CPU, with the same number of threads, weights come out the same, bit for
bit, with the callback and without.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bertft.activations.batches import BATCH_TOKENS
from bertft.activations.forward import read_layers
from bertft.activations.stimuli import Stimuli
from bertft.data import Corpus
from bertft.errors import OptionError, RowError, UndefinedWarning
from bertft.measures import resolve
from bertft.models import Checkpoint, find_body, length_limit, n_layers, pad_id, parse_layers
from bertft.pair_moments import PairMoments
from bertft.report.files import write_files
from bertft.runs import Text, corpora_of, count, integer

START = "rsa-start.safetensors"
"""File of the run's folder, beside its checkpoints, that holds the hidden states of the start for a resumed run."""

LayerRows = dict[int, Tensor]


class RSACallback(TrainerCallback):
    """Logs, at every evaluation of a Trainer, the similarity of each layer to the weights that training began with.

    texts: one file, strings, (text, pair) tuples, or a `Corpus`.  tokens, sentences, seed, special_tokens, single,
        max_length, layers, measures: as for `bertft.score`, the draw smaller.
    batch_tokens: the most tokens in one batch, padding included.  tokenizer: the Trainer's `processing_class` if None.

    The values go through `trainer.log` as `rsa/layer_0`, `rsa/layer_1`, …: into `state.log_history` and to whatever
    `report_to` names. Layers whose hidden states are unchanged, such as frozen ones, are exactly 1 (in a run that was
    resumed on another machine, or with another number of threads, up to rounding); one whose hidden states are not
    finite is nan, with an `UndefinedWarning`. The encoder is found inside heads and adapters.

    Kept on the CPU are tokens x layers x width numbers in the model's type: 80 MB for 2,000 tokens of a BERT-base in
    float32 (`kept_bytes` says how many). They are also written to the run's folder, where a resumed run finds them, so
    that it is compared with the original start. Of several processes the first alone computes.

    `attach` adds the callback to a Trainer, whose log a callback cannot reach otherwise. Raises `OptionError` for
    options out of range and, when training begins, for a Trainer that it cannot serve; `DataError` for texts that
    cannot be read.

    >>> trainer = Trainer(model, args, train_dataset=train, eval_dataset=dev)  # doctest: +SKIP
    >>> callback = RSACallback("wiki.txt").attach(trainer)  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP
    """

    def __init__(
        self,
        texts: str | os.PathLike[str] | Corpus | Sequence[Text],
        *,
        layers: str | int | Iterable[int] = "all",
        tokens: int | str | None = 2000,
        sentences: int | str | None = 200,
        seed: int = 0,
        measures: str | Sequence[str] = ("rsa",),
        special_tokens: bool = False,
        single: bool = False,
        max_length: int | None = None,
        batch_tokens: int = BATCH_TOKENS["cpu"],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        corpora = corpora_of(texts, single=single)
        if len(corpora) != 1:
            raise OptionError(f"{len(corpora)} texts were given; a callback reads one: join them, or attach several")
        (self._corpus,) = corpora
        self._layers = layers
        self._tokens, self._sentences = count("tokens", tokens, least=3), count("sentences", sentences, least=1)
        self._seed = integer("seed", seed, least=0)
        self._measures = resolve((measures,) if isinstance(measures, str) else tuple(measures))
        self._special_tokens = special_tokens
        self._max_length = None if max_length is None else integer("max_length", max_length, least=1)
        self._batch_tokens = integer("batch_tokens", batch_tokens, least=1)
        self._tokenizer = tokenizer
        self._trainer: Trainer | None = None
        self._start: _Start | None = None
        self._last_step = -1

    def attach(self, trainer: Trainer) -> RSACallback:
        """Add the callback to a Trainer, and return it."""
        self._trainer = trainer
        trainer.add_callback(self)
        return self

    @property
    def kept_bytes(self) -> int:
        """The memory that the hidden states of the start take; 0 before training."""
        return sum(rows.nbytes for rows in self._start.rows.values()) if self._start is not None else 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Keep the hidden states of the model as it is, or find those of the start of a run that is resumed."""
        if self._trainer is None:
            raise OptionError("RSACallback was not attached; write RSACallback(...).attach(trainer)")
        if self._trainer.is_fsdp_enabled or self._trainer.is_deepspeed_enabled:
            raise OptionError("RSACallback needs the whole model on a process; it cannot serve FSDP or DeepSpeed")
        self._start, self._last_step = None, -1
        if not state.is_world_process_zero:
            return
        model = find_body(given["model"])
        tokenizer = self._tokenizer or given.get("processing_class")
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise OptionError(
                "the Trainer has no tokenizer; give it as processing_class, or to RSACallback as tokenizer"
            )
        checkpoint = Checkpoint("the model in training", model, tokenizer, "")
        limit = length_limit(checkpoint)
        stimuli = Stimuli.drawn(
            self._corpus,
            tokenizer,
            tokens=self._tokens,
            sentences=self._sentences,
            seed=self._seed,
            special_tokens=self._special_tokens,
            max_length=min(self._max_length or limit, limit),
            batch_tokens=self._batch_tokens,
        )
        layers = parse_layers(self._layers, n_layers(model))
        start = _Start(stimuli, pad_id(checkpoint), layers, {})
        if state.global_step:
            start.load(Path(args.output_dir or "."), model)
        else:
            start.rows.update(start.read(model))
            if args.save_strategy != "no":
                start.save(Path(args.output_dir or "."), model)
        self._start = start

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Score the model as it is against the start, once a step, and log the scores."""
        if self._start is None or self._trainer is None or state.global_step == self._last_step:
            return
        self._last_step = state.global_step
        now = self._start.read(find_body(given["model"]))
        self._trainer.log({name: value for layer in now for name, value in self._scores(layer, now[layer])})

    def _scores(self, layer: int, now: Tensor) -> Iterator[tuple[str, float]]:
        """The measures of one layer, by the names under which they are logged."""
        assert self._start is not None
        before = self._start.rows[layer]
        equal = torch.equal(before, now)
        moments: PairMoments | None = None
        for measure in self._measures:
            value = measure.equal_spaces if equal else None
            if value is None:
                try:
                    if moments is None:
                        moments = PairMoments.serving(self._measures, reservoir=0).update(before, now)
                    value = measure.value(moments)
                except RowError as error:  # training that diverges is the user's to stop
                    value = float("nan")
                    message = f"hidden layer {layer} of the model in training: the vector of a token {error.why}"
                    warnings.warn(message, UndefinedWarning, stacklevel=2)
            yield f"{measure.name}/layer_{layer}", value


@dataclass(frozen=True)
class _Start:
    """What is read of the model at the start and after: the stimuli, the layers, and the rows of the start."""

    stimuli: Stimuli
    pad_id: int
    layers: tuple[int, ...]
    rows: LayerRows

    def read(self, model: PreTrainedModel) -> LayerRows:
        """The drawn rows of the layers of a model as it is, (tokens, width) each, on the CPU."""
        parts: defaultdict[int, list[Tensor]] = defaultdict(list)
        devices = [model.device] if model.device.type == "cuda" else []
        with _evaluation_mode(model), torch.random.fork_rng(devices=devices):
            for batch in self.stimuli.batches(self.pad_id, model.device):
                for layer, rows in read_layers(model, batch, self.layers).rows.items():
                    parts[layer].append(rows.cpu())
        return {layer: torch.cat(parts.pop(layer)) for layer in self.layers}

    def mark(self, model: PreTrainedModel) -> str:
        """A hash of what must be the same for rows to be comparable: the tokens read and drawn, layers, the type."""
        digest = hashlib.sha256(f"{self.layers} {model.dtype}".encode())
        for array in (self.stimuli.texts.ids, self.stimuli.texts.starts, self.stimuli.draw.positions):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def save(self, folder: Path, model: PreTrainedModel) -> None:
        """Write the rows to a run's folder."""
        tensors = {str(layer): rows for layer, rows in self.rows.items()}
        write_files(folder, {START: save(tensors, metadata={"mark": self.mark(model)})})

    def load(self, folder: Path, model: PreTrainedModel) -> None:
        """Read the rows from a run's folder; raises `OptionError` where they are not there or of other tokens."""
        advice = "resume with the options and texts that the run began with, or without the callback"
        try:
            with safe_open(folder / START, framework="pt") as file:
                if file.metadata()["mark"] != self.mark(model):
                    raise OptionError(f"{folder / START}: of other tokens or layers than asked for now; {advice}")
                self.rows.update({layer: file.get_tensor(str(layer)) for layer in self.layers})
        except (OSError, SafetensorError) as error:
            raise OptionError(
                f"{folder / START}: the hidden states of the start cannot be read ({error}), and a resumed run has no "
                f"others to compare with; {advice}"
            ) from error


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards each in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training
