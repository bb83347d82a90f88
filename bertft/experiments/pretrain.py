"""Pre-training from scratch: a plain text in, BERTs of several seeds out, which differ in nothing but the seed.

The paper repeats BERT's pre-training three times, so that what is seen in one model is not taken for a property of
all. A seed draws the weights, the pairs, the masks and their order; the vocabulary and the held-out text, by which the
models are judged, are the same for all. Beside the metrics stand the floors of guesses that look at no context.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertConfig, PreTrainedTokenizerBase

from bertft.checkpoints.load import load_checkpoint, present_device
from bertft.data.plain_text import read_documents
from bertft.data.text_file import read_text_file
from bertft.errors import DataError, OptionError
from bertft.experiments.run import Clock, same_run, versions
from bertft.options import integer
from bertft.progress import Progress, Say
from bertft.records import Row
from bertft.tasks.pretraining import HELD_OUT_SEED, PAPER, Pretraining, floors, new_model
from bertft.tasks.sentence_pairs import FAR, FEWEST_SENTENCES, SentencePairs, Tokens, tokenise
from bertft.tasks.task import Recipe, Records
from bertft.tasks.training import Trained, train
from bertft.tasks.wordpiece import train_wordpiece

SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768)}
"""Blocks and width, with a head for every 64 and inner layers four times as wide; base is Devlin et al.'s, the others
are Turc et al.'s 2019."""

VOCABULARY = 30522
"""Pieces of the vocabulary that is learnt where none is asked for: as many as of `bert-base-uncased`."""

EVALUATIONS = 10
"""How often a run is judged and saved where `every` is not given."""

OPTIONS = "options.json"


@dataclass(frozen=True)
class Pretrained:
    """What `pretrain` made: one row for each seed and metric and for each floor, the run, and a folder a seed."""

    rows: list[Row]
    run: dict[str, Any]
    folders: dict[int, Path]


