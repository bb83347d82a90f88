"""`score` from folders to rows, against dense float64 arithmetic on the hidden states transformers returns."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from bertft.activations.encode import tokenise
from bertft.activations.sampling import draw_sentences, draw_tokens
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.load import load_checkpoint
from bertft.data import corpus_from_texts
from bertft.errors import ArrayError, CheckpointError, DataError, OptionError
from bertft.experiments.inputs import distinct_names
from bertft.experiments.results import Scores
from bertft.experiments.score import _averaged, score
from bertft.kernels import reference
from bertft.measures import MEASURES
from bertft.records import TOLD
from bertft.similarity.pair_moments import PairMoments

DEPTH = 4
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "under", "a", "mat", "tree", "while", "rain", "fell", "softly"]
COLUMNS = [
    *("base", "tuned", "corpus", "layer", "measure", "value", "stderr"),
    *("n_tokens", "n_sentences", "n_stderr_sentences"),
]


def made_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    return tiny.tokenizer(words, model_input_names=["input_ids", "attention_mask", "token_type_ids"])


def made_model(seed: int = 0, **changes: Any) -> BertModel:
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": len(WORDS) + 4,
        "max_position_embeddings": 40,
        "initializer_range": 0.3,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertModel(BertConfig(**(shape | changes))).eval()


def changed(model: BertModel, blocks: Sequence[int], amount: float = 0.4) -> BertModel:
    """A copy whose weights in these blocks were moved, as fine-tuning would."""
    tuned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for block in blocks:
            for parameter in tuned.encoder.layer[block].parameters():
                parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return tuned


def saved(model: BertModel, folder: Path, words: Sequence[str] = WORDS) -> Path:
    return tiny.save(folder, model, made_tokenizer(words))


def some_texts(count: int = 120, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(2, 24))) for _ in range(count)]


TEXTS = some_texts()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, one copy changed in every block, and one whose first two blocks are frozen."""
    root = tmp_path_factory.mktemp("checkpoints")
    base = made_model()
    everywhere = changed(base, range(DEPTH))
    with torch.no_grad():
        everywhere.embeddings.word_embeddings.weight.mul_(1.3)
    return {
        "base": saved(base, root / "base"),
        "tuned": saved(everywhere, root / "tuned"),
        "frozen": saved(changed(base, [2, 3]), root / "frozen"),
        "wider": saved(made_model(hidden_size=48), root / "wider"),
    }


def drawn_rows(folder: Path, texts: Sequence[Any], tokens: int | None, sentences: int | None, **draw: Any) -> list[Any]:
    """Of every layer the hidden states of the drawn tokens, read one sentence at a time, without padding."""
    checkpoint = load_checkpoint(folder)
    examples = corpus_from_texts(texts).examples
    examples = tuple(examples[i] for i in draw_sentences(len(examples), sentences, seed=0))
    positions = draw_tokens(tokenise(examples, checkpoint.tokenizer, 40), tokens, seed=0, **draw).positions
    states = []
    for example in examples:
        inputs = checkpoint.tokenizer(example.text, example.pair, return_tensors="pt", truncation=True, max_length=40)
        with torch.inference_mode():
            states.append(checkpoint.model(**inputs, output_hidden_states=True).hidden_states)
    return [torch.cat([layers[k][0] for layers in states]).double().numpy()[positions] for k in range(DEPTH + 1)]


def values(scores: Scores, measure: str = "rsa") -> list[float]:
    return [row["value"] for row in scores.rows if row["measure"] == measure]


