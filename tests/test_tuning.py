"""`bertft tune`: from files to models, their record and the table; runs taken up; and all that is refused."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import math
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install .[tune]")

from transformers import AlbertConfig, BertConfig

from bertft import RSACallback, cli
from bertft.checkpoints.anatomy import n_layers
from bertft.checkpoints.compare import shared_depth
from bertft.checkpoints.load import load_checkpoint
from bertft.errors import BertftError
from bertft.experiments.tune import tune
from bertft.report.tune import spread
from bertft.tasks import named_task, training
from bertft.tasks.training import evaluate

WORDS = ("it", "rains", "pours", "not", "always", "the", "sun", "shines", "who", "what")
BLOCKS = 2
PAIRS = [
    {"sentence1": "it rains always", "sentence2": "it pours", "gold_label": "entailment"},
    {"sentence1": "it rains", "sentence2": "it not rains", "gold_label": "contradiction"},
    {"sentence1": "the sun shines", "sentence2": "it rains", "gold_label": "neutral"},
    {"sentence1": "the sun pours", "sentence2": "it rains", "gold_label": "-"},
] * 6
PASSAGE = "the sun shines not always it rains"


def save(folder: Path, config: Any) -> None:
    tiny.save(folder, tiny.build(config), tiny.tokenizer(WORDS))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, one whose blocks share their weights, and data of both tasks, good and bad."""
    folder = tmp_path_factory.mktemp("tuning")
    shape: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 14}
    shape |= {"num_hidden_layers": BLOCKS, "max_position_embeddings": 24}
    save(folder / "model", BertConfig(**shape))
    save(folder / "albert", AlbertConfig(**shape, embedding_size=8))
    (folder / "mnli.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in PAIRS))
    (folder / "one.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in PAIRS[:1] * 5))
    (folder / "long.jsonl").write_text(
        "".join(f"{json.dumps(pair | {'sentence1': 'it rains ' * 40})}\n" for pair in PAIRS)
    )
    (folder / "empty.jsonl").write_text("")
    (folder / "file").write_text("")
    for name, start in (("squad", 4), ("astray", 5)):
        answers = [{"text": "sun", "answer_start": start}]
        questions = [{"id": f"q{i}", "question": "what shines", "answers": answers} for i in range(6)]
        document = {"data": [{"paragraphs": [{"context": PASSAGE, "qas": questions}]}]}
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def command(place: Path, out: Path, task: str = "mnli", **options: Any) -> list[str]:
    data = place / ("squad.json" if task == "squad" else "mnli.jsonl")
    given = {"model": place / "model", "train": data, "dev": data, "out": out, "epochs": 1, **options}
    words = ["tune", task]
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, tuple) else (value,)
        words += [flag] if value is True else [flag, *map(str, values)]
    return words


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "tuning.json").read_text())
    return found


