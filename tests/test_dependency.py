"""Dependency parsing: the scores of a parser, its biaffine scorers, and the way from a treebank to a tuned encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install .[tune]")

from torch.nn import functional
from transformers import AutoModel, PreTrainedTokenizerFast

from bertft.activations.words import tokenise_words
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.compare import shared_depth
from bertft.checkpoints.edit import freeze, truncate
from bertft.checkpoints.load import load_checkpoint
from bertft.data import Tree, read_treebank
from bertft.data.treebank import read_split
from bertft.errors import CheckpointError, DataError, UndefinedWarning
from bertft.experiments.score import score
from bertft.tasks import named_task
from bertft.tasks.attachment import evaluate_attachment, is_punctuation
from bertft.tasks.biaffine import IGNORED, BiaffineParser, biaffine_settings
from bertft.tasks.dependency import TASK
from bertft.tasks.lora import with_lora
from bertft.tasks.optimization import raise_head_rate
from bertft.tasks.task import Records, TrainingRecipe
from bertft.tasks.training import evaluate, train

WORDS = ["the", "a", "cat", "dog", "saw", "left", "fish", "##es", "."]
FAMILIES = {
    name: partial(tiny.FAMILIES[name], 16)
    for name in ("roberta", "electra", "distilbert", "deberta-v2", "modernbert", "gpt2")
} | {"bert": partial(tiny.FAMILIES["bert"], 16, max_position_embeddings=24)}
SMALL: dict[str, float] = {"arc_size": 7, "relation_size": 5, "dropout": 0.33}
RECIPE = TrainingRecipe(epochs=8, learning_rate=1e-3, batch_size=8, max_length=24, head_rate=3.0)


def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.tokenizer(WORDS, subwords=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A small random BERT that was saved and read."""
    folder = tmp_path_factory.mktemp("model") / "base"
    tiny.save(folder, tiny.build(FAMILIES["bert"]()), tokenizer())
    return load_checkpoint(folder)


def row(number: int, form: str, head: int, relation: str) -> str:
    return f"{number}\t{form}\t{form}\tX\tXX\t_\t{head}\t{relation}\t_\t_"


def made_tree(forms: str, heads: tuple[int, ...], relations: str, where: str = "made:1") -> Tree:
    words = tuple(forms.split())
    return Tree("made", where, words, ("X",) * len(words), ("XX",) * len(words), heads, tuple(relations.split()))


TRANSITIVE = made_tree("the cat saw a dog .", (2, 3, 0, 5, 3, 3), "det nsubj root det obj punct")
INTRANSITIVE = made_tree("a dog left .", (2, 3, 0, 3), "det nsubj root punct")
PASSIVE = made_tree("fishes left", (2, 0), "nsubj:pass root")


def records(*trees: Tree, name: str = "made") -> Records[Tree]:
    return Records(name, trees, "0f")


def grammar(count: int, seed: int) -> Records[Tree]:
    """Sentences of one grammar, in which the head of a word follows from the words."""
    rng = np.random.default_rng(seed)
    trees = []
    for _ in range(count):
        subject, thing = rng.choice(["cat", "dog", "fishes"], 2)
        first, second = rng.choice(["the", "a"], 2)
        if rng.random() < 0.5:
            trees.append(replace(TRANSITIVE, forms=(first, subject, "saw", second, thing, ".")))
        else:
            trees.append(replace(INTRANSITIVE, forms=(first, subject, "left", ".")))
    return records(*trees, name=f"grammar-{seed}")


# Attachment scores


def test_las_and_uas_by_hand() -> None:
    heads = [(2, 3, 0, 2, 3, 2), (2, 0)]
    relations = [("det", "nsubj", "root", "det", "iobj", "punct"), ("nsubj", "root")]
    found = evaluate_attachment([TRANSITIVE, PASSIVE], heads, relations)
    # Wrong: a and the full stop by head, dog by its relation; the subtype of nsubj:pass does not count.
    assert (found.words, found.correct_heads, found.correct_arcs) == (8, 6, 5)
    assert (found.uas, found.las) == (6 / 8, 5 / 8)
    whole = evaluate_attachment([TRANSITIVE, PASSIVE], heads, relations, subtypes=True)
    assert (whole.correct_heads, whole.correct_arcs) == (6, 4)
    words = evaluate_attachment([TRANSITIVE, PASSIVE], heads, relations, punctuation=False)
    assert (words.words, words.correct_heads, words.correct_arcs) == (7, 6, 5)