def assert_same(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> None:
    """Compare the rows of one computation that was done twice.

    Hidden states and their products have the same bits, since the same operations run on memory that is aligned alike.
    NumPy's other products need not: those in float64 that lead to a value, and those in float32 that lead to a standard
    error.
    """
    for one, other in zip(ours, theirs, strict=True):
        value = pytest.approx(other["value"], abs=1e-9)
        assert one == other | {"value": value, "stderr": pytest.approx(other["stderr"], rel=1e-4, nan_ok=True)}


# ------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(("tokens", "sentences"), [(300, 60), ("all", None), (300, "all")])
@pytest.mark.parametrize("tuned", ["tuned", "wider"])
def test_rsa_is_that_of_dense_matrices(folders: dict[str, Path], tuned: str, tokens: Any, sentences: Any) -> None:
    scores = score(folders["base"], folders[tuned], TEXTS, tokens=tokens, sentences=sentences)
    counts = {"tokens": tokens if tokens != "all" else None, "sentences": sentences if sentences != "all" else None}
    assert [row["layer"] for row in scores.rows] == list(range(DEPTH + 1))
    base_rows, tuned_rows = (drawn_rows(folders[name], TEXTS, **counts) for name in ("base", tuned))
    for row, x, y in zip(scores.rows, base_rows, tuned_rows, strict=True):
        assert row["n_tokens"] == len(x)
        assert row["value"] == pytest.approx(reference.rsa(x, y), abs=2e-6)
        assert 0 < row["stderr"] < 0.3


def test_pairs_and_special_tokens(folders: dict[str, Path]) -> None:
    pairs = list(zip(TEXTS[:40], TEXTS[40:80], strict=True))
    scores = score(folders["base"], folders["tuned"], pairs, tokens=None, special_tokens=True)
    x, y = (drawn_rows(folders[name], pairs, None, None, special_tokens=True)[3] for name in ("base", "tuned"))
    assert scores.rows[3]["n_tokens"] == len(x)
    assert scores.rows[3]["value"] == pytest.approx(reference.rsa(x, y), abs=2e-6)
    alone = score(folders["base"], folders["tuned"], pairs, tokens=None, single=True)
    assert_same(alone.rows, score(folders["base"], folders["tuned"], TEXTS[:40], tokens=None).rows)


def test_standardized_rsa_is_that_of_z_scores(folders: dict[str, Path]) -> None:
    scores = score(folders["base"], folders["frozen"], TEXTS, tokens=300, standardize=True)
    base_rows, tuned_rows = (drawn_rows(folders[name], TEXTS, 300, None) for name in ("base", "frozen"))
    for row, x, y in zip(scores.rows, base_rows, tuned_rows, strict=True):
        z = [(rows - rows.mean(axis=0)) / rows.std(axis=0) for rows in (x, y)]
        assert row["value"] == pytest.approx(reference.rsa(*z), abs=2e-6)
    plain = score(folders["base"], folders["frozen"], TEXTS, tokens=300)
    assert values(scores) != pytest.approx(values(plain), abs=1e-6)


def test_all_measures_in_one_pass_equal_each_alone(folders: dict[str, Path]) -> None:
    together = score(folders["base"], folders["frozen"], TEXTS, tokens=300, layers="1,-1", measures=list(MEASURES))
    assert [row["measure"] for row in together.rows] == list(MEASURES) * 2
    for name in MEASURES:
        alone = score(folders["base"], folders["frozen"], TEXTS, tokens=300, layers=[1, -1], measures=name)
        np.testing.assert_allclose(values(together, name), values(alone, name), atol=1e-6)


@pytest.mark.equality
def test_batch_size_does_not_move_the_numbers(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertft.activations.stream.MIN_ROWS", 150)
    runs = [score(folders["base"], folders["tuned"], TEXTS, tokens=500, batch_tokens=n) for n in (1, 50, 200, 100_000)]
    for run in runs[1:]:
        np.testing.assert_allclose(values(run), values(runs[0]), atol=1e-6)
        np.testing.assert_allclose(
            [row["stderr"] for row in run.rows], [row["stderr"] for row in runs[0].rows], rtol=1e-3, atol=1e-6
        )


@pytest.mark.equality
def test_the_same_command_gives_the_same_rows(folders: dict[str, Path]) -> None:
    first, second = (score(folders["base"], folders["tuned"], TEXTS, tokens=200, sentences=50) for _ in range(2))
    assert_same(first.rows, second.rows)
    for name in TOLD:
        first.run.pop(name)
        second.run.pop(name)
    assert first.run == second.run
    other = score(folders["base"], folders["tuned"], TEXTS, tokens=200, sentences=50, seed=1)
    assert values(other) != pytest.approx(values(first), abs=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01), ("float64", 1e-5)])
def test_other_number_types(folders: dict[str, Path], dtype: str, tolerance: float) -> None:
    exact = score(folders["base"], folders["tuned"], TEXTS, tokens=300)
    scores = score(folders["base"], folders["tuned"], TEXTS, tokens=300, dtype=dtype)
    assert scores.run["options"]["dtype"] == dtype
    np.testing.assert_allclose(values(scores), values(exact), atol=tolerance)


