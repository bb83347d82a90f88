"""Pre-train BERT from scratch: a plain text in; models of several seeds out, which differ in nothing but the seed.

Merchant et al. 2020 repeat BERT's pre-training three times, to tell properties of one model from those of all. A seed
determines the initial weights, the pairs, the masks and their order. The vocabulary and the held-out text, on which the
models are evaluated, are the same for all. The rows include the baselines of guesses that use no context.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining, PreTrainedTokenizerBase

from bertft.checkpoints.load import load_checkpoint, present_device
from bertft.data.plain_text import read_documents
from bertft.data.text_file import read_text_file
from bertft.errors import DataError, OptionError
from bertft.experiments.results import Drawing, Layout, Report, Results
from bertft.experiments.run import Run, same_run
from bertft.files import folder_lock, require_writable
from bertft.options import integer, integers, one_of, rate, several, share
from bertft.progress import Feedback, Progress, Say
from bertft.records import Row
from bertft.tasks.pretraining import HELD_OUT_SEED, PAPER, Pretraining, baselines, new_model
from bertft.tasks.sentence_pairs import FAR, FEWEST_SENTENCES, SentencePairs, Tokens, tokenise
from bertft.tasks.task import Records, TrainingRecipe
from bertft.tasks.training import Trained, train
from bertft.tasks.wordpiece import train_wordpiece
from bertft.untrusted import read_json

SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768)}
"""Number of blocks and width of each size. There is one attention head for every 64 dimensions, and the inner layers
are four times as wide. `base` is from Devlin et al. 2019, the others are from Turc et al. 2019."""

VOCABULARY = 30522
"""Default number of subwords in a vocabulary that is learned: that of `bert-base-uncased`."""

EVALUATIONS = 10
"""How often a model is evaluated and saved if `every` is not given."""

OPTIONS = "options.json"

TokenizerSource = str | os.PathLike[str] | PreTrainedTokenizerBase


@dataclass(frozen=True)
class PretrainResults(Results):
    """What `pretrain` returns.

    rows: one for each seed and metric, and for each baseline.  run: the record.  folders: of the models, by seed.
    """

    folders: dict[int, Path]

    layout: ClassVar[Layout] = Layout(("baseline",), ("metric",))

    title: ClassVar[str] = "Pre-training, on held-out text"
    stem: ClassVar[str] = "pretraining"

    def report(self) -> Report:
        """Return the figure `pretraining` and what was learnt."""
        from bertft.report.pretrain import COLUMNS, figures, findings

        return Report(COLUMNS, figures(self.rows, self.run), findings(self.rows, self.run))

    def drawing(self) -> Drawing:
        """Return the loss of masked words on held-out text by step, a line for each seed, and the baseline."""
        from bertft.report.drawing import Line
        from bertft.report.pretrain import described, finite

        lines = []
        for seed, of_seed in self.run["training"].items():
            points = [(row["step"], row["mlm_loss"]) for row in of_seed["history"] if finite(row["mlm_loss"])]
            lines.append(Line(f"seed {seed}", False, [x for x, _ in points], [y for _, y in points]))
        steps = [x for line in lines for x in line.layers] or [0]
        (lowest,) = (row["value"] for row in self.rows if row["baseline"] and row["metric"] == "mlm_loss")
        lines.append(Line("word frequencies", True, [min(steps), max(steps)], [lowest, lowest]))
        return Drawing("Masked words on held-out text", described(self.run), "Step", "Loss, nats per word", lines)


def pretrain(
    texts: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    size: str = "base",
    config: str | os.PathLike[str] | BertConfig | None = None,
    like: str | os.PathLike[str] | None = None,
    tokenizer: TokenizerSource | None = None,
    vocab_size: int = VOCABULARY,
    cased: bool = False,
    seeds: int | Sequence[int] = (1,),
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    max_length: int | None = None,
    duplicates: int | None = None,
    held_out: float = 0.02,
    every: int | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
    say: Say | None = None,
) -> PretrainResults:
    """Pre-train a BERT for each seed on masked words and next sentences, and write its models to a folder.

    texts: files with one sentence a line and a blank line between documents.
    out: the output directory; it gets `seed-1/last`, `seed-1/best` and so on.
    size: one of `SIZES`.  config: a `config.json` or a `BertConfig` to use instead.
    like: a model whose config and tokenizer to use, but not its weights.
    tokenizer: a model whose tokenizer to use. Without one, a WordPiece vocabulary of `vocab_size` subwords is learned
        from the texts; `cased` keeps their upper case and accents.
    seeds: of the models, one or several.
    steps, batch_size, learning_rate, max_length, duplicates: replace the numbers of the recipe `PAPER`.
    held_out: the share of the sentences to evaluate on.
    every: evaluate and save after so many steps; by default ten times.
    resume: continue the run that `out` holds; its options must be the same.
    device: see `bertft.score`.
    progress: called as progress(done, total, what).  say: called with lines of text for the user.

    Raises `DataError` for a text that cannot be read or is too short, `OptionError` for an option out of range or, with
    `resume`, one that differs, `CheckpointError` for a model that cannot be loaded, and `BertftError` if `out` cannot
    be written, holds the damaged models of this run or a run while `resume` is false, or if another run is at work
    there.

    >>> made = pretrain("wiki.txt", "runs/bert", size="mini", seeds=(1, 2, 3), steps=100_000)  # doctest: +SKIP
    >>> made.folders[1] / "last"  # doctest: +SKIP

    Source: Devlin et al. 2019, section 3; Merchant et al. 2020, section 5.1.
    """
    run, out, where = Run(Feedback(progress, say)), Path(out), present_device(device)
    recipe = _recipe(steps, batch_size, learning_rate, max_length, duplicates, every)
    seeds = integers("seed", seeds, least=0)
    share("held_out", held_out)
    given = ModelOptions(size, config, tokenizer, integer("vocab_size", vocab_size, least=1), cased).like(like)
    shape = given.shape()
    require_writable(out)
    with folder_lock(out):
        with run.clock.phase("read"):
            corpus = HeldOutCorpus.read(several("texts", texts, (str, os.PathLike)), held_out)
        run.notes += corpus.notes
        for note in corpus.notes:
            run.feedback.tell(note)
        with run.clock.phase("vocabulary"):
            subwords = given.tokenizer_for(corpus)
        subwords.model_max_length = recipe.max_length
        shape = _fitted(shape, subwords, recipe)
        with run.clock.phase("tokenise"):
            data = {
                name: Records(name, (_tokens(documents, subwords, name, run.feedback),), "")
                for name, documents in (("train", corpus.train), ("held out", corpus.held_out))
            }
        job = PretrainingJob(shape, subwords, data["train"], data["held out"], recipe, where)
        options = {**job.options(), "held_out": held_out, "corpus": corpus.record}
        pairs = job.held_out_pairs()
        lowest = baselines(job.data.items[0], pairs, shape.vocab_size)
        same_run(out / OPTIONS, options, resume=resume)
        trained = {
            seed: job.train(seed, out / f"seed-{seed}", run, f"seed {seed}, {number} of {len(seeds)}: ", resume=resume)
            for number, seed in enumerate(seeds, start=1)
        }
    record = run.record(
        {**options, "device": str(where)},
        seeds=seeds,
        tokens={name: len(records.items[0].numbers) for name, records in data.items()},
        held_out_pairs=len(pairs),
        parameters=job.parameters,
        training={seed: _history(found) for seed, found in trained.items()},
    )
    return PretrainResults(list(_rows(lowest, trained)), record, {seed: out / f"seed-{seed}" for seed in seeds})


@dataclass(frozen=True)
class ModelOptions:
    """Which model is pre-trained, and with which tokenizer; see `pretrain` for each option."""

    size: str
    config: str | os.PathLike[str] | BertConfig | None
    tokenizer: TokenizerSource | None
    vocab_size: int
    cased: bool

    def like(self, source: str | os.PathLike[str] | None) -> ModelOptions:
        """Return the options with the config of a model, if there is one, and its tokenizer unless one was given."""
        if source is None:
            return self
        if self.config is not None:
            raise OptionError("both a config and a model to be like were given; give one of them")
        model = load_checkpoint(os.fspath(source))
        config = model.model.config
        if not isinstance(config, BertConfig):
            raise OptionError(
                f"{model.name} is a {config.model_type}; only a BERT can be pre-trained: give a BERT, or a size"
            )
        return dataclasses.replace(self, config=config, tokenizer=self.tokenizer or model.tokenizer)

    def shape(self) -> BertConfig:
        """Return the config that was asked for; raises `OptionError` for one that is not that of a BERT."""
        if isinstance(self.config, BertConfig):
            return self.config
        if self.config is None:
            blocks, width = SIZES[one_of("size", self.size, SIZES)]
            return BertConfig(
                num_hidden_layers=blocks,
                hidden_size=width,
                num_attention_heads=width // 64,
                intermediate_size=4 * width,
            )
        try:
            settings = read_json(Path(self.config))
        except (OSError, ValueError) as error:
            raise OptionError(f"{self.config}: not readable as JSON ({error}); give a config.json of a BERT") from None
        if not isinstance(settings, dict) or settings.get("model_type", "bert") != "bert":
            raise OptionError(f"{self.config}: not the config of a BERT; only a BERT can be pre-trained")
        try:
            return BertConfig(**settings)
        except (TypeError, ValueError) as error:
            raise OptionError(f"{self.config}: not the config of a BERT ({error})") from None

    def tokenizer_for(self, corpus: HeldOutCorpus) -> PreTrainedTokenizerBase:
        """Return the tokenizer that was given, or learn one from the training documents of a corpus."""
        if isinstance(self.tokenizer, PreTrainedTokenizerBase):
            return self.tokenizer
        if self.tokenizer is not None:
            return load_checkpoint(os.fspath(self.tokenizer)).tokenizer
        sentences = [sentence for document in corpus.train for sentence in document]
        return train_wordpiece(sentences, self.vocab_size, cased=self.cased)


@dataclass(frozen=True)
class PretrainingJob:
    """The pre-training of a model: everything that the result depends on, except for the seed."""

    shape: BertConfig
    tokenizer: PreTrainedTokenizerBase
    data: Records[Tokens]
    held_out: Records[Tokens]
    recipe: TrainingRecipe
    device: torch.device

    @property
    def parameters(self) -> int:
        """The number of parameters of a model."""
        with torch.device("meta"):
            return int(BertForPreTraining(self.shape).num_parameters())

    def options(self) -> dict[str, Any]:
        """Return what must be the same when a run is resumed, without the text."""
        return {
            "recipe": dataclasses.asdict(self.recipe),
            "config": self.shape.to_diff_dict(),
            "vocabulary": {"size": len(self.tokenizer), "content_hash": _vocabulary_hash(self.tokenizer)},
        }

    def held_out_pairs(self) -> SentencePairs:
        """Return the pairs to evaluate on."""
        (tokens,) = self.held_out.items
        return SentencePairs(tokens, self.tokenizer, self.recipe.max_length, passes=1, seed=HELD_OUT_SEED)

    def train(self, seed: int, folder: Path, run: Run, prefix: str, *, resume: bool) -> Trained:
        """Train a model with one seed and write it to a folder; `prefix` goes before the progress of the run."""
        task = Pretraining(seed)
        with run.clock.phase("train"):
            model = new_model(self.shape, seed)
            model.to(self.device)  # type: ignore[arg-type]
            return train(
                task,
                model,
                self.tokenizer,
                self.data,
                self.held_out,
                folder,
                self.recipe,
                seed=seed,
                resume=resume,
                condense=task.condense,
                progress=run.feedback.prefixed(prefix),
                say=run.feedback.say,
            )


@dataclass(frozen=True)
class HeldOutCorpus:
    """The documents of all files, split into those to train on and those to evaluate on."""

    train: list[tuple[str, ...]]
    held_out: list[tuple[str, ...]]
    record: dict[str, Any]
    notes: tuple[str, ...]

    @classmethod
    def read(cls, paths: Sequence[str | os.PathLike[str]], share: float) -> HeldOutCorpus:
        """Read the files in order; a document ends at the end of its file."""
        if not paths:
            raise DataError("no text was given; give at least one file")
        files = [read_text_file(Path(path)) for path in paths]
        documents = [document for file in files for document in read_documents(file)]
        train, held_out = _split(documents, share)
        notes: tuple[str, ...] = ()
        if len(documents) == 1:
            notes = (
                f"{files[0].path.name} has no blank lines and counts as one document: a second segment that does not "
                f"follow the first one is taken from at least {FAR} sentences away instead of from another document",
            )
        record = {
            "files": {file.path.name: file.content_hash for file in files},
            "documents": len(documents),
            "sentences": {"train": sum(map(len, train)), "held out": sum(map(len, held_out))},
        }
        return cls(train, held_out, record, notes)


def _split(documents: Sequence[tuple[str, ...]], share: float) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return the training documents and the held-out ones, which are drawn; the last of these is cut to the share."""
    total = sum(map(len, documents))
    wanted = max(FEWEST_SENTENCES, round(share * total))
    if total - wanted < FEWEST_SENTENCES:
        raise DataError(
            f"the text has {total} sentences; give at least {2 * FEWEST_SENTENCES}, and hold out fewer than all but "
            f"{FEWEST_SENTENCES} of them"
        )
    kept = dict(enumerate(documents))
    held_out = []
    for number in np.random.default_rng(HELD_OUT_SEED).permutation(len(documents)).tolist():
        document = kept.pop(number)
        if len(document) > wanted:
            kept[number] = document[:-wanted]
        held_out.append(document[-wanted:])
        wanted -= len(held_out[-1])
        if not wanted:
            break
    return [kept[number] for number in sorted(kept)], held_out