def test_a_right_relation_under_a_wrong_head_is_wrong() -> None:
    found = evaluate_attachment([PASSIVE], [(0, 1)], [("nsubj:pass", "root")])
    assert (found.correct_heads, found.correct_arcs) == (0, 0)


def test_words_without_a_head_are_wrong() -> None:
    found = evaluate_attachment([PASSIVE], [(-1, -1)], [("", "")])
    assert (found.words, found.correct_heads) == (2, 0)


@pytest.mark.parametrize(
    ("form", "expected"), [(".", True), ("--", True), ("«", True), ("'s", False), ("$", False), ("+", False)]
)
def test_punctuation_is_unicodes(form: str, expected: bool) -> None:
    assert is_punctuation(form) is expected


def test_scores_of_nothing_are_nan() -> None:
    found = evaluate_attachment([], [], [])
    with pytest.warns(UndefinedWarning, match="no word was counted"):
        assert np.isnan(found.las)
    with pytest.warns(UndefinedWarning, match="no word was counted"):
        assert np.isnan(found.uas)


def test_predictions_of_other_sentences_are_refused() -> None:
    with pytest.raises(DataError, match="1 trees, heads of 2 sentences and relations of 1"):
        evaluate_attachment([PASSIVE], [(2, 0), (2, 0)], [("nsubj", "root")])
    with pytest.raises(DataError, match="made:1: 2 words, 3 predicted heads and 2 relations"):
        evaluate_attachment([PASSIVE], [(2, 0, 0)], [("nsubj", "root")])


# The parser


def parser(family: str = "bert", relations: int = 4, seed: int = 1) -> BiaffineParser:
    config = FAMILIES[family]()
    for name, value in biaffine_settings([f"r{number}" for number in range(relations)], **SMALL).items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BiaffineParser.from_config(config).eval()