# ------------------------------------------------------------------------------------------------------- equal layers


@pytest.mark.equality
def test_equal_layers_score_one_and_are_run_once(folders: dict[str, Path]) -> None:
    base, frozen = load_checkpoint(folders["base"]), load_checkpoint(folders["frozen"])
    calls = [0] * DEPTH
    for number, block in enumerate(frozen.model.encoder.layer):
        block.intermediate.register_forward_hook(lambda *_, number=number: calls.__setitem__(number, calls[number] + 1))
    scores = score(base, frozen, TEXTS, tokens=300, measures=("rsa", "cka"))
    assert calls[:2] == [0, 0]
    assert calls[2] == calls[3] > 0
    assert [(row["value"], row["stderr"]) for row in scores.rows if row["layer"] <= 2] == [(1.0, 0.0)] * 6
    assert all(row["value"] < 1 and row["stderr"] > 0 for row in scores.rows if row["layer"] > 2)
    assert {row["n_tokens"] for row in scores.rows} == {300}
    assert "frozen: layers 0 to 2 equal those of base bit for bit, so they score 1" in scores.run["notes"]


def test_equal_models_are_not_run(folders: dict[str, Path]) -> None:
    base, same = load_checkpoint(folders["base"]), load_checkpoint(folders["base"])
    for checkpoint in (base, same):
        checkpoint.model.register_forward_pre_hook(lambda *_: pytest.fail("a model was run"))
    scores = score(base, same, TEXTS, tokens=300)
    assert values(scores) == [1.0] * (DEPTH + 1)
    assert {row["base"] for row in scores.rows} == {"base"}
    assert {row["tuned"] for row in scores.rows} == {"base (2)"}


@pytest.mark.parametrize("name", MEASURES)
def test_which_measures_are_one_for_equal_spaces(name: str) -> None:
    rows = np.random.default_rng(0).standard_normal((400, 8))
    measure = MEASURES[name]
    value = measure.value(PairMoments.serving([measure]).update(rows, rows))
    assert (value == pytest.approx(1, abs=1e-6)) == (MEASURES[name].equal_spaces is not None)


def test_a_measure_of_one_space_is_computed_for_equal_layers_too(folders: dict[str, Path]) -> None:
    names = ("rsa", "mean-cosine-base", "mean-cosine-tuned")
    scores = score(folders["base"], folders["frozen"], TEXTS, tokens=300, measures=names)
    for side, name in (("base", "base"), ("tuned", "frozen")):
        layers = drawn_rows(folders[name], TEXTS, 300, None)
        for rows, value in zip(layers, values(scores, f"mean-cosine-{side}"), strict=True):
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            assert value == pytest.approx((unit @ unit.T)[np.triu_indices(len(unit), k=1)].mean(), abs=1e-6)
    assert values(scores, "rsa")[:3] == [1.0] * 3


# ------------------------------------------------------------------------------------------------- what may be given


def test_several_checkpoints_and_corpora_in_one_run(folders: dict[str, Path], tmp_path: Path) -> None:
    files = [tmp_path / "a" / "dev.txt", tmp_path / "b" / "dev.txt"]
    for number, file in enumerate(files):
        file.parent.mkdir()
        file.write_text("\n".join(some_texts(50, seed=number)))
    tuned = [folders["tuned"], folders["frozen"]]
    together = score(folders["base"], tuned, files, tokens=200, layers=-1)
    places = [(row["tuned"], row["corpus"]) for row in together.rows]
    assert sorted(places) == [(t, c) for t in ("frozen", "tuned") for c in ("a/dev.txt", "b/dev.txt")]
    assert list(together.run["checkpoints"]) == ["base", "tuned", "frozen"]
    assert list(together.run["corpora"]) == ["a/dev.txt", "b/dev.txt"]
    for row in together.rows:
        alone = score(folders["base"], folders[row["tuned"]], tmp_path / row["corpus"], tokens=200, layers=-1)
        assert row["value"] == pytest.approx(alone.rows[0]["value"], abs=1e-6)
        assert row["n_sentences"] == alone.rows[0]["n_sentences"]


