"""What cannot be loaded ends in one error in Python: no frames of the hub, of JSON or of pickle around it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from bertft import pretrain, score, tune
from bertft.checkpoints import load_checkpoint, present_device
from bertft.checkpoints.weights import read_weights
from bertft.data import read_corpus
from bertft.data.hub import read_hub
from bertft.data.mnli import read_pairs
from bertft.data.squad import read_questions
from bertft.data.treebank import read_treebank
from bertft.errors import BertftError, CheckpointError
from bertft.experiments.edge import probe_edges
from bertft.experiments.edge_tasks import read_tasks
from bertft.experiments.structural import probe_structural

WORDS = ["the", "cat", "sat"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a model lies that can be loaded, with an empty cache of a hub that cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    tiny.save(tmp_path / "model", tiny.build(tiny.FAMILIES["bert"](7)), tiny.tokenizer(WORDS))
    (tmp_path / "text.txt").write_text("the cat sat\n" * 3)
    (tmp_path / "latin").write_bytes(b"caf\xe9 au lait\n")
    (tmp_path / "cut.json").write_text('{"version": "1.1", "data": [')
    (tmp_path / "cut.jsonl").write_text('{"text": "the cat", ')
    (tmp_path / "cut.conllu").write_text("1\tthe\n\n")
    return tmp_path


def check_one_error(error: BaseException) -> None:
    """One traceback, in one line, of ours alone."""
    assert isinstance(error, BertftError)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    shown = "".join(traceback.format_exception(error))
    assert shown.count("Traceback (most recent call last)") == 1
    assert "\n" not in str(error)


WRONG: dict[str, Callable[[], Any]] = {
    "score, base": lambda: score("no/such", "model", "text.txt"),
    "score, tuned": lambda: score("model", ["model", "no/such"], "text.txt"),
    "score, text": lambda: score("model", "model", "no/such.txt"),
    "score, encoding": lambda: score("model", "model", "latin"),
    "load, hub name": lambda: load_checkpoint("no/such"),
    "load, path": lambda: load_checkpoint(Path("no/such")),
    "load, home": lambda: load_checkpoint("~no-such-user/model"),
    "load, long": lambda: load_checkpoint("m" * 5000),
    "load, zero byte": lambda: load_checkpoint("model\0"),
    "load, file": lambda: load_checkpoint("text.txt"),
    "load, device": lambda: present_device("no-such-device"),
    "weights": lambda: read_weights("no/such"),
    "structural, model": lambda: probe_structural("no/such", "bank"),
    "structural, treebank": lambda: probe_structural("model", "no/such"),
    "edge, data": lambda: probe_edges("model", read_tasks(["pos"], Path("no/such"))),
    "tune, data": lambda: tune("mnli", "model", "no/such.jsonl", "no/such.jsonl", "out"),
    "pretrain, text": lambda: pretrain("no/such.txt", "out"),
    "pretrain, config": lambda: pretrain("text.txt", "out", config="cut.json"),
    "corpus, squad": lambda: read_corpus(Path("cut.json")),
    "corpus, lines": lambda: read_corpus(Path("cut.jsonl")),
    "corpus, trees": lambda: read_corpus(Path("cut.conllu")),
    "corpus, folder": lambda: read_corpus(Path("model")),
    "corpus, home": lambda: read_corpus(Path("~no-such-user/text.txt")),
    "mnli": lambda: read_pairs("cut.jsonl"),
    "squad": lambda: read_questions("cut.json"),
    "treebank": lambda: read_treebank(Path("no/such")),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_path_ends_in_one_error(folder: Path, kind: str) -> None:
    with pytest.raises(BertftError) as raised:
        WRONG[kind]()
    check_one_error(raised.value)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def write_pickle(file: Path) -> None:
    file.with_name("pytorch_model.bin").write_bytes(b"\x80\x02cos\nsystem\n.")
    file.unlink()


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "weights cut": ("model.safetensors", truncate),
    "weights gone": ("model.safetensors", Path.unlink),
    "pickle": ("model.safetensors", write_pickle),
    "config cut": ("config.json", truncate),
    "config gone": ("config.json", Path.unlink),
    "no tokenizer": ("tokenizer.json", Path.unlink),
    "git lfs": ("model.safetensors", lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n")),
    "index": ("model.safetensors", lambda file: file.rename(file.with_name("x")).with_name(
        "model.safetensors.index.json").write_text("{}")),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_model_ends_in_one_error(folder: Path, kind: str) -> None:
    name, damage = DAMAGE[kind]
    damage(folder / "model" / name)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint("model", allow_pickle=True)
    check_one_error(raised.value)


@pytest.mark.parametrize(
    "found",
    [
        LocalEntryNotFoundError("nothing in the cache"),
        HFValidationError("a name of the hub has no such characters"),
        OSError("401 Client Error\n\nRepository Not Found"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_the_hub_raises(folder: Path, monkeypatch: pytest.MonkeyPatch, found: Exception) -> None:
    def raises(*_: Any, **__: Any) -> None:
        try:
            raise ConnectionError("frames of the network")
        except ConnectionError as error:
            raise found from error

    monkeypatch.setattr("bertft.checkpoints.files.snapshot_download", raises)
    for act in (lambda: load_checkpoint("no/such"), lambda: score("no/such", "model", "text.txt")):
        with pytest.raises(CheckpointError) as raised:
            act()
        check_one_error(raised.value)


def test_whatever_data_sets_of_the_hub_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install .[tune]")

    def raises(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the hub\nframes of the network")

    monkeypatch.setattr(datasets, "load_dataset", raises)
    with pytest.raises(BertftError, match="Couldn't reach the hub") as raised:
        read_hub("no/such:train")
    check_one_error(raised.value)


def test_a_cause_that_helps_is_kept(folder: Path) -> None:
    (folder / "model" / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "None"}}')
    with pytest.raises(CheckpointError, match="the tokenizer cannot be loaded") as raised:
        load_checkpoint("model")
    assert raised.value.__cause__ is not None