def batch() -> dict[str, torch.Tensor]:
    """Two sentences: one of three words, of which the first has two subwords, and one of one word."""
    return {
        "input_ids": torch.tensor([[2, 10, 11, 5, 6, 3], [2, 7, 3, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]),
        "words": torch.tensor([[0, 1, 1, 2, 3, 0], [0, 1, 0, 0, 0, 0]]),
    }


GOLD = {
    "head_labels": torch.tensor([[2, 0, 2], [0, IGNORED, IGNORED]]),
    "relation_labels": torch.tensor([[0, 1, IGNORED], [3, IGNORED, IGNORED]]),
}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_saved_parser_comes_back_and_its_encoder_with_it(tmp_path: Path, family: str) -> None:
    saved = parser(family)
    saved.save_pretrained(tmp_path / "parser")
    tokenizer().save_pretrained(tmp_path / "parser")
    assert (tmp_path / "parser" / "model.safetensors").exists()
    again = BiaffineParser.from_pretrained(tmp_path / "parser")
    assert not again.training
    assert saved.state_dict().keys() == again.state_dict().keys()
    assert all(
        torch.equal(*pair) for pair in zip(saved.state_dict().values(), again.state_dict().values(), strict=True)
    )
    ours, theirs = (model(**batch(), **GOLD) for model in (saved, again))
    # The weights are mapped from the file, at any multiple of four bytes, so products may round differently.
    torch.testing.assert_close(ours.loss, theirs.loss)
    assert torch.equal(ours.heads, theirs.heads)
    assert torch.equal(ours.relations, theirs.relations)
    # transformers alone, and bertft, take the encoder from it.
    for encoder in (AutoModel.from_pretrained(tmp_path / "parser"), load_checkpoint(tmp_path / "parser").model):
        assert type(encoder) is type(saved.base_model)
        tokens = {name: batch()[name] for name in ("input_ids", "attention_mask")}
        torch.testing.assert_close(encoder.eval()(**tokens)[0], saved.base_model(**tokens)[0])


@torch.no_grad()
def test_scores_are_the_formula() -> None:
    model = parser()
    scorer = model.scorer
    hidden = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(2))
    nodes = scorer.nodes(hidden)
    assert torch.equal(nodes[0, 0], scorer.root)
    arcs = scorer.arc_scores(nodes, torch.tensor([3]))
    heads = torch.tensor([[2, 0, 1]])
    relations = scorer.relation_scores(nodes, heads)

    def seen(layer: torch.nn.Linear, vector: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(layer(vector), 0.1)

    one = torch.ones(1)
    for word in (1, 2, 3):
        dependent = torch.cat([seen(scorer.arc_dependent, nodes[0, word]), one])
        for head in range(4):
            wanted = dependent @ scorer.arc @ seen(scorer.arc_head, nodes[0, head])
            if head == word:
                assert arcs[0, word - 1, head] == -torch.inf
            else:
                torch.testing.assert_close(arcs[0, word - 1, head], wanted)
        dependent = torch.cat([seen(scorer.relation_dependent, nodes[0, word]), one])
        head_view = torch.cat([seen(scorer.relation_head, nodes[0, heads[0, word - 1]]), one])
        for number in range(4):
            wanted = dependent @ scorer.relation[number] @ head_view
            torch.testing.assert_close(relations[0, word - 1, number], wanted)


@torch.no_grad()
def test_words_are_the_means_of_their_pieces_and_the_loss_two_cross_entropies() -> None:
    model, given = parser(), batch()
    output = model(**given, **GOLD)
    hidden = model.base_model(given["input_ids"], given["attention_mask"])[0]
    arc_losses, relation_losses = [], []
    for sentence, vectors in enumerate(([hidden[0, 1:3].mean(0), hidden[0, 3], hidden[0, 4]], [hidden[1, 1]])):
        nodes = model.scorer.nodes(torch.stack(vectors)[None])
        n = len(vectors)
        heads, relations = (GOLD[name][sentence, :n] for name in ("head_labels", "relation_labels"))
        arcs = model.scorer.arc_scores(nodes, torch.tensor([n]))[0].log_softmax(-1)
        labels = model.scorer.relation_scores(nodes, heads[None])[0].log_softmax(-1)
        arc_losses += [-arcs[word, head] for word, head in enumerate(heads)]
        relation_losses += [-labels[word, r] for word, r in enumerate(relations) if r != IGNORED]
    assert (len(arc_losses), len(relation_losses)) == (4, 3)
    torch.testing.assert_close(output.loss, torch.stack(arc_losses).mean() + torch.stack(relation_losses).mean())
    assert output.heads[1].tolist() == [0, -1, -1]
    assert output.relations[1, 1:].tolist() == [-1, -1]


@torch.no_grad()
def test_a_sentence_is_parsed_alone_as_in_a_batch() -> None:
    model, given = parser(seed=3), batch()
    model.scorer.arc.mul_(50)
    together = model(**given)
    for sentence, tokens in ((0, 6), (1, 3)):
        alone = model(**{name: tensor[sentence : sentence + 1, :tokens] for name, tensor in given.items()})
        n = alone.heads.shape[1]
        assert torch.equal(alone.heads[0], together.heads[sentence, :n])
        assert torch.equal(alone.relations[0], together.relations[sentence, :n])
    assert (together.heads == 0).sum(dim=1).tolist() == [1, 1]


def test_dropout_hides_the_same_of_all_words_and_only_in_training() -> None:
    scorer = parser().scorer
    nodes = torch.randn(2, 5, 32)
    hidden = [scorer._view(scorer.arc_head, nodes) == 0 for _ in range(2)]
    assert not hidden[0].any()
    scorer.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        zero = scorer._view(scorer.arc_head, nodes) == 0
    assert zero.any()
    assert torch.equal(zero.any(dim=1), zero.all(dim=1))


def test_nothing_is_parsed_in_training() -> None:
    output = parser().train()(**batch(), **GOLD)
    assert output.heads is None
    assert output.relations is None
    output.loss.backward()


def test_scores_that_are_no_numbers_are_told() -> None:
    model = parser()
    with torch.no_grad():
        model.scorer.root.fill_(torch.nan)
        with pytest.raises(
            CheckpointError, match=r"no tree can be built from the scores.*sentence 0 has a score.*lower the learning"
        ):
            model(**batch())


def test_an_encoder_alone_is_no_parser(base: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="this bert is not a parser: its config has no field `biaffine`"):
        BiaffineParser.from_config(base.model.config)


def test_the_head_can_learn_faster() -> None:
    model = parser()
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    decaying = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decaying, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-3
    )
    raise_head_rate(optimizer, model, 20.0)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for parameter in model.parameters():
        wanted = 1e-3 if id(parameter) in inside else 20 * 1e-3
        assert rates[id(parameter)] == (pytest.approx(wanted), 0.1 if parameter.ndim > 1 else 0.0)


