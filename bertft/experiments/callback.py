"""A callback for any Hugging Face Trainer that measures how far each layer has moved since training began.

The initial hidden states are computed once, for a fixed draw of tokens, and kept in CPU memory; the model itself is not
copied. At every evaluation the hidden states of the same tokens are computed again and compared with them. The callback
changes nothing that training depends on: on a CPU, with the same number of threads, the weights are the same, bit for
bit, with and without it.
"""

from __future__ import annotations

import hashlib
import inspect
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
from bertft.activations.manner import manner_of
from bertft.activations.stimuli import Stimuli
from bertft.checkpoints.anatomy import find_body, n_layers, parse_layers
from bertft.checkpoints.checkpoint import Checkpoint, length_limit, pad_id
from bertft.data import Corpus
from bertft.errors import OptionError, RowError, UndefinedWarning
from bertft.experiments.inputs import Sampling, Text, corpora_of
from bertft.files import write_files
from bertft.measures import resolve
from bertft.options import integer, several
from bertft.similarity.pair_moments import PairMoments

START = "rsa-start.safetensors"
"""The file in the output directory that holds the initial hidden states for a resumed run."""

LayerRows = dict[int, Tensor]


class RSACallback(TrainerCallback):
    """Logs, at every evaluation of a Trainer, the similarity of each layer to its state at the start of training.

    texts: one file, strings, (text, pair) tuples, or a `Corpus`.
    layers, tokens, sentences, seed, measures, special_tokens, single, max_length: see `bertft.score`; by default fewer
        tokens are drawn.
    batch_tokens: the most tokens in one batch, padding included.
    tokenizer: by default the `processing_class` of the Trainer.

    The values are logged by `trainer.log` as `rsa/layer_0`, `rsa/layer_1` and so on: in `state.log_history`, and to the
    services that `report_to` names, of which TensorBoard and W&B write `train/` before each name of a training log.
    A Trainer that never evaluates gets a `UserWarning`, and the values at every save and at the end of training. A
    layer whose hidden states are unchanged, such as a frozen one, scores exactly 1; in a run that was resumed on
    another machine, or with another number of threads, it scores 1 up to rounding. A layer whose hidden states are not
    finite scores nan, with an `UndefinedWarning`. The model may have a head and adapters.

    The initial hidden states are tokens x layers x width numbers in the type of the model: 80 MB for 2,000 tokens of a
    BERT-base in float32, see `kept_bytes`. They are also written to the output directory, so that a resumed run is
    compared with the original start. Of several processes, only the first one computes.

    Raises `OptionError` for options out of range and, when training begins, for a Trainer that is not supported, and
    `DataError` for texts that cannot be read.

    >>> trainer = Trainer(model, args, train_dataset=train, eval_dataset=dev)  # doctest: +SKIP
    >>> trainer.add_callback(RSACallback("wiki.txt"))  # doctest: +SKIP
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
            raise OptionError(
                f"{len(corpora)} texts were given; a callback reads one: join them, or add several callbacks"
            )
        (self._corpus,) = corpora
        self._layers = layers
        flags = {"special_tokens": special_tokens, "single": single}
        self._sampling = Sampling.checked(tokens=tokens, sentences=sentences, seed=seed, max_length=max_length, **flags)
        self._measures = resolve(several("measures", measures, str))
        self._batch_tokens = integer("batch_tokens", batch_tokens, least=1)
        self._tokenizer = tokenizer
        self._trainer: Trainer | None = None
        self._start: _Start | None = None
        self._last_step = -1
        self._never_evaluated = self._warned = False

    @property
    def kept_bytes(self) -> int:
        """The memory that the initial hidden states take, in bytes; 0 before training."""
        return sum(rows.nbytes for rows in self._start.rows.values()) if self._start is not None else 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Compute the initial hidden states, or read them if the run is resumed."""
        self._trainer = _calling_trainer()
        if self._trainer is None:
            raise OptionError("RSACallback logs through a Trainer; write trainer.add_callback(RSACallback(...))")
        if self._trainer.is_fsdp_enabled or self._trainer.is_deepspeed_enabled:
            raise OptionError("RSACallback needs the whole model in one process; it does not support FSDP or DeepSpeed")
        self._start, self._last_step = None, -1
        self._never_evaluated = args.eval_strategy == "no"
        if not state.is_world_process_zero:
            return
        model = find_body(given["model"])
        tokenizer = self._tokenizer or given.get("processing_class")
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise OptionError(
                "the Trainer has no tokenizer; give it as processing_class, or to RSACallback as tokenizer"
            )
        checkpoint = Checkpoint("the model in training", model, tokenizer, "")
        sampling = self._sampling.limited(length_limit(checkpoint))
        manner = manner_of(checkpoint)
        stimuli = sampling.draw(self._corpus, tokenizer, self._batch_tokens, manner.grouping)
        layers = parse_layers(self._layers, n_layers(model))
        start = _Start(stimuli, pad_id(checkpoint), layers, manner.by_hooks, {})
        if state.global_step:
            start.load(Path(args.output_dir or "."), model)
        else:
            start.rows.update(start.read(model))
            if args.save_strategy != "no":
                start.save(Path(args.output_dir or "."), model)
        self._start = start
        if self._never_evaluated and not self._warned:
            self._warned = True
            warnings.warn(
                "this training evaluates nothing (eval_strategy is 'no'), so RSACallback compares the model at every "
                "save and at the end; set eval_strategy to have it compared at every evaluation",
                stacklevel=2,
            )

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Compare the model with its initial state, once for each step, and log the values."""
        self._log(state, given["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Without evaluation, do so before the model is saved, so that the log is saved with it, and after all steps.

        At the end of training the services that log may be closed already.
        """
        if self._never_evaluated and (control.should_save or control.should_training_stop):
            self._log(state, given["model"])

    on_epoch_end = on_step_end

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Without evaluation, do so where this step was not told to save or to stop before."""
        if self._never_evaluated:
            self._log(state, given["model"])

    on_train_end = on_save

    def _log(self, state: TrainerState, model: nn.Module) -> None:
        """Compare the model with its initial state and log the values, once for each step."""
        if self._start is None or self._trainer is None or state.global_step == self._last_step:
            return
        self._last_step = state.global_step
        now = self._start.read(find_body(model))
        # After a log the Trainer takes for done what it was about to log.
        pending = self._trainer.control.should_log
        self._trainer.log({name: value for layer in now for name, value in self._scores(layer, now[layer])})
        self._trainer.control.should_log = pending

    def _scores(self, layer: int, now: Tensor) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the measures of one layer, as they are logged."""
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
                except RowError as error:  # the user decides whether to stop training that diverges
                    value = float("nan")
                    message = f"hidden layer {layer} of the model in training: the vector of a token {error.why}"
                    warnings.warn(message, UndefinedWarning, stacklevel=2)
            yield f"{measure.name}/layer_{layer}", value