def pretrain(
    texts: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    size: str = "base",
    config: str | os.PathLike[str] | BertConfig | None = None,
    like: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
    vocab_size: int = VOCABULARY,
    cased: bool = False,
    seeds: Sequence[int] = (1,),
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
) -> Pretrained:
    """Pre-train one BERT a seed on masked words and next sentences, and write each to `out/seed-N`, `last` and `best`.

    texts: files of one sentence a line, with a blank line between documents.
    size: one of `SIZES`; config: a `config.json` or a `BertConfig` instead; like: a model to take config and tokenizer
        of, its weights left behind.
    tokenizer: a model to take it of; without it a WordPiece vocabulary of `vocab_size` is learnt from the texts, which
        `cased` keeps in case.
    steps, batch_size, learning_rate, max_length, duplicates: of the recipe `PAPER` unless given.
    held_out: the share of the sentences to judge by.  every: judge and save after so many steps.
    resume: take up what `out` holds of the same run.  progress: called as progress(done, total, what).
    say: called with lines for people.

    Raises `DataError` for a text that cannot be read or is too short, `OptionError` for an option out of range or, with
    `resume`, another than before, `CheckpointError` for a model that cannot be read, `BertftError` where `out` cannot
    be written or holds a run and `resume` is not asked for.

    >>> made = pretrain("wiki.txt", "runs/bert", size="mini", seeds=(1, 2, 3), steps=100_000)  # doctest: +SKIP
    >>> made.folders[1] / "last"  # doctest: +SKIP

    Source: Devlin et al. 2019, section 3; Merchant et al. 2020, section 5.1.
    """
    clock, out, where = Clock(), Path(out), present_device(device)
    say = say or (lambda _: None)
    recipe = _recipe(steps, batch_size, learning_rate, max_length, duplicates, every)
    seeds = tuple(dict.fromkeys(integer("seed", seed, least=0) for seed in seeds))
    if not seeds:
        raise OptionError("no seed was given; give at least one")
    if not 0 < held_out < 1:
        raise OptionError(f"held_out is {held_out!r}; give a share of the sentences above 0 and below 1")
    if like is not None:
        config, tokenizer = _taken(like, config, tokenizer)
    shape = _config(size, config)
    with clock.phase("read"):
        corpus = _Corpus.read([texts] if isinstance(texts, str | os.PathLike) else list(texts), held_out)
    for note in corpus.notes:
        say(note)
    with clock.phase("vocabulary"):
        pieces = _tokenizer(tokenizer, corpus, vocab_size, cased)
    pieces.model_max_length = recipe.max_length
    shape = _fitted(shape, pieces, recipe)
    with clock.phase("tokenise"):
        records = {
            name: Records(name, (_tokens(documents, pieces, name, progress),), "")
            for name, documents in (("train", corpus.train), ("held out", corpus.held_out))
        }
    judged = SentencePairs(records["held out"].items[0], pieces, recipe.max_length, passes=1, seed=HELD_OUT_SEED)
    floor = floors(records["train"].items[0], judged, shape.vocab_size)
    options = {
        "recipe": dataclasses.asdict(recipe),
        "config": shape.to_diff_dict(),
        "vocabulary": {"size": len(pieces), "content_hash": _vocabulary_hash(pieces)},
        "held_out": held_out,
        "corpus": corpus.record,
    }
    same_run(out / OPTIONS, options, resume=resume)

    rows = [{"seed": None, "baseline": True, "metric": name, "value": value} for name, value in floor.items()]
    trained: dict[int, Trained] = {}
    for number, seed in enumerate(seeds, start=1):
        with clock.phase("train"):
            model = new_model(shape, seed)
            model.to(where)  # type: ignore[arg-type]
            trained[seed] = train(
                Pretraining(seed),
                model,
                pieces,
                records["train"],
                records["held out"],
                out / f"seed-{seed}",
                recipe,
                seed=seed,
                resume=resume,
                condense=Pretraining(seed).condense,
                progress=_named(progress, f"seed {seed}, {number} of {len(seeds)}: "),
            )
        last = trained[seed].history[-1]
        rows += [{"seed": seed, "baseline": False, "metric": name, "value": last[name]} for name in floor]
    run = {
        "versions": versions(),
        "seeds": seeds,
        "options": {**options, "device": str(where)},
        "tokens": {name: len(record.items[0].numbers) for name, record in records.items()},
        "held_out_pairs": len(judged),
        "parameters": model.num_parameters(),
        "notes": list(corpus.notes),
        "training": {
            seed: {"history": found.history, "best_step": _best_step(found), "seconds": found.seconds}
            for seed, found in trained.items()
        },
        "timings": clock.timings(),
    }
    return Pretrained(rows, run, {seed: out / f"seed-{seed}" for seed in seeds})


@dataclass(frozen=True)
class _Corpus:
    """The documents of all files, parted into those to train on and those to judge by."""

    train: list[tuple[str, ...]]
    held_out: list[tuple[str, ...]]
    record: dict[str, Any]
    notes: tuple[str, ...]

    @classmethod
    def read(cls, paths: Sequence[str | os.PathLike[str]], share: float) -> _Corpus:
        """Read the files in order; a document ends with its file."""
        if not paths:
            raise DataError("no text was given; give at least one file")
        files = [read_text_file(Path(path)) for path in paths]
        documents = [document for file in files for document in read_documents(file)]
        train, held_out = _parted(documents, share)
        notes: tuple[str, ...] = ()
        if len(documents) == 1:
            notes = (
                f"{files[0].path.name} has no blank lines and counts as one document: where the second segment is not "
                f"the next one, it comes from {FAR} sentences away or more instead of from another document",
            )
        record = {
            "files": {file.path.name: file.content_hash for file in files},
            "documents": len(documents),
            "sentences": {"train": sum(map(len, train)), "held out": sum(map(len, held_out))},
        }
        return cls(train, held_out, record, notes)


