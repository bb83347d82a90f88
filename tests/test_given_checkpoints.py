"""Checkpoints as people have them: without a tokenizer, with added tokens, behind links, twice the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from transformers import PreTrainedModel

from bertft import score
from bertft.checkpoints import load_checkpoint
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.compare import added_tokens, check_same_tokenizer
from bertft.checkpoints.load import display_name
from bertft.errors import CheckpointError
from bertft.experiments.inputs import loaded
from bertft.experiments.structural import probe_structural

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "rain", "fell"]
SIZE = len(WORDS) + len(tiny.SPECIAL)
TEXTS = ["the cat sat on the mat", "rain fell", "the dog ran on", "the rain fell on the cat", "dog sat"]
LENT = "its folder has no tokenizer, so that of base was used"


def model(family: str = "bert", seed: int = 0, size: int = SIZE) -> PreTrainedModel:
    return tiny.build(tiny.FAMILIES[family](size), seed=seed)


def saved(folder: Path, seed: int = 0, family: str = "bert", added: tuple[str, ...] = ()) -> Path:
    """A model with its tokenizer; `added` as people add tokens, the embeddings resized."""
    pieces, body = tiny.tokenizer(WORDS), model(family, seed)
    if added:
        pieces.add_tokens(list(added))
        body.resize_token_embeddings(len(pieces), mean_resizing=False)
    return tiny.save(folder, body, pieces)


def bare(folder: Path, body: PreTrainedModel) -> Path:
    body.save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved(tmp_path / "base")


# ---------------------------------------------------------------------------------------------------- without tokenizer


@pytest.mark.equality
def test_weights_alone_are_read_with_the_tokenizer_of_the_base(base: Path, tmp_path: Path) -> None:
    weights, whole = bare(tmp_path / "weights", model(seed=1)), saved(tmp_path / "whole", seed=1)
    found = score(base, [weights, whole], TEXTS)
    values = {name: [row["value"] for row in found.rows if row["tuned"] == name] for name in ("weights", "whole")}
    assert values["weights"] == values["whole"]
    assert [note for note in found.run["notes"] if "tokenizer" in note] == [f"weights: {LENT}"]


@pytest.mark.parametrize(
    ("family", "size", "message"),
    [
        ("distilbert", SIZE, "one is a model of type distilbert, the other of type bert"),
        ("bert", SIZE - 1, f"the model has {SIZE - 1} embeddings, base has {SIZE}"),
    ],
)
def test_a_tokenizer_that_cannot_fit_is_not_lent(
    base: Path, tmp_path: Path, family: str, size: int, message: str
) -> None:
    weights = bare(tmp_path / "weights", model(family, size=size))
    with pytest.raises(CheckpointError, match=f"weights: no tokenizer, and that of base does not fit: .*{message}"):
        score(base, weights, TEXTS)


def test_weights_with_resized_embeddings_borrow_too(base: Path, tmp_path: Path) -> None:
    weights = bare(tmp_path / "weights", model(seed=1, size=SIZE + 3))
    assert f"weights: {LENT}" in score(base, weights, TEXTS).run["notes"]


def test_nobody_lends_to_the_base(base: Path, tmp_path: Path) -> None:
    weights = bare(tmp_path / "weights", model(seed=1))
    with pytest.raises(CheckpointError, match=r"weights: no tokenizer .*save it to the folder"):
        score(weights, base, TEXTS)
    with pytest.raises(CheckpointError, match="weights: no tokenizer"):
        load_checkpoint(weights)


def test_probes_read_weights_alone(base: Path, tmp_path: Path) -> None:
    rows = "\n".join(f"{i}\tcat\t_\tX\tX\t_\t{i - 1}\t{'dep' if i > 1 else 'root'}\t_\t_" for i in range(1, 7))
    (tmp_path / "bank").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "bank" / f"en-ud-{split}.conllu").write_text(f"{rows}\n\n" * 3)
    found = probe_structural(
        [base, bare(tmp_path / "weights", model(seed=1))],
        tmp_path / "bank",
        layers=0,
        ranks=2,
        epochs=1,
        random_seeds=0,
        cache=tmp_path / "cache",
    )
    assert f"weights: {LENT}" in found.run["notes"]
    assert {"base", "weights"} <= {row["model"] for row in found.rows}


# --------------------------------------------------------------------------------------------------------- added tokens


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_added_tokens_that_no_text_uses_are_no_obstacle(tmp_path: Path, family: str) -> None:
    base = saved(tmp_path / "base", family=family)
    tuned = saved(tmp_path / "tuned", family=family, added=("<user>", "<bot>"))
    found = score(base, tuned, TEXTS)
    # The same weights: only the embeddings of the added tokens differ, and they are not read.
    assert [row["value"] for row in found.rows] == pytest.approx([1.0] * 4, abs=1e-6)
    (note,) = (note for note in found.run["notes"] if "added" in note)
    assert note.startswith(
        "2 tokens were added to the vocabulary of base or tuned and not of the other (such as '<bot>')"
    )


def test_an_added_token_is_refused_only_where_it_is_drawn(base: Path, tmp_path: Path) -> None:
    tuned = saved(tmp_path / "tuned", added=("<user>",))
    texts = [*TEXTS, "<user> the dog sat"]
    for given in (texts, [(text, "rain fell") for text in texts], [("rain fell", text) for text in texts]):
        for pair in ((base, tuned), (tuned, base)):
            with pytest.raises(CheckpointError, match=r"tuned has the token '<user>', which base lacks, and it occurs"):
                score(*pair, given, sentences="all")
    seeds = {seed: _drawn(base, tuned, texts, seed) for seed in range(8)}
    assert set(seeds.values()) == {True, False}


def _drawn(base: Path, tuned: Path, texts: list[str], seed: int) -> bool:
    """Whether the text with the added token is among three that are drawn."""
    try:
        score(base, tuned, texts, sentences=3, seed=seed, layers=0)
    except CheckpointError:
        return True
    return False


def test_vocabularies_that_differ_otherwise_are_still_refused() -> None:
    def checkpoint(name: str, words: list[str], added: tuple[str, ...] = ()) -> Checkpoint:
        pieces = tiny.tokenizer(words)
        pieces.add_tokens(list(added))
        return Checkpoint(name, model(), pieces, "")

    ours = checkpoint("base", WORDS)
    assert added_tokens(ours, checkpoint("tuned", WORDS, ("<user>",))) == {"<user>": SIZE}
    # The same id for two added tokens, an id that was an ordinary token's, and a word that was never added.
    for first, second in (
        (checkpoint("base", WORDS, ("<a>",)), checkpoint("tuned", WORDS, ("<b>",))),
        (ours, checkpoint("tuned", WORDS[:-1], ("<user>",))),
        (ours, checkpoint("tuned", [*WORDS, "tree"])),
    ):
        with pytest.raises(CheckpointError, match=r"the tokenizers of base .* and tuned .* differ: token"):
            check_same_tokenizer(first, second, TEXTS)


# ---------------------------------------------------------------------------------------------------------------- names


def test_a_name_is_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store" / "model"
    (store / "inner").mkdir(parents=True)
    home = tmp_path / "home"
    home.mkdir()
    (home / "minilm").symlink_to(store)
    seed = home / "mnli" / "seed-1"
    seed.mkdir(parents=True)
    (seed / "best").symlink_to(store)
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    for typed, name in {
        "minilm": "minilm",
        "minilm/": "minilm",
        "minilm//": "minilm",
        "./minilm/.": "minilm",
        "~/minilm": "minilm",
        "../home/minilm": "minilm",
        "minilm/..": "store",  # as the system reads it
        ".": "home",
        "..": tmp_path.name,
        "../": tmp_path.name,
        "mnli/seed-1/best": "mnli/seed-1",
        str(home / "minilm" / "inner" / ".." / ".." / "model"): "model",
        "google-bert/bert-base": "google-bert/bert-base",
        "/": "/",
    }.items():
        assert display_name(typed) == name, typed
        assert display_name(Path(typed)) == name or typed == "/", typed


def test_equal_names_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = saved(tmp_path / "a" / "model"), saved(tmp_path / "b" / "model", seed=1)
    (tmp_path / "model").symlink_to(second)
    monkeypatch.chdir(first)
    names = [one.name for one in loaded([".", "../../b/model", "../../model"], **LOADING)]
    assert names == ["a/model", "b/model", f"{tmp_path.name}/model"]


LOADING = {"device": "cpu", "dtype": "float32", "allow_pickle": False}


# -------------------------------------------------------------------------------------------------------- equal content


def test_equal_content_is_remarked_on(base: Path, tmp_path: Path) -> None:
    for name in ("copy", "tuned", "again"):
        shutil.copytree(base, tmp_path / name)
    for name in ("tuned", "again"):
        saved(tmp_path / name, seed=1)
    saved(tmp_path / "other", seed=2)
    found = score(base, [tmp_path / name for name in ("copy", "tuned", "again", "other")], TEXTS)
    assert [note for note in found.run["notes"] if "content" in note] == [
        "copy has the same config and weights as base: the files have equal content",
        "again has the same config and weights as tuned: the files have equal content",
    ]


def test_checkpoints_of_ones_own_have_no_content_to_be_equal() -> None:
    given = [Checkpoint(name, model(seed=seed), tiny.tokenizer(WORDS), "") for seed, name in enumerate("ab")]
    assert not [
        note for note in score(given[0], given[1], TEXTS).run["notes"] if "content" in note or "tokenizer" in note
    ]
    assert torch.equal(given[0].model.embeddings.word_embeddings.weight, model().embeddings.word_embeddings.weight)
