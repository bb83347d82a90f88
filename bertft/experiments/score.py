"""How far fine-tuning moved each layer: base and tuned checkpoints, texts and measures in; rows of numbers out.

The tokens are drawn once and every model reads the same batches. The hidden states go into one accumulator for each
pair of models and each layer, from which all measures are read at the end, so memory does not grow with the number of
tokens.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from bertft.activations.manner import manner_of
from bertft.activations.stimuli import Stimuli
from bertft.checkpoints.anatomy import hidden_size, n_layers
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.compare import check_added_tokens, check_same_tokenizer
from bertft.data import Corpus
from bertft.errors import CheckpointError, OptionError
from bertft.experiments.comparison import Comparison, Pair, PairStates, ScoreOptions
from bertft.experiments.inputs import Computation, Sampling, Source, Text, corpora_of, notes_on, sources_of
from bertft.experiments.results import Scores
from bertft.experiments.run import Run
from bertft.measures import LEAST_GROUPS, evaluate, resolve
from bertft.options import check_bases, several
from bertft.progress import Feedback, PhaseProgress, Progress
from bertft.records import Row

PAIRS, PAIRS_OF_BASES = "pairs", "pairs of bases"
"""What the pairs of a group are called where their mean is reported."""

_TOKENIZER_SAMPLE = 100  # texts of each corpus that the tokenizers must encode alike


def score(
    base: Source | Sequence[Source],
    tuned: Source | Sequence[Source],
    texts: str | os.PathLike[str] | Corpus | Sequence[os.PathLike[str] | Corpus] | Sequence[Text],
    *,
    tokens: int | str | None = 5000,
    sentences: int | str | None = 1000,
    seed: int = 0,
    layers: str | int | Iterable[int] = "all",
    measures: str | Sequence[str] = ("rsa",),
    special_tokens: bool = False,
    standardize: bool = False,
    dtype: str = "float32",
    device: str = "auto",
    batch_tokens: int | None = None,
    max_length: int | None = None,
    single: bool = False,
    allow_pickle: bool = False,
    compare_bases: bool = False,
    progress: Progress | None = None,
) -> Scores:
    """Compare the hidden states of each tuned checkpoint with the base's, layer by layer, on the same drawn tokens.

    base, tuned: folders of models or of adapters, hub names, or loaded `Checkpoint`s. One base is compared with each
        tuned checkpoint. A list of bases, such as seeds of one pre-training, is paired with the tuned checkpoints one
        by one, and further rows give the mean over the pairs and their standard deviation (`spread`, `n_pairs`).
    compare_bases: also compare the bases of such a list with one another: what repeating pre-training changes.
    texts: a file, several files (as `Path`s), a list of strings or (text, pair) tuples, or a `Corpus`.
    single: read only the first text of each pair.
    tokens, sentences: how many sentences to draw from each corpus, and how many of their tokens; "all" or None takes
        every one. Special tokens such as [CLS] are drawn only with `special_tokens`.
    seed: of both draws.
    measures: names of `bertft.measures.MEASURES`.
    layers: "all", a number, several, or a text such as "0,3-5,-1"; 0 is the output of the embeddings.
    standardize: turn every dimension of every layer into z-scores over the drawn tokens. The means and standard
        deviations are exact and take a first pass of the models over the same batches.
    dtype, device: of the models that are loaded; `Checkpoint`s stay as they are.
    batch_tokens: the most tokens in one batch, padding included.
    max_length: where texts are cut, in tokens; at most the limit of the models.
    allow_pickle: also load weights that are pickled. Do this only if you trust their author.
    progress: called as progress(done, total, what) after every batch.

    A layer scores exactly 1, and is run once, where its weights and those of all layers below equal the base's, bit for
    bit.

    Raises `CheckpointError` for models that cannot be loaded or compared, `DataError` for texts that cannot be read,
    `OptionError` for an option out of range, and `ArrayError` for hidden states that are not finite.

    >>> scores = score("bert-base-uncased", "runs/mnli", "wiki.txt")  # doctest: +SKIP
    >>> scores.to_frame().pivot(index="layer", columns="tuned", values="value")  # doctest: +SKIP

    Source: Merchant et al. 2020, sections 5.1 and 6; for `standardize`, Timkey and van Schijndel 2021.
    """
    run = Run(Feedback(progress))
    named = several("measures", measures, str)
    resolve(named)  # a wrong name is reported before models are loaded
    flags = {"special_tokens": special_tokens, "single": single}
    sampling = Sampling.checked(tokens=tokens, sentences=sentences, seed=seed, max_length=max_length, **flags)
    computation = Computation(device, dtype, batch_tokens, allow_pickle)
    sources, indices = _grouped(base, tuned, compare_bases=compare_bases)
    with run.clock.phase("read"):
        corpora = corpora_of(texts, single=single)
    with run.clock.phase("load"):
        checkpoints = computation.load(sources)
        _check_comparable(checkpoints, corpora)
        groups = {
            what: [Pair.of(checkpoints[one], checkpoints[other]) for one, other in pairs]
            for what, pairs in indices.items()
        }
    options = ScoreOptions.of(
        checkpoints, sampling, computation, layers=layers, measures=named, standardize=standardize
    )
    run.notes += notes_on(checkpoints)
    run.notes += [note for checkpoint in checkpoints for note in manner_of(checkpoint).notes(checkpoint.name)]
    run.notes += [note for pairs in groups.values() for pair in pairs for note in pair.notes(options.layers)]
    rows, padding = _score_corpora(corpora, checkpoints, groups, options, run)
    record = run.record(
        options.record(),
        seed=sampling.seed,
        checkpoints={checkpoint.name: checkpoint.content_hash for checkpoint in checkpoints},
        corpora={corpus.name: corpus.content_hash for corpus in corpora},
        padding=padding,
    )
    return Scores(rows, record)


def _grouped(
    base: Source | Sequence[Source], tuned: Source | Sequence[Source], *, compare_bases: bool
) -> tuple[list[Source], dict[str, list[tuple[int, int]]]]:
    """Return what is to be loaded, and the pairs (base, tuned) of its indices, grouped by what they are averaged as.

    The group "" has no average.
    """
    bases, others = sources_of("base", base), sources_of("tuned", tuned)
    if not others:
        raise OptionError("no tuned checkpoint was given; give at least one to compare with the base")
    if isinstance(base, str | os.PathLike | Checkpoint):
        check_bases(base, compare=compare_bases)
        return [base, *others], {"": [(0, index) for index in range(1, len(others) + 1)]}
    if len(bases) != len(others):
        raise OptionError(
            f"{len(bases)} bases and {len(others)} tuned checkpoints were given; a list of bases is paired with the "
            "tuned one by one, so give as many (a base that is not in a list is compared with all of them)"
        )
    # A base of several pairs is loaded, and run, once.
    keys = [id(source) if isinstance(source, Checkpoint) else os.fspath(source) for source in bases]
    distinct = dict(zip(keys, bases, strict=True))
    indices = [list(distinct).index(key) for key in keys]
    groups = {PAIRS: [(index, len(distinct) + number) for number, index in enumerate(indices)]}
    if compare_bases:
        if len(distinct) < 2:
            raise OptionError("all pairs have the same base; give at least two bases to compare with one another")
        groups[PAIRS_OF_BASES] = list(itertools.combinations(range(len(distinct)), 2))
    return [*distinct.values(), *others], groups


def _comparisons(groups: Mapping[str, Sequence[Pair]]) -> list[Comparison]:
    """Return the passes over a corpus: one for each base, or one for all pairs if bases are compared with bases."""
    pairs = [pair for group in groups.values() for pair in group]
    if PAIRS_OF_BASES in groups:
        return [Comparison(tuple(pairs))]
    bases = dict.fromkeys(pair.base.name for pair in pairs)
    return [Comparison(tuple(pair for pair in pairs if pair.base.name == base)) for base in bases]


def _score_corpora(
    corpora: Sequence[Corpus],
    checkpoints: Sequence[Checkpoint],
    groups: Mapping[str, Sequence[Pair]],
    options: ScoreOptions,
    run: Run,
) -> tuple[list[Row], dict[str, float]]:
    """Return the rows of all corpora, and the share of padding of each."""
    rows: list[Row] = []
    padding: dict[str, float] = {}
    for corpus in corpora:
        with run.clock.phase("tokenise"):
            base, *others = checkpoints
            stimuli = options.sampling.draw(corpus, base.tokenizer, options.batch_tokens, options.grouping)
            drawn = [text for example in stimuli.examples for text in (example.text, example.pair) if text]
            run.notes += [note for other in others if (note := check_added_tokens(base, other, drawn))]
        run.notes += stimuli.notes
        run.notes += _memory_notes(stimuli, groups, options)
        padding[corpus.name] = stimuli.padding
        rows += _score_corpus(stimuli, groups, options, run)
    return rows, padding


def _memory_notes(stimuli: Stimuli, groups: Mapping[str, Sequence[Pair]], options: ScoreOptions) -> Iterator[str]:
    """Yield a note on the vectors that measures of all rows keep in memory, which grow with the tokens drawn."""
    named = [measure.name for measure in options.measures if measure.of is None]
    most = max(
        sum(
            (hidden_size(pair.base.model) + hidden_size(pair.tuned.model))
            * sum(layer > pair.shared for layer in options.layers)
            for pair in comparison.pairs
        )
        for comparison in _comparisons(groups)
    )
    if named and most:
        n = stimuli.draw.n_tokens
        yield (
            f"{stimuli.corpus.name}: {', '.join(named)} needs the vectors of all {n:,} tokens, which took "
            f"{max(1, round(4 * n * most / 2**20)):,} MiB of memory; draw fewer tokens to take less"
        )


def _score_corpus(
    stimuli: Stimuli, groups: Mapping[str, Sequence[Pair]], options: ScoreOptions, run: Run
) -> Iterator[Row]:
    """Yield the rows of a corpus, those of each group followed by its means."""
    found: dict[tuple[str, str], list[Row]] = {}
    comparisons = _comparisons(groups)
    streams = sum(len(comparison.bases) for comparison in comparisons)
    step = _counter(run.feedback.phase(stimuli.corpus.name), streams * len(stimuli.plan) * (1 + options.standardize))
    for comparison in comparisons:
        states = comparison.accumulate(stimuli, options, run.clock, step)
        with run.clock.phase("measures"):
            for pair, of_pair in zip(comparison.pairs, states, strict=True):
                found[pair.base.name, pair.tuned.name] = _rows(stimuli, pair, options, of_pair)
    rows = [row for of_pair in found.values() for row in of_pair]
    run.notes += _error_notes(rows)
    for what, pairs in groups.items():
        own = [found[pair.base.name, pair.tuned.name] for pair in pairs]
        yield from itertools.chain.from_iterable(own)
        if what and len(pairs) > 1:
            bases = list(dict.fromkeys(pair.base.name for pair in groups[PAIRS]))
            yield from _averaged(own, what, bases[0] if len(bases) == 1 else f"{len(bases)} bases")


def _counter(progress: PhaseProgress | None, total: int) -> Callable[[], None]:
    """Return a function that reports one step more, out of `total`, each time it is called."""
    steps = itertools.count(1)
    return lambda: None if progress is None else progress(next(steps), total)


def _averaged(pairs: Sequence[Sequence[Row]], what: str, bases: str) -> list[Row]:
    """Return the rows of the mean over pairs, given the rows of each; mean and deviation are nan if a value is."""
    rows = []
    for same in zip(*pairs, strict=True):
        values = np.array([row["value"] for row in same])
        rows.append(
            {
                **same[0],
                "base": bases,
                "tuned": f"mean of {len(pairs)} {what}",
                "value": float(values.mean()),
                "stderr": math.nan,
                "n_stderr_sentences": 0,
                "spread": float(values.std(ddof=1)),
                "n_pairs": len(pairs),
            }
        )
    return rows


def _check_comparable(checkpoints: Sequence[Checkpoint], corpora: Iterable[Corpus]) -> None:
    """Raise `CheckpointError` for models that cannot be compared layer by layer on the same tokens."""
    base, *others = checkpoints
    sample = [example.text for corpus in corpora for example in corpus.examples[:_TOKENIZER_SAMPLE]]
    for checkpoint in checkpoints:
        if checkpoint.model.training:
            raise CheckpointError(
                f"{checkpoint.name}: the model is in training mode, so dropout would change its hidden states at "
                "random; call model.eval() first"
            )
    for other in others:
        if n_layers(other.model) != n_layers(base.model):
            raise CheckpointError(
                f"{base.name} has {n_layers(base.model)} blocks and {other.name} has {n_layers(other.model)}; "
                "layers are compared one by one, so give models of the same depth"
            )
        for what in ("device", "dtype"):
            ours, theirs = getattr(base.model, what), getattr(other.model, what)
            if ours != theirs:
                raise CheckpointError(
                    f"{base.name} has the {what} {ours} and {other.name} has {theirs}; load both with the same {what}"
                )
        check_same_tokenizer(base, other, sample)


def _rows(stimuli: Stimuli, pair: Pair, options: ScoreOptions, states: PairStates) -> list[Row]:
    """Return the rows of one pair on one corpus, by layer and measure."""
    rows, drawn = [], stimuli.draw.n_sentences
    for layer in options.layers:
        for measure in options.measures:
            if layer <= pair.shared and measure.equal_spaces is not None:
                value, stderr, sampled = measure.equal_spaces, 0.0, drawn
            else:
                value, stderr = evaluate(measure.name, states[layer])
                # A measure of all rows has its standard error from all of them.
                used = drawn if measure.of is None else states[layer].sampled_groups
                sampled = 0 if math.isnan(stderr) else used
            rows.append(
                {
                    "base": pair.base.name,
                    "tuned": pair.tuned.name,
                    "corpus": stimuli.corpus.name,
                    "layer": layer,
                    "measure": measure.name,
                    "value": value,
                    "stderr": stderr,
                    "n_tokens": stimuli.draw.n_tokens,
                    "n_sentences": drawn,
                    "n_stderr_sentences": sampled,
                }
            )
    return rows


def _error_notes(rows: Sequence[Row]) -> Iterator[str]:
    """Yield notes on the standard errors of one corpus: which are missing and why, and how many sentences they use."""
    corpus, drawn = rows[0]["corpus"], rows[0]["n_sentences"]
    missing = [row for row in rows if math.isnan(row["stderr"]) and not math.isnan(row["value"])]
    if missing and drawn < LEAST_GROUPS:
        yield (
            f"{corpus}: no standard errors, because the tokens come from {drawn} sentences; at least {LEAST_GROUPS} "
            "are needed"
        )
    elif missing:
        where = ", ".join(dict.fromkeys(f"{row['measure']} at layer {row['layer']}" for row in missing))
        yield f"{corpus}: no standard error of {where}, because the value is undefined when a sentence is left out"
    fewest = min((row["n_stderr_sentences"] for row in rows if row["n_stderr_sentences"]), default=drawn)
    if fewest < drawn:
        yield f"{corpus}: the standard errors use {fewest:,} of the {drawn:,} sentences, chosen at random"
