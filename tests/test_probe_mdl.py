"""From checkpoints and records to code lengths and their pictures, through the command line."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tiny import bert, save, tokenizer

from bertft import cli
from bertft.data import EdgeRecord, Target
from bertft.data.edge import edge_bytes
from bertft.experiments.edge_tasks import read_tasks
from bertft.experiments.mdl import MdlResults, describe
from bertft.report import mdl as report

WORDS = ("cat", "dog", "mat", "saw", "left", "the", "a", ".")
TAGS = ("N", "N", "N", "V", "V", "D", "D", "X")


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Few steps of edge probes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertft.probes.mdl.edge_codes.VALIDATIONS", 1)
        patch.setattr("bertft.probes.mdl.edge_codes.LEAST_STEPS", 3)
        yield


def saved_model(folder: Path, seed: int) -> None:
    words = tokenizer(WORDS)
    save(folder, bert(len(words), length=16, seed=seed), words)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models `model` and `other`, and the tasks `pos`, one label, and `spr`, any number."""
    folder = tmp_path_factory.mktemp("mdl")
    for seed, name in enumerate(("model", "other")):
        saved_model(folder / name, seed)
    rng = np.random.default_rng(0)
    for split, count in {"train": 50, "dev": 12}.items():
        records: dict[str, list[EdgeRecord]] = {"pos": [], "spr": []}
        for _ in range(count):
            chosen = rng.integers(0, len(WORDS), 5)
            words = tuple(WORDS[place] for place in chosen)
            tags = tuple(Target((at, at + 1), None, (TAGS[place],)) for at, place in enumerate(chosen))
            pair = Target(
                (0, 1), (3, 5), tuple(name for name in ("N", "V") if name in (TAGS[place] for place in chosen))
            )
            records["pos"].append(EdgeRecord(words, tags, {}, "made"))
            records["spr"].append(EdgeRecord(words, (pair,), {}, "made"))
        for task, made in records.items():
            (folder / "edge" / task).mkdir(parents=True, exist_ok=True)
            (folder / "edge" / task / f"{split}.jsonl").write_bytes(edge_bytes(made))
    return folder


def command(place: Path, *more: str, names: tuple[str, ...] = ("model",)) -> list[str]:
    fixed = ["--data", str(place / "edge"), "--cache", str(place / "cache"), "--task", "pos", "spr"]
    return ["probe", "mdl", *(str(place / name) for name in names), *fixed, *more]


def found(place: Path, *names: str, **options: Any) -> MdlResults:
    tasks = read_tasks(options.pop("tasks", ["pos", "spr"]), place / "edge")
    return describe([place / name for name in names], tasks, **{"cache": place / "cache", "hidden": 8, **options})


def value(rows: list[dict[str, Any]], **wanted: Any) -> float:
    (one,) = [row["value"] for row in rows if all(row[key] == item for key, item in wanted.items())]
    return float(one)