# The task


def labels_of(given: Records[Tree]) -> dict[str, int]:
    return {r: number for number, r in enumerate(sorted({r for tree in given.items for r in tree.relations}))}


def test_rows_are_pieces_words_heads_and_relations() -> None:
    given = records(PASSIVE, INTRANSITIVE)
    features = TASK.encode(given, tokenizer(), RECIPE, labels=labels_of(given), training=True)
    first, second = features.rows
    assert first["input_ids"] == [2, 10, 11, 9, 3]  # fish ##es left
    assert first["words"] == [0, 1, 1, 2, 0]
    assert first["head_labels"] == [2, 0]
    assert first["relation_labels"] == [2, 4]
    assert second["words"] == [0, 1, 2, 3, 4, 0]
    assert features.notes == ()
    collated = TASK.collator(tokenizer(), RECIPE)(
        [{k: v for k, v in row.items() if k != "tree"} for row in (first, second)]
    )
    assert collated["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]
    assert collated["words"][0].tolist() == [0, 1, 1, 2, 0, 0]
    assert collated["head_labels"].tolist() == [[2, 0, IGNORED, IGNORED], [2, 3, 0, 3]]
    assert collated["relation_labels"][0].tolist() == [2, 4, IGNORED, IGNORED]


def test_long_sentences_are_left_out_of_training_and_wrong_on_dev() -> None:
    given = records(PASSIVE, TRANSITIVE, INTRANSITIVE)
    short = replace(RECIPE, max_length=6)
    features = {
        training: TASK.encode(given, tokenizer(), short, labels=labels_of(given), training=training)
        for training in (True, False)
    }
    assert [row["tree"] for row in features[True].rows] == [0, 2]
    assert "6 of 12 words were left out: their 1 sentences have more than 6 tokens" in features[True].notes[0]
    assert "6 of 12 words count as wrong" in features[False].notes[0]
    right = [(np.array(row["head_labels"]), np.array(row["relation_labels"])) for row in features[False].rows]
    found = TASK.evaluate(right, features[False], given)
    assert found["uas"] == found["las"] == 6 / 12
    with pytest.raises(DataError, match="made: none of its 1 sentences fits into 6 tokens"):
        TASK.encode(records(TRANSITIVE), tokenizer(), short, labels={}, training=True)


def test_a_relation_that_training_lacks_is_wrong() -> None:
    features = TASK.encode(records(PASSIVE), tokenizer(), RECIPE, labels={"nsubj": 0, "det": 1}, training=False)
    assert features.rows[0]["relation_labels"] == [IGNORED, IGNORED]
    assert features.notes == ("2 of 2 words have a relation that does not occur in training",)
    found = TASK.evaluate([(np.array([2, 0]), np.array([1, 1]))], features, records(PASSIVE))
    assert (found["uas"], found["las"]) == (1.0, 0.0)


def test_baselines_by_hand() -> None:
    found = TASK.baselines(records(TRANSITIVE), records(TRANSITIVE), seed=1)["left neighbour"]
    assert found["uas"] == 0.0
    chain = made_tree("saw cat .", (0, 1, 2), "root det det")
    found = TASK.baselines(records(TRANSITIVE), records(chain), seed=1)["left neighbour"]
    assert (found["uas"], found["las"]) == (1.0, 2 / 3)
    assert found["uas_without_punctuation"] == 1.0


@pytest.mark.parametrize("trees", [(), (made_tree("saw", (0,), "root"),)])
def test_what_teaches_nothing_is_refused(trees: tuple[Tree, ...]) -> None:
    with pytest.raises(DataError, match=r"made: .*; training needs sentences of at least two words"):
        TASK.check(records(*trees))


def test_presets_differ_as_documented() -> None:
    task = named_task("dep")
    paper, today = task.recipes["paper"], task.recipes["today"]
    assert (paper.epochs, paper.learning_rate, paper.warmup, paper.head_rate) == (20, 3e-5, 0.1, 1.0)
    assert (today.epochs, today.learning_rate * today.head_rate) == (10, pytest.approx(1e-3))


# Sources


def write(path: Path, *rows: str) -> str:
    path.write_text("\n".join([*rows, "", ""]))
    return str(path)


GOOD = [row(1, "fishes", 2, "nsubj:pass"), row(2, "left", 0, "root")]


def test_a_source_is_a_file_or_a_split_of_a_folder(tmp_path: Path) -> None:
    file = write(tmp_path / "en_x-ud-dev.conllu", *GOOD)
    found = TASK.read(file)
    assert (found.name, found.items) == ("en_x-ud-dev", read_treebank(file).split("dev"))
    assert found.items[0].relations == ("nsubj:pass", "root")
    assert TASK.read(f"{tmp_path}:dev") == replace(
        found, name="en_x:dev", content_hash=read_treebank(tmp_path).content_hash
    )
    with pytest.raises(DataError, match="a folder with the splits dev; add one of them"):
        TASK.read(str(tmp_path))
    with pytest.raises(DataError, match="no split 'train'"):
        TASK.read(f"{tmp_path}:train")


def test_a_data_set_is_read_through_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra for tuning is absent: pip install .[tune]")
    rows = [
        {"tokens": ["fishes", "left"], "head": ["2", "0"], "deprel": ["nsubj:pass", "root"]},
        {"tokens": ["du", "a", "the"], "head": ["_", "0", "1"], "deprel": ["_", "root", "det"]},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = TASK.read(f"{tmp_path}:train").items
    assert (first.forms, first.heads, first.relations) == (PASSIVE.forms, PASSIVE.heads, PASSIVE.relations)
    assert (second.forms, second.heads) == (("a", "the"), (0, 1))
    for bad, complaint in (
        ({"tokens": ["a"], "head": ["0"]}, r"\[0\]: expected lists of equal length tokens, head and deprel"),
        ({"tokens": ["a", "a"], "head": ["0", "0"], "deprel": ["x", "x"]}, "words 1, 2 have head 0"),
        ({"tokens": ["a"], "head": ["7"], "deprel": ["x"]}, "word 1 has head 7, but the sentence has 1 words"),
    ):
        folder = tmp_path / str(len(complaint))
        folder.mkdir()
        (folder / "train.jsonl").write_text(json.dumps(bad) + "\n")
        with pytest.raises(DataError, match=complaint):
            read_split(f"{folder}:train")


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (
            [row(1, "fishes", 0, "root"), row(2, "left", 0, "root")],
            r"x\.conllu:2: .*words 1, 2 have head 0; a tree has",
        ),
        ([row(1, "fishes", 2, "nsubj"), row(2, "left", 3, "root")], r"x\.conllu:1: .*no word has head 0"),
        ([row(1, "fishes", 7, "nsubj"), row(2, "left", 0, "root")], r"x\.conllu:1: .*head 7, but the sentence has 2"),
        (["", ""], "the file is empty"),
        (["# text = nothing"], "expected a token line after the comments"),
    ],
)
def test_a_bad_treebank_is_refused_by_line(tmp_path: Path, rows: list[str], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        TASK.read(write(tmp_path / "x.conllu", *rows))


# From a treebank to a tuned encoder


def tuned(base: Checkpoint, folder: Path, *, frozen: int = -1, epochs: int = 1) -> Path:
    data = grammar(24, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = TASK.build(base, data)
    freeze(model, frozen)
    recipe = replace(RECIPE, epochs=epochs)
    return train(TASK, model, base.tokenizer, data, grammar(8, seed=1), folder, recipe, seed=1).last


def test_training_beats_its_baselines(base: Checkpoint, tmp_path: Path) -> None:
    data, dev = grammar(48, seed=0), grammar(16, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = TASK.build(base, data)
    assert model.config.id2label == {0: "det", 1: "nsubj", 2: "obj", 3: "punct", 4: "root"}
    untrained = evaluate(TASK, model, base.tokenizer, dev, RECIPE)
    baseline = TASK.baselines(data, dev, seed=1)["left neighbour"]
    found = train(TASK, model, base.tokenizer, data, dev, tmp_path / "run", RECIPE, seed=1)
    best = max(row["las"] for row in found.history)
    assert best > 0.9 > max(untrained["las"], baseline["las"]) + 0.3
    again = evaluate(TASK, BiaffineParser.from_pretrained(found.best), base.tokenizer, dev, RECIPE)
    assert again["las"] == best


def test_one_seed_one_parser_which_scores_against_its_base(base: Checkpoint, tmp_path: Path) -> None:
    folders = [tuned(base, tmp_path / name) for name in ("one", "two")]
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(" ".join(tree.forms) + "\n" for tree in grammar(12, seed=2).items))
    rows = score(base, [folders[0]], [texts], tokens="all", sentences="all", device="cpu").rows
    values = {row["layer"]: row["value"] for row in rows if row["measure"] == "rsa"}
    assert sorted(values) == [0, 1, 2, 3]
    assert all(0 < value < 1 for value in values.values())


def test_frozen_blocks_are_those_of_the_base(base: Checkpoint, tmp_path: Path) -> None:
    folder = tuned(base, tmp_path / "run", frozen=1)
    assert shared_depth(base.model, load_checkpoint(folder).model) == 2


# peft asks this of the model by a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_are_tuned_with_the_scorers_whole(base: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra for adapters is absent: pip install .[lora]")
    data = grammar(24, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = with_lora(TASK.build(base, data), 2)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(".scorer." in name for name in learning)
    assert all(".scorer." in name or ".pooler." in name or ".lora_" in name for name in learning)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    found = train(TASK, model, base.tokenizer, data, grammar(8, seed=1), tmp_path / "run", RECIPE, seed=1)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name for name in learning if ".pooler." not in name} == moved
    assert found.history[-1]["uas"] > 0.5


def test_a_parser_can_be_cut_down(base: Checkpoint, tmp_path: Path) -> None:
    model = TASK.build(base, grammar(4, seed=0))
    truncate(model, 2)
    model.save_pretrained(tmp_path / "cut")
    again = BiaffineParser.from_pretrained(tmp_path / "cut")
    assert again.config.num_hidden_layers == len(again.base_model.encoder.layer) == 2


def test_the_real_model_and_treebank(model_dir: Path, data_dir: Path) -> None:
    real = load_checkpoint(model_dir)
    dev = TASK.read(f"{data_dir / 'ud_ewt'}:dev")
    given = Records(dev.name, dev.items[:40], dev.content_hash)
    found = TASK.encode(given, real.tokenizer, TASK.recipes["paper"], labels=labels_of(given), training=True)
    assert len(found.rows) == 40
    assert found.notes == ()
    counts = tokenise_words([tree.forms for tree in given.items], real.tokenizer, 512).counts
    assert sum(np.count_nonzero(row["words"]) for row in found.rows) == counts.subwords