def test_the_base_runs_once_for_all_tuned_models(folders: dict[str, Path]) -> None:
    base = load_checkpoint(folders["base"])
    runs = [0]
    base.model.register_forward_pre_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))
    told: list[tuple[int, int, str]] = []
    tuned = [folders["tuned"], folders["frozen"], folders["wider"]]
    score(base, tuned, TEXTS, tokens=300, batch_tokens=200, progress=lambda *step: told.append(step))
    assert told == [(done, runs[0], "texts") for done in range(1, runs[0] + 1)]
    assert runs[0] > 3


def test_texts_may_be_a_file_a_corpus_or_strings(folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text("\n".join(TEXTS))
    given = (str(file), file, [file], corpus_from_texts(TEXTS), TEXTS)
    runs = [score(folders["base"], folders["tuned"], texts, tokens=200, layers=1) for texts in given]
    assert [values(run)[0] for run in runs] == pytest.approx([values(runs[0])[0]] * len(runs), abs=1e-9)
    assert [run.rows[0]["corpus"] for run in runs] == ["some.txt"] * 3 + ["texts"] * 2


def test_rows_run_frame_and_json(folders: dict[str, Path]) -> None:
    scores = score(folders["base"], folders["tuned"], TEXTS, tokens=100, layers="0,2-3")
    assert all(list(row) == COLUMNS for row in scores.rows)
    assert list(scores.to_frame().columns) == COLUMNS
    assert scores.to_frame()["layer"].tolist() == [0, 2, 3]
    content = json.loads(scores.to_json())
    assert content["rows"] == scores.rows
    assert content["run"]["options"]["layers"] == [0, 2, 3]
    assert content["run"]["seed"] == 0
    assert content["run"]["checkpoints"]["tuned"] == load_checkpoint(folders["tuned"]).content_hash
    assert content["run"]["corpora"] == {"texts": corpus_from_texts(TEXTS).content_hash}
    assert set(content["run"]["versions"]) == {"python", "bertft", "torch", "transformers", "numpy"}
    assert 0 <= content["run"]["padding"]["texts"] < 0.1
    assert "timings" not in content["run"]
    assert set(scores.run["timings"]) == {"read", "load", "tokenise", "forward", "statistics", "measures"}
    undefined = Scores([scores.rows[0] | {"stderr": math.nan}], {})
    assert json.loads(undefined.to_json())["rows"][0]["stderr"] is None


def test_fewer_tokens_than_asked_for_are_all_used_and_said(folders: dict[str, Path]) -> None:
    scores = score(folders["base"], folders["tuned"], TEXTS, tokens=5000, sentences=30, layers=1)
    count = scores.rows[0]["n_tokens"]
    assert count == sum(len(TEXTS[index].split()) for index in draw_sentences(len(TEXTS), 30, seed=0))
    (note,) = scores.run["notes"]
    assert note.startswith(f"texts: 5000 tokens were requested, but the 30 sentences have only {count}; all were used")
    assert note.endswith("use more sentences to get more")
    all_sentences = score(folders["base"], folders["tuned"], TEXTS, tokens=5000, layers=1)
    assert all_sentences.run["notes"][0].endswith("all were used")


def test_long_texts_are_cut_and_said(folders: dict[str, Path]) -> None:
    texts = [*TEXTS[:20], " ".join(["rain"] * 60)]
    scores = score(folders["base"], folders["tuned"], texts, tokens=None, layers=1)
    assert scores.run["options"]["max_length"] == 40
    assert "texts: 1 of 21 texts were longer than 40 tokens and were cut" in scores.run["notes"]
    shorter = score(folders["base"], folders["tuned"], texts, tokens=None, layers=1, max_length=10)
    assert shorter.rows[0]["n_tokens"] == sum(min(8, len(text.split())) for text in texts)
    assert score(folders["base"], folders["tuned"], texts, max_length=99).run["options"]["max_length"] == 40


def test_unknown_tokens_are_said(folders: dict[str, Path]) -> None:
    known = ["the cat sat on the mat", "a dog ran under the tree"]
    texts = [*known, "the zebra sat", "the yak ran"]
    for given, said in (
        (known, []),
        (texts, ["texts: 2 of 18 tokens are unknown to the tokenizer"]),
        (["xa xb", "xc xd"], ["texts: all 4 tokens are unknown to the tokenizer"]),
    ):
        notes = score(folders["base"], folders["tuned"], given, tokens=None, layers=1).run["notes"]
        assert [note for note in notes if "unknown" in note] == said


def test_a_real_model_with_its_last_blocks_changed(model_dir: Path, tmp_path: Path) -> None:
    base = load_checkpoint(model_dir)
    tuned = Checkpoint("tuned", changed(base.model, [5], amount=0.01), base.tokenizer, "hash")
    texts = [
        "The committee has not yet said whether the bridge will be closed.",
        "Rain fell softly on the old harbour while the boats came in.",
        "She asked him twice, and twice he refused to answer.",
        "Few of the early settlers could read, but all of them could count.",
    ]
    scores = score(base, tuned, texts, tokens=40)
    assert values(scores)[:6] == [1.0] * 6
    states = []
    for checkpoint in (base, tuned):
        positions = draw_tokens(tokenise(corpus_from_texts(texts).examples, base.tokenizer, 128), 40, seed=0).positions
        with torch.inference_mode():
            outputs = [checkpoint.model(**base.tokenizer(text, return_tensors="pt")) for text in texts]
        states.append(torch.cat([output.last_hidden_state[0] for output in outputs]).double().numpy()[positions])
    assert values(scores)[6] == pytest.approx(reference.rsa(*states), abs=1e-6)
    assert 0.1 < values(scores)[6] < 0.999


# --------------------------------------------------------------------------------------------------- options and names


def test_names_are_told_apart() -> None:
    assert distinct_names(["best", "best"], ["runs/mnli/best", "runs/squad/best"]) == ["mnli/best", "squad/best"]
    assert distinct_names(["m", "m"], ["a/x/m", "b/x/m"]) == ["a/x/m", "b/x/m"]
    assert distinct_names(["m", "m", "n"], ["a/m", "a/m", "a/n"]) == ["m", "m (2)", "n"]
    assert distinct_names(["m", "m"], [object(), object()]) == ["m", "m (2)"]
    assert len(set(distinct_names(["m", "m", "m"], ["a/m", "a/m", "b/m"]))) == 3


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 2}, "tokens is 2; give a whole number that is at least 3, or 'all'"),
        ({"tokens": "many"}, "tokens is 'many'"),
        ({"sentences": 0}, "sentences is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"max_length": 2}, "max_length is 2, but each sentence has 2 special tokens"),
        ({"layers": 9}, "there is no layer 9; this model has layers 0 to 4"),
        ({"measures": ["rsa", "rsb"]}, "unknown measure 'rsb' .did you mean 'rsa'.*expected some of rsa"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"device": "abacus"}, "unknown device 'abacus'; use auto, cpu"),
    ],
)
def test_options_that_are_refused(folders: dict[str, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        score(folders["base"], folders["tuned"], TEXTS, **options)


def test_inputs_that_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no tuned checkpoint was given"):
        score(folders["base"], [], TEXTS)
    with pytest.raises(CheckpointError, match="no such folder"):
        score(folders["base"], tmp_path / "absent", TEXTS)
    with pytest.raises(DataError, match=re.escape("absent.txt")):
        score(folders["base"], folders["tuned"], str(tmp_path / "absent.txt"))
    with pytest.raises(DataError, match="no texts"):
        score(folders["base"], folders["tuned"], [])
    with pytest.raises(DataError, match="texts: 2 tokens in 1 sentences; at least 3"):
        score(folders["base"], folders["tuned"], ["the cat"])
    file = tmp_path / "some.txt"
    file.write_text("the cat sat")
    with pytest.raises(OptionError, match=r"texts lists the names of files, .*some.txt.* give them as pathlib.Path"):
        score(folders["base"], folders["tuned"], [str(file)])


def in_training(checkpoint: Checkpoint) -> None:
    checkpoint.model.train()


def in_half(checkpoint: Checkpoint) -> None:
    checkpoint.model.half()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_training, "tuned: the model is in training mode.*call model.eval()"),
        (in_half, "base has the dtype torch.float32 and tuned has torch.float16"),
    ],
)
def test_checkpoints_in_the_wrong_state(
    folders: dict[str, Path], change: Callable[[Checkpoint], None], message: str
) -> None:
    checkpoint = load_checkpoint(folders["tuned"])
    change(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        score(folders["base"], checkpoint, TEXTS)


def test_models_that_cannot_be_compared(folders: dict[str, Path], tmp_path: Path) -> None:
    shallow = saved(made_model(num_hidden_layers=3), tmp_path / "shallow")
    with pytest.raises(CheckpointError, match="base has 4 blocks and shallow has 3"):
        score(folders["base"], shallow, TEXTS)
    other = saved(made_model(), tmp_path / "other", words=WORDS[::-1])
    with pytest.raises(CheckpointError, match=r"the tokenizers of base .* and other .* differ"):
        score(folders["base"], other, TEXTS)


@pytest.mark.parametrize("standardize", [False, True])
def test_hidden_states_that_are_not_finite_name_layer_model_and_sentence(
    folders: dict[str, Path], tmp_path: Path, standardize: bool
) -> None:
    model, rare = made_model(), "softly"
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[made_tokenizer().get_vocab()[rare]] = math.inf
    checkpoint = Checkpoint("burnt", model, made_tokenizer(), "hash")
    texts = [*[text.replace(rare, "the") for text in TEXTS[:30]], f"rain fell {rare} on the mat"]
    with pytest.raises(ArrayError, match=r"burnt: hidden layer 3 .* not finite at texts\[30\] \('rain fell softly"):
        score(folders["base"], checkpoint, texts, tokens=None, layers=3, standardize=standardize)


def test_a_vector_without_a_cosine_names_layer_model_and_sentence(folders: dict[str, Path]) -> None:
    """Equal sentences of equal tokens standardise to nothing at layer 0, where position alone tells them apart."""
    with pytest.raises(ArrayError, match=r"hidden layer \d of the (base|tuned model) at .*'sun'.* is all zeros"):
        score(folders["base"], folders["tuned"], ["sun"] * 5, standardize=True, layers=1)


# ------------------------------------------------------------------------------------------------------ several bases


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three bases of other random weights, and of each a copy whose blocks from 1 on were changed."""
    root = tmp_path_factory.mktemp("seeds")
    bases = [made_model(seed) for seed in range(3)]
    return {f"base-{i}": saved(base, root / f"base-{i}") for i, base in enumerate(bases)} | {
        f"tuned-{i}": saved(changed(base, range(1, DEPTH), 0.2 + 0.1 * i), root / f"tuned-{i}")
        for i, base in enumerate(bases)
    }


@pytest.mark.equality
def test_pairs_are_scored_each_and_averaged(seeds: dict[str, Path]) -> None:
    bases, tuned = ([seeds[f"{kind}-{i}"] for i in range(3)] for kind in ("base", "tuned"))
    told: list[tuple[int, int, str]] = []
    scores = score(bases, tuned, TEXTS, tokens=300, measures=("rsa", "cka"), progress=lambda *step: told.append(step))
    each = [score(*pair, TEXTS, tokens=300, measures=("rsa", "cka")) for pair in zip(bases, tuned, strict=True)]
    count = 2 * (DEPTH + 1)
    for number, alone in enumerate(each):
        assert_same(scores.rows[number * count : (number + 1) * count], alone.rows)
    means = scores.rows[3 * count :]
    assert len(means) == count
    for index, row in enumerate(means):
        values = [alone.rows[index]["value"] for alone in each]
        assert (row["base"], row["tuned"], row["n_pairs"]) == ("3 bases", "mean of 3 pairs", 3)
        assert (row["layer"], row["measure"]) == (each[0].rows[index]["layer"], each[0].rows[index]["measure"])
        assert row["value"] == pytest.approx(np.mean(values), abs=1e-12)
        assert row["spread"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        assert math.isnan(row["stderr"])
    assert [(row["value"], row["spread"]) for row in means if row["layer"] <= 1] == [(1.0, 0.0)] * 4
    assert all(row["spread"] > 0 for row in means if row["layer"] > 1)
    assert list(scores.run["checkpoints"]) == [f"{kind}-{i}" for kind in ("base", "tuned") for i in range(3)]
    assert [done for done, _, _ in told] == list(range(1, told[-1][1] + 1))


def test_pairs_of_one_base_load_and_run_it_once(folders: dict[str, Path]) -> None:
    base = load_checkpoint(folders["base"])
    runs = [0]
    base.model.register_forward_pre_hook(lambda *_: runs.__setitem__(0, runs[0] + 1))
    tuned = [folders["tuned"], folders["frozen"]]
    alone = score(base, tuned, TEXTS, tokens=300, layers=-1)
    batches, runs[0] = runs[0], 0
    scores = score([base, base], tuned, TEXTS, tokens=300, layers=-1)
    assert runs[0] == batches > 0
    assert_same(scores.rows[:2], alone.rows)
    assert [row["tuned"] for row in scores.rows] == ["tuned", "frozen", "mean of 2 pairs"]
    assert {row["base"] for row in scores.rows} == {"base"}
    by_name = score([folders["base"]] * 2, tuned, TEXTS, tokens=300, layers=-1)
    assert_same(by_name.rows[:2], scores.rows[:2])
    assert list(by_name.run["checkpoints"]) == ["base", "tuned", "frozen"]


def test_bases_are_compared_with_one_another(seeds: dict[str, Path]) -> None:
    bases, tuned = ([seeds[f"{kind}-{i}"] for i in range(3)] for kind in ("base", "tuned"))
    scores = score(bases, tuned, TEXTS, tokens=300, layers=-1, compare_bases=True)
    between = scores.rows[4:]
    assert [(row["base"], row["tuned"]) for row in between] == [
        ("base-0", "base-1"), ("base-0", "base-2"), ("base-1", "base-2"), ("3 bases", "mean of 3 pairs of bases"),
    ]  # fmt: skip
    assert_same(between[1:2], score(bases[0], bases[2], TEXTS, tokens=300, layers=-1).rows)
    assert between[3]["value"] == pytest.approx(np.mean([row["value"] for row in between[:3]]))


def test_each_base_runs_once_when_bases_are_compared(seeds: dict[str, Path]) -> None:
    bases, tuned = ([load_checkpoint(seeds[f"{kind}-{i}"]) for i in range(3)] for kind in ("base", "tuned"))
    runs = [0] * 3
    for number, base in enumerate(bases):
        base.model.register_forward_pre_hook(lambda *_, n=number: runs.__setitem__(n, runs[n] + 1))
    told: list[tuple[int, int, str]] = []
    options: dict[str, Any] = {"tokens": 300, "layers": "0,4", "measures": ("rsa", "mean-cosine-tuned")}
    scores = score(bases, tuned, TEXTS, compare_bases=True, progress=lambda *step: told.append(step), **options)
    assert [done for done, _, _ in told] == list(range(1, sum(runs) + 1))
    assert told[-1][0] == told[-1][1]
    assert len(set(runs)) == 1
    alone = score(bases[1], bases[2], TEXTS, **options)
    assert_same([row for row in scores.rows if (row["base"], row["tuned"]) == ("base-1", "base-2")], alone.rows)
    assert runs[1] == 2 * runs[0]


def test_one_pair_has_no_mean(folders: dict[str, Path]) -> None:
    alone = score(folders["base"], folders["tuned"], TEXTS, tokens=100)
    assert_same(score([folders["base"]], [folders["tuned"]], TEXTS, tokens=100).rows, alone.rows)


def test_an_undefined_value_makes_the_mean_undefined() -> None:
    row = {"base": "a", "tuned": "b", "layer": 0, "measure": "rsa", "stderr": 0.1}
    (mean,) = _averaged([[row | {"value": 0.5}], [row | {"value": math.nan}]], "pairs", "a")
    assert math.isnan(mean["value"])
    assert math.isnan(mean["spread"])


@pytest.mark.parametrize(
    ("bases", "tuned", "compare_bases", "message"),
    [
        (["base", "frozen"], ["tuned"], False, "2 bases and 1 tuned checkpoints were given.* as many"),
        ([], [], False, "no tuned checkpoint was given"),
        (["base", "base"], ["tuned", "frozen"], True, "all pairs have the same base"),
        ("base", ["tuned"], True, "only one base was given; give a list of bases"),
    ],
)
def test_pairs_that_are_none(
    folders: dict[str, Path], bases: Any, tuned: list[str], compare_bases: bool, message: str
) -> None:
    given = folders[bases] if isinstance(bases, str) else [folders[name] for name in bases]
    with pytest.raises(OptionError, match=message):
        score(given, [folders[name] for name in tuned], TEXTS, compare_bases=compare_bases)