def test_the_whole_way_and_on_from_what_was_kept(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (
        "--output-dir",
        str(tmp_path / "out"),
        "--compat",
        "released",
        "--random-seeds",
        "1",
        "--probe",
        "perceptron",
    )
    more += ("--hidden", "8", "--epochs", "2")
    assert cli.main(command(place, *more, names=("model", "other"))) == 0
    out, err = capsys.readouterr()
    for said in ("Online code of POS", "Online code of SPR", "layer:2", "compression", "highest compression with"):
        assert said in out
    assert "what the released code prints" in " ".join(out.split())
    assert "Wrote mdl.json, mdl.csv, run.json, mdl-layers.png, mdl-curves.png, report.html" in err
    files = {
        ".bertft.json",
        "mdl.json",
        "mdl.csv",
        "mdl-layers.png",
        "mdl-curves.png",
        "report.html",
        "run.json",
        "results",
    }
    assert set(os.listdir(tmp_path / "out")) == files
    written = (tmp_path / "out" / "mdl.json").read_bytes()
    content = json.loads(written)
    rows, run = content["rows"], content["run"]
    # 2 models and the random model of both, 2 tasks, 3 layers, 5 measures.
    assert len(rows) == 3 * 2 * 3 * 5
    assert len(list(csv.DictReader((tmp_path / "out" / "mdl.csv").read_text().splitlines()))) == len(rows)
    assert {(row["model"], row["baseline"]) for row in rows} == {
        ("model", False), ("other", False), ("model-random-0", True)
    }  # fmt: skip
    for task, bits in {"pos": math.log2(4) * 5, "spr": 2}.items():
        one = {"model": "other", "task": task, "input": "layer:1"}
        sentences = run["curves"][0]["targets"]
        assert value(rows, **one, measure="uniform_bits") == pytest.approx(bits * sum(sentences) / 5)
        (curve,) = [curve for curve in run["curves"] if all(curve[key] == item for key, item in one.items())]
        length = value(rows, **one, measure="codelength_bits")
        assert sum(curve["bits"]) == pytest.approx(length)
        nats = (length - curve["bits"][0]) * math.log(2)
        assert value(rows, **one, measure="released_kbits") == pytest.approx((curve["bits"][0] + nats) / 1024)
    assert any("too few for 11 portions" in note for note in run["notes"])

    assert cli.main(command(place, *more, names=("model", "other"))) == 0
    assert capsys.readouterr().err.count("taken from") == 6
    again = json.loads((tmp_path / "out" / "mdl.json").read_bytes())
    assert again["rows"] == rows


@pytest.mark.parametrize("held_out", ["dev", "dev-counted", "inside"])
def test_what_is_held_out_decides_what_is_counted(place: Path, held_out: str) -> None:
    one = found(
        place, "model", tasks=["pos"], inputs=["top"], held_out=held_out, dev_sentences=4, probe="perceptron", epochs=2
    )
    (row,) = [row for row in one.rows if row["measure"] == "uniform_bits"]
    coded = sum(one.run["curves"][0]["targets"])
    assert row["n_targets"] == coded + (4 * 5 if held_out == "dev-counted" else 0)
    assert row["value"] == pytest.approx(2 * row["n_targets"])


def test_the_variational_code_and_its_size(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--code", "variational", "--hidden", "4", "--epochs", "2", "--thresholds", "0", "0", "0"]
    assert cli.main(command(place, *options, "--input", "layer:0", "top", "--json")) == 0
    out, err = capsys.readouterr()
    assert "bertft: warning: 6 steps at a learning rate of 0.001 are too few" in err
    content = json.loads(out)
    one = {"task": "spr", "input": "top"}
    parts = [value(content["rows"], **one, measure=name) for name in ("weight_bits", "label_bits")]
    assert value(content["rows"], **one, measure="codelength_bits") == pytest.approx(sum(parts))
    assert value(content["rows"], **one, measure="kept_inputs_1") == 32
    assert value(content["rows"], **one, measure="kept_inputs_2") == 4
    assert content["run"]["curves"] == []
    assert content["run"]["options"]["recipes"]["spr"]["epochs"] == 2


def test_control_tasks_stand_beside_their_tasks(place: Path) -> None:
    both = found(place, "model", tasks=["pos"], inputs=["layer:0", "mix"], control=True, sentences=20)
    assert {(row["control"], row["input"]) for row in both.rows} == {
        (control, source) for control in (False, True) for source in ("layer:0", "mix")
    }
    names = [each.task for each in report.codelengths(both.rows)]
    assert names == ["POS", "POS", "POS (control)", "POS (control)"]
    stream = io.StringIO()
    report.show(both.rows, both.run, Console(file=stream, width=60, highlight=False))
    assert "Online code of POS (control)" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= 60


def test_pictures_show_layers_and_portions(place: Path) -> None:
    one = found(place, "model", "other", tasks=["pos"], probe="perceptron", epochs=2)
    seen = report.codelengths(one.rows)
    (lines,) = report.layer_lines(seen).values()
    assert [(line.name, tuple(line.layers)) for line in lines] == [("model", (0, 1, 2)), ("other", (0, 1, 2))]
    (curves,) = report.curve_lines(seen, one.run["curves"]).values()
    assert [line.name for line in curves] == ["model", "other"]
    highest = report.best([each for each in seen if each.model == "other"])
    (own,) = [c for c in one.run["curves"] if (c["model"], c["input"]) == ("other", highest.input)]
    assert list(curves[1].values) == pytest.approx([b / n for b, n in zip(own["bits"], own["targets"], strict=True)])
    alone = [curve for curve in one.run["curves"] if curve["model"] == "model"]
    (of_inputs,) = report.curve_lines([each for each in seen if each.model == "model"], alone).values()
    assert [line.name for line in of_inputs] == ["layer:0", "layer:1", "layer:2"]
    axes = report.curve_figure(seen, one.run["curves"]).axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[0] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--code", "offline"], "unknown code 'offline' (did you mean 'online'?); choose one of online, variational"),
        (["--probe", "linear"], "unknown probe 'linear'; choose one of edge, perceptron"),
        (["--held-out", "test"], "unknown held-out 'test'; choose one of dev, dev-counted, inside"),
        (["--input", "layer:7"], "input 'layer:7' needs layer 7"),
        (["--code", "variational", "--input", "mix"], "input 'mix' combines several layers in an edge probe"),
        (["--code", "variational", "--thresholds", "0"], "1 thresholds for 3 layers"),
        (["--task", "ner"], "task ner: no folder"),
        (["--seed=-1"], "seed is -1"),
        (["--sentences", "2", "--held-out", "inside"], "2 sentences have targets"),
        (["--probe", "perceptron", "--learning-rate", "0"], "learning_rate is 0.0; give a number between 0 and 1"),
        (["--compat", "jiant"], "unknown compat 'jiant'"),
        (["--output-dir", "{file}"], "cannot write there"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_bad_input_ends_in_one_line(
    change: list[str], said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(command(place, *(part.format(file=tmp_path / "file") for part in change))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err.splitlines()[-1]


def test_an_interruption_keeps_what_is_done(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    more = (
        "--output-dir",
        str(tmp_path / "out"),
        "--input",
        "top",
        "--probe",
        "perceptron",
        "--hidden",
        "4",
        "--epochs",
        "2",
    )
    assert cli.main(command(place, *more, "--task", "pos")) == 0
    (tmp_path / "out" / "mdl.json").unlink()
    monkeypatch.setattr("bertft.experiments.mdl.online_codes", interrupted)
    assert cli.main(command(place, *more)) == 130
    assert capsys.readouterr().err.endswith("bertft: interrupted\n")
    assert not (tmp_path / "out" / "mdl.json").exists()
    assert len(os.listdir(tmp_path / "out" / "results")) == 1
    assert cli.main(command(place, *more, "--task", "pos")) == 0