def _parted(documents: Sequence[tuple[str, ...]], share: float) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The documents without the held-out share of their sentences, and these: documents drawn, the last cut to size."""
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
    documents: Sequence[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase, name: str, progress: Progress | None
) -> Tokens:
    def watched() -> Any:
        for number, document in enumerate(documents):
            if progress is not None:
                progress(number, len(documents), f"tokenising ({name})")
            yield document

    return tokenise(watched(), tokenizer)


def _recipe(
    steps: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    max_length: int | None,
    duplicates: int | None,
    every: int | None,
) -> Recipe:
    """The paper's recipe with what was given in its place."""
    given = {"steps": steps, "batch_size": batch_size, "max_length": max_length}
    whole: dict[str, Any] = {name: integer(name, value, least=1) for name, value in given.items() if value is not None}
    recipe = dataclasses.replace(PAPER, **whole)
    if learning_rate is not None:
        if not learning_rate > 0:
            raise OptionError(f"learning_rate is {learning_rate!r}; give a number above 0")
        recipe = dataclasses.replace(recipe, learning_rate=float(learning_rate))
    if duplicates is not None:
        recipe = dataclasses.replace(recipe, extras={"duplicates": integer("duplicates", duplicates, least=1)})
    assert recipe.steps is not None
    chosen = -(-recipe.steps // EVALUATIONS) if every is None else integer("every", every, least=1)
    return dataclasses.replace(recipe, every=chosen)


def _taken(
    like: str | os.PathLike[str], config: object, tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None
) -> tuple[BertConfig, str | os.PathLike[str] | PreTrainedTokenizerBase]:
    """The config of a model, and its tokenizer unless another was given."""
    if config is not None:
        raise OptionError("both a config and a model to be like were given; give one of them")
    model = load_checkpoint(os.fspath(like))
    if not isinstance(model.model.config, BertConfig):
        raise OptionError(
            f"{model.name} is a {model.model.config.model_type}; only a BERT can be pre-trained: take a BERT, or a size"
        )
    return model.model.config, model.tokenizer if tokenizer is None else tokenizer


def _config(size: str, config: str | os.PathLike[str] | BertConfig | None) -> BertConfig:
    """The shape asked for."""
    if isinstance(config, BertConfig):
        return config
    if config is None:
        if size not in SIZES:
            raise OptionError(f"unknown size {size!r}; choose one of {', '.join(SIZES)}, or give a config")
        blocks, width = SIZES[size]
        return BertConfig(
            num_hidden_layers=blocks,
            hidden_size=width,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
        )
    try:
        settings = json.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{config}: not readable as JSON ({error}); give a config.json of a BERT") from error
    if not isinstance(settings, dict) or settings.get("model_type", "bert") != "bert":
        raise OptionError(f"{config}: not the config of a BERT; only a BERT can be pre-trained")
    try:
        return BertConfig(**settings)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{config}: not the config of a BERT ({error})") from error


def _tokenizer(
    given: str | os.PathLike[str] | PreTrainedTokenizerBase | None, corpus: _Corpus, size: int, cased: bool
) -> PreTrainedTokenizerBase:
    if isinstance(given, PreTrainedTokenizerBase):
        return given
    if given is not None:
        return load_checkpoint(os.fspath(given)).tokenizer
    sentences = [sentence for document in corpus.train for sentence in document]
    return train_wordpiece(sentences, integer("vocab_size", size, least=1), cased=cased)


def _fitted(shape: BertConfig, pieces: PreTrainedTokenizerBase, recipe: Recipe) -> BertConfig:
    """The shape with as many embeddings as there are pieces; raises `OptionError` for one that cannot be built."""
    fitted: BertConfig = BertConfig.from_dict({**shape.to_dict(), "vocab_size": len(pieces)})
    fitted.pad_token_id = pieces.pad_token_id
    if fitted.hidden_size % fitted.num_attention_heads:
        raise OptionError(
            f"a width of {fitted.hidden_size} cannot be parted into {fitted.num_attention_heads} heads; "
            "give a hidden_size that num_attention_heads divides"
        )
    if recipe.max_length > fitted.max_position_embeddings:
        raise OptionError(
            f"max_length is {recipe.max_length}, and the config has {fitted.max_position_embeddings} positions; "
            "give a lower max_length, or a config of more"
        )
    return fitted


def _vocabulary_hash(pieces: PreTrainedTokenizerBase) -> str:
    return hashlib.sha256(json.dumps(sorted(pieces.get_vocab().items())).encode()).hexdigest()


def _named(progress: Progress | None, before: str) -> Progress | None:
    return None if progress is None else lambda done, total, what: progress(done, total, before + what)


def _best_step(trained: Trained) -> int:
    return int(min(trained.history, key=lambda row: float(row[Pretraining.metric]))["step"])
