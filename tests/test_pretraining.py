"""Pre-training from scratch, from text to models that `score` reads, through kills and bad input."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install .[tune]")

from transformers import BertConfig, BertModel

from bertft import cli
from bertft.checkpoints.checkpoint import length_limit
from bertft.checkpoints.compare import shared_depth
from bertft.checkpoints.load import load_checkpoint
from bertft.errors import BertftError, CheckpointError, DataError, OptionError
from bertft.experiments.pretrain import pretrain
from bertft.report.pretrain import figure, finding
from bertft.tasks.pretraining import Pretraining, baselines
from bertft.tasks.sentence_pairs import IGNORED, SentencePairs, tokenise
from bertft.tasks.wordpiece import train_wordpiece

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SMALL: dict[str, Any] = {
    "vocab_size": 90, "steps": 9, "batch_size": 4, "max_length": 24, "duplicates": 2, "held_out": 0.2, "every": 3,
    "learning_rate": 1e-2, "device": "cpu",
}  # fmt: skip
SUBJECTS, VERBS, PLACES = ("cat", "dog", "rat"), ("sat", "ran", "hid"), ("mat", "hill", "box")


def written_text(path: Path, documents: int = 6, sentences: int = 12) -> Path:
    """Sentences such as `the cat sat on the mat`, the words of a document always the same."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(documents):
        subject, place = rng.choice(SUBJECTS), rng.choice(PLACES)
        texts.append("\n".join(f"the {subject} {rng.choice(VERBS)} on the {place} ." for _ in range(sentences)))
    path.write_text("\n\n".join(texts) + "\n")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `text.txt`, `config.json`, and `bert`, pre-trained with seeds 1 and 2."""
    folder = tmp_path_factory.mktemp("pretraining")
    written_text(folder / "text.txt")
    (folder / "config.json").write_text(json.dumps({**SHAPE, "model_type": "bert", "max_position_embeddings": 40}))
    pretrain(folder / "text.txt", folder / "bert", config=folder / "config.json", seeds=(1, 2), **SMALL)
    return folder


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_seeds_share_the_vocabulary_alone(place: Path) -> None:
    one, two = (place / "bert" / f"seed-{seed}" / "last" for seed in (1, 2))
    assert sorted(os.listdir(one)) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert (one / "tokenizer.json").read_bytes() == (two / "tokenizer.json").read_bytes()
    first, second = load_checkpoint(one), load_checkpoint(two)
    assert shared_depth(first.model, second.model) == -1
    assert length_limit(first) == SMALL["max_length"]
    assert first.drawn == frozenset()  # the pooler is trained, and saved
    assert not list(place.rglob("unfinished"))


def test_the_same_seed_gives_the_same_weights_and_leaves_generators_alone(place: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = pretrain(place / "text.txt", tmp_path / "bert", config=place / "config.json", seeds=(2,), **SMALL)
    assert torch.equal(before, torch.get_rng_state())
    assert weights(again.folders[2] / "last") == weights(place / "bert" / "seed-2" / "last")
    steps = [row["step"] for row in again.run["training"][2]["history"]]
    assert steps == [3, 6, 9]


def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(place: Path, tmp_path: Path) -> None:
    code = f"""
import os, signal
from bertft.experiments.pretrain import pretrain

def progress(done, total, what):
    if "training" in what and done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

pretrain({str(place / "text.txt")!r}, {str(tmp_path / "bert")!r}, config={str(place / "config.json")!r}, seeds=(1, 2),
         progress=progress, **{SMALL!r})
