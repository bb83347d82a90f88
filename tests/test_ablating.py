"""Sweeps of freezing and truncation: which cells are run, which are not run again, and what is drawn of them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import bert, save

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install .[tune]")

from bertft import cli
from bertft.checkpoints.anatomy import n_layers
from bertft.checkpoints.load import load_checkpoint
from bertft.errors import BertftError, DataError, OptionError
from bertft.experiments import ablate as ablating
from bertft.experiments.ablate import Sweep, ablate, parse_cells
from bertft.experiments.run import Run
from bertft.experiments.tune import Tuning
from bertft.files import folder_lock, write_files
from bertft.records import json_bytes
from bertft.report.ablate import SweepCurve, figure, finding, sweeps
from bertft.tasks.wordpiece import train_wordpiece

CASES = {
    "entailment": ("the cat sat", "the cat sat"),
    "contradiction": ("the cat sat", "no cat sat"),
    "neutral": ("the cat sat", "a dog ran"),
}
SMALL: dict[str, Any] = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "max_length": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of 2 blocks, `train.jsonl` and `dev.jsonl`."""
    folder = tmp_path_factory.mktemp("ablating")
    tokenizer = train_wordpiece([text for pair in CASES.values() for text in pair], 60)
    save(folder / "model", bert(len(tokenizer)), tokenizer)
    for split, times in (("train", 4), ("dev", 2)):
        records = [
            {"gold_label": label, "sentence1": first, "sentence2": second}
            for _ in range(times)
            for label, (first, second) in CASES.items()
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def sources(place: Path) -> tuple[Path, Path, Path]:
    return place / "model", place / "train.jsonl", place / "dev.jsonl"


class Counted:
    """Replaces `run_tuning` and counts the cells that it trains."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run_tuning, self.cells = ablating.run_tuning, []
        monkeypatch.setattr(ablating, "run_tuning", self)

    def __call__(self, tuning: Tuning, out: Path, run: Run, seeds: tuple[int, ...], held: Any) -> Any:
        self.cells.append((tuning.changes.freeze, tuning.changes.truncate, *seeds))
        return self.run_tuning(tuning, out, run, seeds, held)


def test_each_cell_is_run_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    out = tmp_path / "out"
    found = ablate("mnli", *sources(place), out, freeze="all", truncate="all", keep="all", **SMALL)
    # The untouched model is the end of both sweeps, and run once.
    assert counted.cells == [(-1, None, 1), (0, None, 1), (1, None, 1), (-1, 1, 1)]
    assert [(row["kind"], row["k"]) for row in found.rows] == [
        ("freeze", -1), ("freeze", 0), ("freeze", 1), ("truncate", 1), ("truncate", 2),
    ]  # fmt: skip
    assert found.rows[0]["value"] == found.rows[-1]["value"]
    assert {row["spread"] for row in found.rows} == {None}
    for name, blocks in (("untouched", 2), ("truncate-1", 1)):
        model = out / "mnli" / "seed-1" / name / "seed-1" / "last"
        assert n_layers(load_checkpoint(model).model) == blocks
    base = load_checkpoint(place / "model").model
    frozen = load_checkpoint(out / "mnli" / "seed-1" / "freeze-0" / "seed-1" / "last").model
    assert torch.equal(
        base.encoder.layer[0].output.dense.weight, frozen.encoder.layer[0].output.dense.weight
    )  # fmt: skip
    assert not torch.equal(base.encoder.layer[1].output.dense.weight, frozen.encoder.layer[1].output.dense.weight)

    # A second seed and a stricter `keep`: only the new cells are run, and the models of all go.
    counted.cells.clear()
    again = ablate("mnli", *sources(place), out, freeze="0,1", truncate=None, seeds=(1, 2), keep="none", **SMALL)
    assert counted.cells == [(-1, None, 2), (0, None, 2), (1, None, 2)]
    assert not list((out / "mnli").glob("seed-*/freeze-*/seed-*/*/model.safetensors"))
    rows = [row for row in again.rows if row["k"] == 0]
    values = [row["value"] for row in rows]
    assert [row["seed"] for row in rows] == [1, 2]
    assert rows[0]["mean"] == rows[1]["mean"] == pytest.approx(sum(values) / 2)
    assert rows[0]["spread"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)


def test_a_killed_sweep_goes_on_where_it_was(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
import os, signal
from bertft.experiments.ablate import ablate

def progress(done, total, what):
    if what.startswith("2 of 2, freeze-1") and "epoch 2" in what and "dev" not in what:
        os.kill(os.getpid(), signal.SIGKILL)

ablate("mnli", *{[str(path) for path in sources(place)]!r}, {str(tmp_path / "out")!r}, freeze="1", keep="all",
       progress=progress, **{SMALL | {"epochs": 2}!r})
"""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    broken = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert broken.returncode == -signal.SIGKILL, broken.stderr
    counted = Counted(monkeypatch)
    options = SMALL | {"epochs": 2, "keep": "all", "freeze": 1}
    resumed = ablate("mnli", *sources(place), tmp_path / "out", **options)
    assert counted.cells == [(1, None, 1)]
    whole = ablate("mnli", *sources(place), tmp_path / "whole", **options)
    model = "mnli/seed-1/freeze-1/seed-1/last/model.safetensors"
    assert (tmp_path / "out" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()
    assert [row["value"] for row in resumed.rows] == [row["value"] for row in whole.rows]


def test_the_whole_way_through_the_command_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, train, dev = map(str, sources(place))
    command = [
        "ablate",
        "mnli",
        "--model",
        model,
        "--train",
        train,
        "--dev",
        dev,
        "--output-dir",
        str(tmp_path / "out"),
    ]
    small = ["--epochs", "1", "--batch-size", "4", "--max-length", "16", "--device", "cpu", "--limit", "9"]
    assert cli.main([*command, *small, "--truncate", "1"]) == 0
    out, err = capsys.readouterr()
    assert "Truncation: MNLI (accuracy) of model" in out
    assert "9 training records, 6 dev records; 1 seed" in out
    assert "2 of 2: mnli, truncate-1, seed 1: accuracy" in err
    assert sorted(os.listdir(tmp_path / "out")) == [
        ".bertft.json", "ablation.csv", "ablation.json", "mnli", "report.html", "run.json", "truncate.png",
    ]  # fmt: skip
    content = json.loads((tmp_path / "out" / "ablation.json").read_text())
    record = content["run"]["tasks"]["mnli"]
    assert record["depth"] == 2
    assert record["options"]["limit"] == 9
    assert record["options"]["recipe"]["batch_size"] == 4
    assert record["kept"] == "the best model of each cell"
    assert "majority class" in record["baselines"]
    kept = {path.parent.name for path in tmp_path.rglob("model.safetensors")}
    assert kept == {"best"}
    with (tmp_path / "out" / "ablation.csv").open() as stream:
        assert [row["k"] for row in csv.DictReader(stream)] == ["1", "2"]

    assert cli.main([*command, *small, "--truncate", "1", "--learning-rate", "0.5"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "holds a run whose recipe.learning_rate is 5e-05, and now it is 0.5" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": "2"}, "cannot freeze 2: this model has blocks 0 to 1, and -1 freezes nothing"),
        ({"freeze": -2}, "cannot freeze -2"),
        ({"truncate": 0}, "cannot truncate 0: this model has 2 blocks; keep 1 to 2"),
        ({"truncate": "1-3"}, "cannot truncate 1-3"),
        ({"truncate": "2-1"}, "cannot truncate 2-1"),
        ({"freeze": "some"}, "cannot freeze 'some'; write all, a number"),
        ({}, "nothing to sweep"),
        ({"freeze": 0, "keep": "last"}, "unknown choice of models to keep 'last'"),
        ({"freeze": 0, "seeds": ()}, "no seed was given"),
        ({"freeze": 0, "seeds": (-1,)}, "seed is -1"),
        ({"freeze": 0, "limit": 0}, "limit is 0"),
        ({"freeze": 0, "epochs": 0}, "epochs is 0"),
        ({"freeze": 0, "preset": "old"}, "unknown preset 'old'"),
        ({"freeze": 0, "pooler": "drop"}, "unknown treatment of the pooler"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str, place: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        ablate("mnli", *sources(place), tmp_path / "out", **{**SMALL, **options})
    assert not (tmp_path / "out").exists()


def test_bad_data_and_folders(place: Path, tmp_path: Path) -> None:
    model, train, dev = sources(place)
    (tmp_path / "one.jsonl").write_text(train.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="all 1 pairs are labelled 'entailment'"):
        ablate("mnli", model, tmp_path / "one.jsonl", dev, tmp_path / "out", freeze=0, **SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(BertftError, match="cannot write there"):
        ablate("mnli", model, train, dev, tmp_path / "file" / "out", freeze=0, **SMALL)
    assert not (tmp_path / "out").exists()


def test_two_sweeps_keep_each_others_task(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, train, dev = map(str, sources(place))
    out = tmp_path / "out"
    small = ["--epochs", "1", "--batch-size", "4", "--max-length", "16", "--device", "cpu", "--keep", "none"]
    command = ["ablate", "mnli", "--model", model, "--train", train, "--dev", dev, "--output-dir", str(out), *small]
    real, others = ablating.with_other_tasks, made_rows("squad", "f1", {-1: (0.7,), 0: (0.6,)})
    run = {"versions": {}, "tasks": {"squad": {"metric": "f1", "depth": 2, "baselines": {}, "data": {}}}}

    def another_ends_meanwhile(found: Any, task: str, folder: Any) -> Any:
        merged = real(found, task, folder)
        if not (out / "ablation.json").exists():
            write_files(out, {"ablation.json": json_bytes(others, run)})
        return merged

    monkeypatch.setattr(ablating, "with_other_tasks", another_ends_meanwhile)
    monkeypatch.setattr("bertft.report.ablate.show", lambda *_: None)
    assert cli.main([*command, "--freeze", "0"]) == 0
    content = json.loads((out / "ablation.json").read_text())
    assert list(content["run"]["tasks"]) == ["squad", "mnli"]
    assert {row["task"] for row in content["rows"]} == {"squad", "mnli"}
    # The folder of a task is held by its sweep.
    with ThreadPoolExecutor(1) as other, folder_lock(out / "mnli"):
        assert other.submit(cli.main, [*command, "--freeze", "0"]).result() == 2
    assert "mnli: another run is at work there" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"rows": [1], "run": {"tasks": {}}}', '{"rows": []}'])
def test_a_record_that_cannot_be_read_is_reported_before_training(place: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "ablation.json").write_text(text)
    with pytest.raises(BertftError, match=r"ablation\.json: cannot be read \(.*\); delete it to have it written again"):
        ablate("mnli", *sources(place), tmp_path, freeze=0, **SMALL)
    assert os.listdir(tmp_path) == ["ablation.json"]


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"run": {"finished": true}, "rows": []}'])
def test_a_cell_whose_record_cannot_be_read_is_reported(place: Path, tmp_path: Path, text: str) -> None:
    cell = tmp_path / "mnli" / "seed-1" / "untouched"
    cell.mkdir(parents=True)
    (cell / "tuning.json").write_text(text)
    with pytest.raises(BertftError, match=r"tuning\.json: no record of a finished cell \(.*\); delete the folder"):
        ablate("mnli", *sources(place), tmp_path, freeze=0, **SMALL)


def test_a_cell_that_was_killed_at_its_first_write_begins_anew(place: Path, tmp_path: Path) -> None:
    cell = tmp_path / "mnli" / "seed-1" / "freeze-0"
    cell.mkdir(parents=True)
    for name in (".tuning.json.17.bertft.tmp", ".DS_Store"):
        (cell / name).write_text("half")
    found = ablate("mnli", *sources(place), tmp_path, freeze=0, keep="none", **SMALL)
    assert {row["k"] for row in found.rows} == {-1, 0}


def test_cells_asked_for() -> None:
    freeze, truncate = Sweep("freeze", -1, 11, -1, ""), Sweep("truncate", 1, 12, 12, "")
    assert parse_cells("all", freeze) == tuple(range(-1, 12))
    assert parse_cells(" 2 , 4-5", truncate) == (2, 4, 5, 12)
    assert parse_cells((3, -1), freeze) == (-1, 3)
    assert parse_cells("-1", freeze) == (-1,)


def made_rows(task: str, metric: str, values: dict[int, tuple[float, ...]], kind: str = "freeze") -> list[Any]:
    return [
        {
            "task": task, "kind": kind, "k": k, "seed": seed, "metric": metric, "value": value,
            "mean": sum(of_k) / len(of_k), "spread": max(of_k) - min(of_k) if len(of_k) > 1 else None,
        }
        for k, of_k in values.items()
        for seed, value in enumerate(of_k)
    ]  # fmt: skip


def test_the_picture_has_a_line_a_task_and_the_untouched_model_beside_it() -> None:
    rows = [
        *made_rows("mnli", "accuracy", {-1: (0.8, 0.82), 0: (0.79, 0.8), 1: (0.5, 0.6)}),
        *made_rows("squad", "f1", {-1: (0.7,), 0: (0.6,), 1: (0.2,)}),
        *made_rows("squad", "exact_match", {-1: (0.1,), 0: (0.1,), 1: (0.1,)}),
    ]
    run = {"tasks": {"mnli": {"metric": "accuracy", "depth": 2}, "squad": {"metric": "f1", "depth": 2}}}
    drawing = figure(rows, run, "freeze")
    (axes,) = drawing.axes
    drawn = [[round(float(y), 6) for y in line.get_ydata()] for line in axes.lines]
    assert drawn == [[0.81, 0.81], [0.81, 0.795, 0.55], [0.7, 0.7], [0.7, 0.6, 0.2]]
    assert {"MNLI (accuracy)", "SQuAD (F1)"} <= {text.get_text() for text in axes.texts}
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylabel() == "Accuracy, F1"
    assert sweeps(rows, run, "truncate") == []
    run["tasks"]["squad"]["baselines"] = {"majority": {"f1": 0.93}}
    (axes,) = figure(rows, run, "freeze").axes
    assert [0.93, 0.93] in [list(line.get_ydata()) for line in axes.lines]
    assert axes.get_ylim()[1] > 0.93
    assert "SQuAD, majority" in {text.get_text() for text in axes.texts}


def test_a_sweep_of_what_was_not_learnt_says_so() -> None:
    rows = made_rows("mnli", "accuracy", {-1: (0.4,), 0: (0.38,)})
    floors = {"majority class": {"accuracy": 0.395}, "untrained head": {"accuracy": 0.2, "dev_loss": 1.1}}
    (sweep,) = sweeps(rows, {"tasks": {"mnli": {"metric": "accuracy", "depth": 2, "baselines": floors}}}, "freeze")
    assert sweep.baseline == ("majority class", 0.395)
    assert "0.400 unmodified, no better than the baseline (majority class, 0.395)" in finding(sweep, "freeze")


def test_findings_say_what_the_numbers_say() -> None:
    def said(means: tuple[float, ...], kind: str = "truncate") -> str:
        ks = tuple(range(1, len(means) + 1)) if kind == "truncate" else tuple(range(-1, len(means) - 1))
        return finding(
            SweepCurve("dep", "las", ks, means, (), seeds=1, whole=ks[-1] if kind == "truncate" else -1), kind
        )

    assert "kept within 0.01 down to 2 blocks; lowest 0.300 (1 block)." in said((0.3, 0.795, 0.8))
    assert "kept within 0.01 at every k; lowest 0.795." in said((0.795, 0.8, 0.8))
    assert "not kept within 0.01 at any other k" in said((0.3, 0.5, 0.8))
    assert "kept within 0.01 up to block 1; lowest 0.100 (block 2)." in said((0.8, 0.9, 0.8, 0.1), "freeze")