def _calling_trainer() -> Trainer | None:
    """Return the Trainer that is calling a callback, or None if there is none.

    The Trainer hands its callbacks everything but itself, and only its own `log` reaches the history and all services.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(found := frame.f_locals.get("self"), Trainer):
            return found
        frame = frame.f_back
    return None


@dataclass(frozen=True)
class _Start:
    """What is read of the model: stimuli and layers; and the rows of the layers at the start of training."""

    stimuli: Stimuli
    pad_id: int
    layers: tuple[int, ...]
    by_hooks: bool
    rows: LayerRows

    def read(self, model: PreTrainedModel) -> LayerRows:
        """Return the hidden states of the drawn tokens by layer, (tokens, width) each, on the CPU."""
        parts: defaultdict[int, list[Tensor]] = defaultdict(list)
        devices = [model.device] if model.device.type == "cuda" else []
        with _evaluation_mode(model), torch.random.fork_rng(devices=devices):
            for batch in self.stimuli.batches(self.pad_id, model.device):
                for layer, rows in read_layers(model, batch, self.layers, by_hooks=self.by_hooks).rows.items():
                    parts[layer].append(rows.cpu())
        return {layer: torch.cat(parts.pop(layer)) for layer in self.layers}

    def mark(self, model: PreTrainedModel) -> str:
        """Return a hash of what must be the same for rows to be comparable: the tokens read and drawn, layers, type."""
        digest = hashlib.sha256(f"{self.layers} {model.dtype}".encode())
        for array in (self.stimuli.texts.ids, self.stimuli.texts.starts, self.stimuli.draw.positions):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def save(self, folder: Path, model: PreTrainedModel) -> None:
        """Write the rows to the output directory of a run."""
        tensors = {str(layer): rows for layer, rows in self.rows.items()}
        write_files(folder, {START: save(tensors, metadata={"mark": self.mark(model)})})

    def load(self, folder: Path, model: PreTrainedModel) -> None:
        """Read the rows from the output directory; raises `OptionError` if they are missing or of other tokens."""
        advice = "resume with the options and texts that the run was started with, or without the callback"
        try:
            with safe_open(folder / START, framework="pt") as file:
                if file.metadata()["mark"] != self.mark(model):
                    raise OptionError(f"{folder / START}: of other tokens or layers than asked for now; {advice}")
                self.rows.update({layer: file.get_tensor(str(layer)) for layer in self.layers})
        except (OSError, SafetensorError) as error:
            raise OptionError(
                f"{folder / START}: the initial hidden states cannot be read ({error}), and a resumed run has no "
                f"others to compare with; {advice}"
            ) from None


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and afterwards back in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training