"""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    broken = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert broken.returncode == -signal.SIGKILL, broken.stderr
    assert [path.name for path in (tmp_path / "bert").rglob("checkpoint-*")] == ["checkpoint-3"]
    assert not list(tmp_path.rglob("last"))

    with pytest.raises(BertftError, match="holds a run already"):
        pretrain(place / "text.txt", tmp_path / "bert", config=place / "config.json", seeds=(1, 2), **SMALL)
    done: list[int] = []
    made = pretrain(
        place / "text.txt", tmp_path / "bert", config=place / "config.json", seeds=(1, 2), resume=True,
        progress=lambda step, _, what: done.append(step) if "1 of 2: training" in what else None, **SMALL,
    )  # fmt: skip
    assert done == [4, 5, 6, 7, 8, 9]
    for seed in (1, 2):
        for kind in ("last", "best"):
            assert weights(made.folders[seed] / kind) == weights(place / "bert" / f"seed-{seed}" / kind)
    # Finished seeds are read, not run again.
    again = pretrain(
        place / "text.txt", tmp_path / "bert", config=place / "config.json", seeds=(1, 2), resume=True,
        progress=lambda *_: done.append(0), **SMALL,
    )  # fmt: skip
    assert [row["value"] for row in again.rows] == [row["value"] for row in made.rows]


def test_another_option_is_not_taken_up(place: Path) -> None:
    with pytest.raises(OptionError, match=r"holds a run whose recipe.batch_size is 4, and now it is 5"):
        pretrain(
            place / "text.txt", place / "bert", config=place / "config.json", resume=True, **{**SMALL, "batch_size": 5}
        )


def test_words_are_learnt_from_context(tmp_path: Path) -> None:
    text = written_text(tmp_path / "text.txt", documents=30)
    config = BertConfig(**{**SHAPE, "hidden_size": 32}, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    longer = {**SMALL, "steps": 40, "every": 20, "batch_size": 16, "learning_rate": 2e-3}
    made = pretrain(text, tmp_path / "bert", config=config, **longer)
    value = {(row["baseline"], row["metric"]): row["value"] for row in made.rows}
    assert value[False, "mlm_loss"] < value[True, "mlm_loss"] - 0.3
    assert value[False, "mlm_accuracy"] > value[True, "mlm_accuracy"] + 0.1
    last = made.run["training"][1]["history"][-1]
    assert last["step"] == 40
    assert last["mlm_loss"] == value[False, "mlm_loss"]


def test_metrics_and_baselines_are_those_of_their_definition() -> None:
    documents = [("the cat sat on the mat", "the dog ran", "a rat sat", "the cat ran", "the dog sat on the cat")] * 2
    tokenizer = train_wordpiece([s for document in documents for s in document], 60)
    tokens = tokenise(documents, tokenizer)
    pairs = SentencePairs(tokens, tokenizer, 16, passes=2, seed=0)
    found = baselines(tokens, pairs, len(tokenizer))
    counts = np.bincount(tokens.numbers, minlength=len(tokenizer)) + 1.0
    nats, right = [], []
    for item in pairs:
        for label in item["labels"]:
            if label != IGNORED:
                nats.append(-math.log(counts[label] / counts.sum()))
                right.append(label == counts.argmax())
    assert found["mlm_loss"] == pytest.approx(np.mean(nats))
    assert found["mlm_accuracy"] == pytest.approx(np.mean(right))
    share = pairs.pairs[:, 4].mean()
    assert found["nsp_accuracy"] == pytest.approx(max(share, 1 - share))

    rng = torch.Generator().manual_seed(0)
    logits, follows = torch.randn(3, 5, 7, generator=rng), torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    labels = torch.full((3, 5), IGNORED)
    labels[0, 1], labels[0, 3], labels[2, 4] = 2, 6, int(logits[2, 4].argmax())
    judged = Pretraining(0).condense((logits, follows), (labels, torch.tensor([[0], [0], [1]])))
    metrics = Pretraining(0).evaluate([(row,) for row in judged.numpy()], None, None)  # type: ignore[arg-type]
    probabilities = torch.log_softmax(logits, dim=2)
    chosen = [probabilities[0, 1, 2], probabilities[0, 3, 6], probabilities[2, 4, labels[2, 4]]]
    assert metrics["mlm_loss"] == pytest.approx(-float(sum(chosen)) / 3, rel=1e-6)
    hits = [logits[0, 1].argmax() == 2, logits[0, 3].argmax() == 6, True]
    assert metrics["mlm_accuracy"] == pytest.approx(np.mean([bool(hit) for hit in hits]))
    assert metrics["nsp_accuracy"] == pytest.approx(2 / 3)


def test_the_whole_way_through_the_command_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "one.txt"
    text.write_text((place / "text.txt").read_text().replace("\n\n", "\n"))
    command = ["pretrain", "--text", str(text), "--like", str(place / "bert" / "seed-1" / "last"), "--steps", "2"]
    small = ["--batch-size", "2", "--max-length", "20", "--duplicates", "1", "--held-out", "0.2", "--device", "cpu"]
    out = tmp_path / "out"
    assert cli.main([*command, *small, "--seeds", "3", "4", "--output-dir", str(out)]) == 0
    said, err = capsys.readouterr()
    for part in ("baseline", "seed 3", "seed 4", "mean ± spread", "next sentence: accuracy", "100 sentences away"):
        assert part in " ".join(said.split())
    assert f"Pre-trained: {out / 'seed-3' / 'last'}, {out / 'seed-4' / 'last'}." in err
    assert sorted(os.listdir(out)) == [
        ".bertft.json", "options.json", "pretraining.csv", "pretraining.json", "pretraining.png",
        "report.html", "run.json", "seed-3", "seed-4",
    ]  # fmt: skip
    content = json.loads((out / "pretraining.json").read_text())
    options = content["run"]["options"]
    assert options["recipe"]["steps"] == 2
    assert options["config"]["hidden_size"] == SHAPE["hidden_size"]
    assert content["run"]["tokens"]["train"] > content["run"]["tokens"]["held out"] > 0
    assert len(content["rows"]) == 9
    # The tokenizer is that of the model it is like, so the two can be compared.
    scored = ["score", str(place / "bert" / "seed-1" / "last"), str(out / "seed-3" / "best"), "--text", str(text)]
    assert cli.main([*scored, "--tokens", "30", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["layer"] for row in rows] == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, "unknown size 'huge'; choose one of tiny, mini"),
        ({"max_length": 50}, "max_length is 50, and the config has 40 positions"),
        ({"max_length": 4}, "max_length is 4; a pair needs at least 5"),
        ({"vocab_size": 10}, "a vocabulary of 10 does not hold"),
        ({"held_out": 1.5}, "held_out is 1.5"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"seeds": ()}, "no seed was given"),
        ({"seeds": (-1,)}, "seed is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"like": "x", "config": "y"}, "both a config and a model"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str, place: Path, tmp_path: Path) -> None:
    given = {"config": place / "config.json", **SMALL, **options}
    if "size" in options:
        del given["config"]
    with pytest.raises(OptionError, match=message):
        pretrain(place / "text.txt", tmp_path / "bert", **given)
    assert not (tmp_path / "bert").exists()


def test_configs_that_are_none_of_a_bert(place: Path, tmp_path: Path) -> None:
    for content, message in (
        ('{"model_type": "roberta"}', "not the config of a BERT"),
        ("[]", "not the config of a BERT"),
        ("{", "not readable as JSON"),
        ('{"hidden_size": 30, "num_attention_heads": 4}', "cannot be divided into 4 heads"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(OptionError, match=message):
            pretrain(place / "text.txt", tmp_path / "bert", config=tmp_path / "config.json", **SMALL)
    with pytest.raises(OptionError, match=r"missing.json: not readable"):
        pretrain(place / "text.txt", tmp_path / "bert", config=tmp_path / "missing.json", **SMALL)
    with pytest.raises(CheckpointError, match="no such folder"):
        pretrain(place / "text.txt", tmp_path / "bert", like="no/such/model", **SMALL)


def test_texts_that_are_too_short_or_none(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("one two\n" * 9)
    (tmp_path / "records.jsonl").write_text('{"a": 1}\n')
    for name, message in (
        ("short.txt", "the text has 9 sentences; give at least 16"),
        ("records.jsonl", "got JSON"),
        ("missing.txt", "no such file"),
    ):
        with pytest.raises(DataError, match=message):
            pretrain(tmp_path / name, tmp_path / "bert", size="tiny", **SMALL)
    assert not (tmp_path / "bert").exists()


def test_an_unwritable_folder_is_told_before_training(place: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    command = [
        "pretrain",
        "--text",
        str(place / "text.txt"),
        "--output-dir",
        str(tmp_path / "file" / "bert"),
        "--steps",
        "2",
    ]
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "cannot write there" in err


def test_documents_are_held_out_whole_but_one(tmp_path: Path, place: Path) -> None:
    made = pretrain(place / "text.txt", tmp_path / "bert", config=place / "config.json", **{**SMALL, "steps": 1})
    sentences = made.run["options"]["corpus"]["sentences"]
    assert sentences == {"train": 58, "held out": 14}
    assert made.run["options"]["corpus"]["documents"] == 6


def test_the_picture_has_a_line_a_seed_and_the_baseline() -> None:
    rows = [{"seed": None, "baseline": True, "metric": "mlm_loss", "value": 5.0}]
    history = [{"step": step, "mlm_loss": 6.0 - step / 100} for step in (50, 100, 150)]
    run = {
        "training": {1: {"history": history}, 2: {"history": history[:2]}},
        "options": {"config": {}, "recipe": {"steps": 150, "batch_size": 8}},
        "tokens": {"train": 1000},
    }
    axes = figure(rows, run).axes[0]
    drawn = [[float(y) for y in line.get_ydata()] for line in axes.lines]
    assert drawn == [[5.0, 5.0], [5.5, 5.0, 4.5], [5.5, 5.0]]
    names = {text.get_text() for text in axes.texts}
    assert {"seed 1", "seed 2", "word frequencies"} <= names


def test_findings_say_what_the_numbers_say() -> None:
    assert finding([4.0], 5.0).startswith("The model is 1.00 nats")
    assert finding([4.0, 4.5], 5.0).startswith("All 2 seeds are 0.50 nats")
    assert finding([4.0, 5.5], 5.0).startswith("1 of 2 seeds")


def test_a_model_that_is_no_bert_cannot_be_taken_after(place: Path, tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    folder = tmp_path / "distil"
    DistilBertModel(DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=24, vocab_size=200)).save_pretrained(
        folder
    )
    load_checkpoint(place / "bert" / "seed-1" / "last").tokenizer.save_pretrained(folder)
    with pytest.raises(OptionError, match="is a distilbert; only a BERT can be pre-trained"):
        pretrain(place / "text.txt", tmp_path / "bert", like=folder, **SMALL)
    assert isinstance(load_checkpoint(place / "bert" / "seed-1" / "last").model, BertModel)