def test_two_seeds_from_files_to_the_table(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "run"
    options = {"seeds": (1, 2), "freeze": 0, "truncate": 1, "pooler": "reset", "epochs": 2, "dev_limit": 9}
    assert cli.main(command(place, out, **options, learning_rate=1e-3, batch_size=4)) == 0
    shown, said = capsys.readouterr()
    assert re.search(r"best epoch +\d\.\d{4} ± \d\.\d{4}", shown)
    assert "majority class" in shown
    assert "untrained head" in shown
    assert "train: 6 pairs without a gold label were left out" in shown
    assert re.search(r"seed 2: accuracy \d\.\d{4} after epoch [12]\n", said)
    run = record(out)["run"]
    assert run["finished"]
    assert run["options"] == {
        "seeds": [1, 2],
        "freeze": 0,
        "truncate": 1,
        "pooler": "reset",
        "lora": None,
        "preset": "paper",
        "limit": None,
        "dev_limit": 9,
        "device": "cpu",
    }
    assert run["data"]["dev"]["records"] == 9
    assert run["recipe"] == {
        "epochs": 2,
        "learning_rate": 1e-3,
        "batch_size": 4,
        "max_length": 24,
        "warmup": 0.1,
        "clip": 1.0,
        "weight_decay": 0.01,
        "betas": [0.9, 0.999],
        "epsilon": 1e-6,
        "bias_correction": False,
        "decay_from": "start",
        "head_rate": 1.0,
        "steps": None,
        "every": None,
        "extras": {},
    }
    rows = record(out)["rows"]
    assert [row["model"] for row in rows if row["baseline"]] == ["majority class", "untrained head", "untrained head"]
    trained = [row for row in rows if not row["baseline"]]
    assert {(row["seed"], row["epoch"], row["measure"]) for row in trained} == {
        (seed, epoch, measure)
        for seed in (1, 2)
        for epoch in (1, 2)
        for measure in ("accuracy", "train_loss", "dev_loss")
    }
    for seed in (1, 2):
        assert len({row["epoch"] for row in trained if row["seed"] == seed and row["best"]}) == 1
    with (out / "tuning.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["measure"] for row in table] == [row["measure"] for row in rows]
    checkpoint = load_checkpoint(out / "seed-1" / "best")
    assert n_layers(checkpoint.model) == 1
    assert not [path for path in out.rglob("*") if path.suffix in (".bin", ".pt", ".pth")]


def test_squad_frozen_shares_its_layers_with_the_base(place: Path, tmp_path: Path) -> None:
    tuned = tune(
        *("squad", place / "model", str(place / "squad.json"), str(place / "squad.json"), tmp_path / "run"),
        freeze=0,
        epochs=1,
        preset="today",
        device="cpu",
    )
    assert {row["measure"] for row in tuned.rows if not row["baseline"]} == {"exact_match", "f1", "train_loss"}
    assert set(tuned.run["baselines"]) == {"random spans", "untrained head"}
    base, last = (load_checkpoint(folder).model for folder in (place / "model", tmp_path / "run" / "seed-1" / "last"))
    assert shared_depth(base, last) == 1


def test_adapters_from_the_command_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    assert cli.main([*command(place, tmp_path / "run", lora=2), "--json"]) == 0
    out, _ = capsys.readouterr()
    assert json.loads(out) == record(tmp_path / "run")
    assert (tmp_path / "run" / "seed-1" / "best" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "run" / "seed-1" / "best" / "model.safetensors").exists()


def test_a_run_is_taken_up_with_its_own_options_alone(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        made = torch.save

        def stop(*given: Any, **named: Any) -> None:
            if "seed-2" in str(given[1]):
                raise KeyboardInterrupt
            made(*given, **named)

        patched.setattr(torch, "save", stop)
        assert cli.main(command(place, out, seeds=(1, 2))) == 130
    assert not record(out)["run"]["finished"]
    assert {row["seed"] for row in record(out)["rows"]} == {None, 1}
    first = (out / "seed-1" / "best" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    for options, line in (
        ({}, "run: holds a run already; resume it (--resume) or name another folder"),
        ({"resume": True, "seeds": (1, 2), "freeze": 0}, "holds a run whose options.freeze is -1, and now it is 0"),
        ({"resume": True, "seeds": (1, 2), "epochs": 2}, "holds a run whose recipe.epochs is 1, and now it is 2"),
        ({"resume": True, "seeds": (1, 2), "dev": place / "long.jsonl"}, "holds a run whose data.dev.name is"),
    ):
        assert cli.main(command(place, out, **options)) == 2
        assert line in capsys.readouterr().err
    assert cli.main(command(place, out, seeds=(1, 2), resume=True)) == 0
    assert record(out)["run"]["finished"]
    assert {row["seed"] for row in record(out)["rows"]} == {None, 1, 2}
    assert (out / "seed-1" / "best" / "model.safetensors").stat().st_mtime_ns == first


def test_long_pairs_are_cut_and_counted(place: Path, tmp_path: Path) -> None:
    long = str(place / "long.jsonl")
    tuned = tune("mnli", place / "model", long, long, tmp_path / "run", epochs=1, device="cpu")
    assert "train: 18 of 18 pairs were cut to 24 tokens" in tuned.run["notes"]


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("mnli", {"train": "empty.jsonl"}, "empty.jsonl: the file is empty"),
        ("mnli", {"train": "one.jsonl"}, "one.jsonl: all 5 pairs are labelled 'entailment'"),
        ("mnli", {"dev": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ("mnli", {"train": "squad.json"}, "squad.json:1: expected an MNLI record"),
        ("squad", {"train": "astray.json"}, "question q0: the answer 'sun' is not at character 5 of its passage"),
        ("mnli", {"freeze": 2}, "cannot freeze up to block 2: this model has blocks 0 to 1"),
        ("mnli", {"truncate": 3}, "cannot keep 3 blocks: this model has 2"),
        ("mnli", {"truncate": 1, "freeze": 1}, "cannot freeze up to block 1: this model has blocks 0 to 0"),
        ("squad", {"truncate": 1, "pooler": "reset"}, "BertForQuestionAnswering has no pooler to reset"),
        ("mnli", {"truncate": 1, "lora": 2}, "give either truncate or lora"),
        ("mnli", {"model": "albert", "freeze": 0}, "AlbertModel: expected one list of its 2 transformer blocks"),
        ("mnli", {"model": "nowhere/at/all"}, "no such folder"),
        ("mnli", {"preset": "tomorrow"}, "unknown preset 'tomorrow'; choose one of paper, today"),
        ("mnli", {"learning_rate": 3}, "learning_rate is 3.0; give a number between 0 and 1"),
        ("mnli", {"seeds": -1}, "seed is -1; give a whole number that is at least 0"),
        ("mnli", {"device": "cuda:1"}, "set CUDA_VISIBLE_DEVICES=1"),
        ("ner", {}, "unknown task 'ner'"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(
    place: Path, tmp_path: Path, task: str, options: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: place / options[name] for name in ("train", "dev", "model") if name in options}
    assert cli.main(command(place, tmp_path / "run", task, **{**options, **paths})) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_take_the_run(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(place, place / "file" / "below")) == 2
    assert "cannot write there" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    for options in ({}, {"resume": True}):
        assert cli.main(command(place, tmp_path, **options)) == 2
        assert "holds other files, and no run to resume" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_disk_that_fills_up_ends_in_one_line(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        assert cli.main(command(place, tmp_path / "run")) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "seed-1: cannot write there: No space left on device; free space or name another folder" in err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"tuning.json", "tuning.csv", "run.json"}
    assert cli.main(command(place, tmp_path / "run", resume=True)) == 0


@pytest.mark.parametrize("litter", [".tuning.json.4711.bertft.tmp", ".tuning.json.4711.tmp", ".DS_Store", "Thumbs.db"])
def test_a_folder_with_nothing_of_a_run_begins_anew(place: Path, tmp_path: Path, litter: str) -> None:
    (tmp_path / litter).write_text("half")
    for options in ({"resume": True}, {}):
        assert cli.main(command(place, tmp_path, **options)) == (0 if options else 2)
    assert record(tmp_path)["run"]["finished"]
    assert not list(tmp_path.glob(".*.bertft.*"))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"run": {"baselines": [1]}}', '{"run": {}}', "1" * 5000]
)
def test_a_record_that_is_none_is_refused(
    place: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tuning.json").write_text(text)
    assert cli.main(command(place, tmp_path, resume=True)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "tuning.json: no record of a run (" in err
    assert (tmp_path / "tuning.json").read_text() == text


def test_a_second_run_into_the_folder_is_refused_and_the_first_goes_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def second(done: int, total: int, what: str) -> None:
        if not seen and "epoch" in what:
            thread = threading.Thread(
                target=lambda: seen.append(cli.main(command(place, tmp_path / "run", resume=True)))
            )
            thread.start()
            thread.join()

    data = place / "mnli.jsonl"
    tune("mnli", place / "model", data, data, tmp_path / "run", epochs=1, progress=second)
    assert seen == [2]
    assert "run: another run is at work there; wait for it to end" in capsys.readouterr().err
    assert record(tmp_path / "run")["run"]["finished"]
    assert not (tmp_path / "run" / ".bertft.lock").exists()


@pytest.mark.parametrize("undefined", [False, True])
def test_a_resumed_run_writes_the_bytes_of_an_unbroken_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undefined: bool
) -> None:
    if undefined:  # a loss that is nan, which JSON does not have
        monkeypatch.setattr(
            "bertft.experiments.tune.evaluate", lambda *_, **__: {"dev_loss": math.nan, "accuracy": 0.5}
        )
    assert cli.main(command(place, tmp_path / "whole", seeds=(1, 2), epochs=2)) == 0
    with monkeypatch.context() as patched:
        patched.setattr("bertft.tasks.training.copy_files", Stopping(3))
        assert cli.main(command(place, tmp_path / "run", seeds=(1, 2), epochs=2)) == 130
    assert cli.main(command(place, tmp_path / "run", seeds=(1, 2), epochs=2, resume=True)) == 0
    whole, again = (tmp_path / name for name in ("whole", "run"))
    assert (whole / "tuning.csv").read_bytes() == (again / "tuning.csv").read_bytes()
    assert (whole / "tuning.json").read_bytes() == (again / "tuning.json").read_bytes()


class Stopping:
    """`copy_files`, until the call with a number, which is interrupted."""

    def __init__(self, at: int) -> None:
        self.real, self.left = training.copy_files, at

    def __call__(self, *given: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        self.real(*given)


PAD_LESS = {"special": ("[UNK]", "[CLS]", "[SEP]")}


@pytest.mark.parametrize(
    ("task", "family", "padding"),
    [
        *(("mnli", family, padding) for family in ("gpt2", "llama") for padding in ("none", "tokenizer", "minus one")),
        ("mnli", "gpt2", "config"),
        ("mnli", "bert", "none"),
        ("squad", "gpt2", "none"),
        ("squad", "llama", "minus one"),
    ],
)
def test_models_without_a_padding_token_are_padded_under_the_mask(
    place: Path, tmp_path: Path, task: str, family: str, padding: str
) -> None:
    special: dict[str, Any] = {} if padding == "tokenizer" else PAD_LESS
    words = tiny.tokenizer(WORDS, **special)
    number = {"config": 0, "minus one": -1}.get(padding)
    more = {"n_positions": 40} if family == "gpt2" else {"max_position_embeddings": 40}
    config = tiny.FAMILIES[family](len(words), pad_token_id=number, **more)
    tiny.save(tmp_path / "model", tiny.build(config), words)
    data = str(place / ("squad.json" if task == "squad" else "mnli.jsonl"))
    kind, checkpoint = named_task(task), load_checkpoint(tmp_path / "model")
    records = kind.read(data).limited(3, seed=0)
    torch.manual_seed(0)
    model = kind.build(checkpoint, records)

    def metrics(preset: str, *items: Any) -> dict[str, float]:
        recipe = dataclasses.replace(kind.recipes[preset], max_length=24)
        return evaluate(kind, model, checkpoint.tokenizer, dataclasses.replace(records, items=items), recipe)

    if task == "mnli":  # texts of several lengths, of which one alone is not padded
        alone = [metrics("paper", item)["dev_loss"] for item in records.items]
        assert metrics("paper", *records.items)["dev_loss"] == pytest.approx(sum(alone) / 3, rel=1e-5)
    else:  # padded to the full length, and to the longest of the batch
        assert metrics("paper", *records.items) == metrics("today", *records.items)
    found = tune(task, tmp_path / "model", data, data, tmp_path / "run", epochs=1, batch_size=4, max_length=24)
    assert found.run["finished"]
    assert checkpoint.tokenizer.pad_token == (None if special else "[PAD]")  # the tokenizer is saved as it was
    assert (tmp_path / "run" / "seed-1" / "best" / "model.safetensors").is_file()


def test_the_library_refuses_what_the_command_line_cannot_ask(place: Path, tmp_path: Path) -> None:
    data = str(place / "mnli.jsonl")
    for options, said in (
        ({"seeds": ()}, "no seed"),
        ({"pooler": "drop"}, "unknown treatment"),
        ({"limit": 0}, "limit"),
    ):
        with pytest.raises(BertftError, match=said):
            tune("mnli", place / "model", data, data, tmp_path / "run", **options)


def test_the_spread_of_some_seeds() -> None:
    assert spread([0.5, 0.7]) == "0.6000 ± 0.1414"


def test_a_callback_that_logs_stands_in_the_record(place: Path, tmp_path: Path) -> None:
    data = place / "mnli.jsonl"
    watch = RSACallback(["it rains always", "the sun shines", "what pours not"], tokens="all")
    found = tune("mnli", place / "model", data, data, tmp_path / "run", freeze=0, epochs=2, callbacks=[watch])
    by_layer = {
        layer: [row["value"] for row in found.rows if row["measure"] == f"rsa/layer_{layer}"]
        for layer in range(BLOCKS + 1)
    }
    assert by_layer[0] == by_layer[1] == [1.0, 1.0]  # frozen
    assert len(by_layer[2]) == 2
    assert all(value < 1 for value in by_layer[2])