def _tokens(
    documents: Sequence[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase, name: str, feedback: Feedback
) -> Tokens:
    progress = feedback.phase(f"tokenising ({name})")

    def reported() -> Iterator[tuple[str, ...]]:
        for number, document in enumerate(documents):
            if progress is not None:
                progress(number, len(documents))
            yield document

    return tokenise(reported(), tokenizer)


def _recipe(
    steps: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    max_length: int | None,
    duplicates: int | None,
    every: int | None,
) -> TrainingRecipe:
    """Return the recipe `PAPER` with the numbers that were given; raises `OptionError` for one out of range."""
    given = {"steps": steps, "batch_size": batch_size, "max_length": max_length}
    whole: dict[str, Any] = {name: integer(name, value, least=1) for name, value in given.items() if value is not None}
    recipe = dataclasses.replace(PAPER, **whole)
    if learning_rate is not None:
        recipe = dataclasses.replace(recipe, learning_rate=rate(learning_rate))
    if duplicates is not None:
        recipe = dataclasses.replace(recipe, extras={"duplicates": integer("duplicates", duplicates, least=1)})
    assert recipe.steps is not None
    chosen = -(-recipe.steps // EVALUATIONS) if every is None else integer("every", every, least=1)
    return dataclasses.replace(recipe, every=chosen)


def _fitted(shape: BertConfig, tokenizer: PreTrainedTokenizerBase, recipe: TrainingRecipe) -> BertConfig:
    """Return the config with an embedding for each subword; raises `OptionError` for one that cannot be built."""
    fitted: BertConfig = BertConfig.from_dict({**shape.to_dict(), "vocab_size": len(tokenizer)})
    fitted.pad_token_id = tokenizer.pad_token_id
    if fitted.hidden_size % fitted.num_attention_heads:
        raise OptionError(
            f"a width of {fitted.hidden_size} cannot be divided into {fitted.num_attention_heads} heads; "
            "give a hidden_size that num_attention_heads divides"
        )
    if recipe.max_length > fitted.max_position_embeddings:
        raise OptionError(
            f"max_length is {recipe.max_length}, and the config has {fitted.max_position_embeddings} positions; "
            "give a lower max_length, or a config with more positions"
        )
    return fitted


def _vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def _history(trained: Trained) -> dict[str, Any]:
    best = min(trained.history, key=lambda row: float(row[Pretraining.metric]))
    return {"history": trained.history, "best_step": int(best["step"])}


def _rows(lowest: dict[str, float], trained: dict[int, Trained]) -> Iterator[Row]:
    """Yield the baselines, then the metrics of each seed at its last step."""
    for name, value in lowest.items():
        yield {"seed": None, "baseline": True, "metric": name, "value": value}
    for seed, found in trained.items():
        for name in lowest:
            yield {"seed": seed, "baseline": False, "metric": name, "value": found.history[-1][name]}
