"""From checkpoints and records to table 1 and its pictures, through the command line."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny import bert, save, tokenizer

from bertft import cli
from bertft.checkpoints.load import load_checkpoint
from bertft.data import EdgeRecord, Target
from bertft.data.edge import edge_bytes
from bertft.experiments.edge import EdgeResults, probe_edges
from bertft.experiments.edge_tasks import read_tasks
from bertft.records import plain
from bertft.report import edge

NOUNS, VERBS = ["cat", "dog", "mat"], ["saw", "left", "fed"]
WORDS = [*NOUNS, *VERBS, "the", "a", "."]
BLOCKS = 2


def saved_model(folder: Path, seed: int = 0) -> Path:
    words = tokenizer([*WORDS, "##s"], subwords=True)
    return save(folder, bert(len(words), blocks=BLOCKS, length=12, seed=seed), words)


def sentences(count: int, seed: int) -> list[tuple[str, ...]]:
    """Such as `the cats saw a dog .`; some longer than the models take."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        nouns = [str(rng.choice(NOUNS)) + str(rng.choice(["", "s"])) for _ in range(2)]
        words = ["the", nouns[0], str(rng.choice(VERBS)), "a", nouns[1], *["."] * (8 if number % 10 == 9 else 1)]
        made.append(tuple(words))
    return made


def kind(word: str) -> str:
    return "NOUN" if word.removesuffix("s") in NOUNS else "VERB" if word in VERBS else "X"


def pos(words: tuple[str, ...]) -> tuple[Target, ...]:
    return tuple(Target((place, place + 1), None, (kind(word),)) for place, word in enumerate(words))


def coref(words: tuple[str, ...]) -> tuple[Target, ...]:
    """Both noun phrases, label 1 where they are the same noun."""
    same = words[1].removesuffix("s") == words[4].removesuffix("s")
    return (Target((0, 2), (3, 5), (str(int(same)),)),)


def spr(words: tuple[str, ...]) -> tuple[Target, ...]:
    return (Target((2, 3), (0, 2), ("many",) if words[1].endswith("s") else ()),)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models `model` and `other`, and three tasks on one text."""
    folder = tmp_path_factory.mktemp("edge-probing")
    saved_model(folder / "model")
    saved_model(folder / "other", seed=1)
    for name, make in {"pos": pos, "coref": coref, "spr": spr}.items():
        (folder / "edge" / name).mkdir(parents=True)
        for seed, (split, count) in enumerate({"train": 60, "dev": 20, "test": 30}.items()):
            records = [EdgeRecord(words, make(words), {}, "made") for words in sentences(count, seed)]
            (folder / "edge" / name / f"{split}.jsonl").write_bytes(edge_bytes(records))
    return folder


def command(place: Path, *more: str, names: tuple[str, ...] = ("model",)) -> list[str]:
    fixed = ["--data", str(place / "edge"), "--cache", str(place / "cache"), "--epochs", "2", "--task", "pos", "coref"]
    return ["probe", "edge", *(str(place / name) for name in names), *fixed, *more]


def probed(place: Path, *names: str, **options: Any) -> EdgeResults:
    tasks = read_tasks(options.pop("tasks", ["pos", "coref", "spr"]), place / "edge")
    given = {"epochs": 2, "cache": place / "cache", **options}
    return probe_edges([place / name for name in names], tasks, **given)


def rows_of(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def test_the_command_writes_table_1_and_what_belongs_to_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = command(place, "--baselines", "--output-dir", str(out), names=("model", "other"))
    assert cli.main(arguments) == 0
    shown, said = capsys.readouterr()
    assert "Edge probes, mix, test: F1 of model, differences of the others" in shown
    assert all(word in shown for word in ("POS", "Coreference", "Δ lexical", "Δ random-0", "Δ other"))
    assert "subword vectors of model: 3 layers" in said
    figures = {"edge.png", "edge-mix.png", "report.html"}
    numbers = {"edge.json", "edge.csv", "edge-labels.csv", "run.json", "results"}
    assert set(os.listdir(out)) == {".bertft.json", *figures, *numbers}
    content = json.loads((out / "edge.json").read_text())
    rows, run = content["rows"], content["run"]
    columns = {(row["model"], row["input"], row["baseline"]) for row in rows}
    assert columns == {
        ("model", "mix", False), ("model", "lexical", True), ("other", "mix", False), ("model-random-0", "mix", True)
    }  # fmt: skip
    # Of coreference two scorings; three measures in each of two splits, and a difference for all but the first.
    assert len(rows) == 2 * 3 * (4 * 3 + 3)
    assert len(list(csv.DictReader((out / "edge.csv").read_text().splitlines()))) == len(rows)
    assert run["options"]["recipes"]["pos"]["max_epochs"] == 2
    assert run["tasks"]["pos"]["train"]["sentences"] == len(set(sentences(60, 0)))
    assert any("model, pos+coref: " in note and "were cut" in note for note in run["notes"])
    assert any("pos, train: " in note and "do not fit and were left out" in note for note in run["notes"])
    labels = list(csv.DictReader((out / "edge-labels.csv").read_text().splitlines()))
    assert {row["label"] for row in labels if row["task"] == "pos"} == {"NOUN", "VERB", "X"}

    before = (out / "edge.csv").read_bytes()
    assert cli.main([*arguments, "--json"]) == 0
    shown, said = capsys.readouterr()
    assert json.loads(shown)["rows"] == rows
    assert said.count("; delete it to compute it again") == 3
    assert (out / "edge.csv").read_bytes() == before


def test_an_interrupted_run_goes_on_where_it_was(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bertft.experiments import edge as edge_probing

    real, calls = edge_probing.train_edge_probes, list[int]()

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(edge_probing, "train_edge_probes", interrupted)
    arguments = command(place, "--output-dir", str(tmp_path / "out"), names=("model", "other"))
    assert cli.main(arguments) == 130
    assert os.listdir(tmp_path / "out") == ["results"]
    assert len(os.listdir(tmp_path / "out" / "results")) == 1
    assert cli.main(arguments) == 0
    assert len(calls) == 3
    # Anything that changes the numbers trains anew, and a damaged file does.
    for path, content in zip((tmp_path / "out" / "results").iterdir(), ("{", "{}"), strict=True):
        path.write_text(content)
    assert cli.main([*arguments, "--seeds", "1"]) == 0
    assert cli.main(arguments) == 0
    assert len(calls) == 7


@pytest.mark.equality
def test_values_and_differences_are_those_of_the_models_alone(place: Path) -> None:
    both = probed(place, "model", "other", seeds=[0, 1])
    alone = probed(place, "other", seeds=[1], tasks=["coref"])
    wanted = {"model": "other", "task": "coref", "seed": 1}
    ours, theirs = (rows_of(found.run["training"], **wanted) for found in (alone, both))
    assert len(ours) == len(theirs) == 1
    # Losses are equal up to rounding, which after four steps in float32 is below 1e-5.
    for name in ("dev_losses", "train_losses"):
        assert theirs[0][name] == pytest.approx(ours[0][name], rel=1e-4)
    # Counts are equal, since no logit is closer to 0 than 0.7. They are compared as JSON, where nan equals itself.
    assert plain(rows_of(alone.rows, **wanted)) == plain(rows_of(both.rows, **wanted))
    for task in ("pos", "coref", "spr"):
        (found,) = rows_of(both.rows, task=task, split="test", scoring="all", measure="f1_difference")
        means = [
            np.mean(
                [
                    row["value"]
                    for row in rows_of(both.rows, model=m, task=task, split="test", scoring="all", measure="f1")
                ]
            )
            for m in ("model", "other")
        ]
        assert found["value"] == pytest.approx(means[1] - means[0], abs=1e-12)
        assert found["low"] <= found["value"] <= found["high"]
        assert found["against"] == "model, mix"
    for row in both.rows:
        if row["measure"] == "f1" and math.isfinite(row["low"]):
            assert row["low"] <= row["value"] <= row["high"]


def test_what_is_easy_is_learned_and_controls_are_trained_today(place: Path) -> None:
    found = probed(place, "model", preset="today", epochs=20, inputs=["layer:0"], tasks=["pos"])
    (f1,) = rows_of(found.rows, measure="f1", split="test")
    (control,) = rows_of(found.rows, measure="control_f1", split="test")
    (selectivity,) = rows_of(found.rows, measure="selectivity", split="test")
    assert f1["value"] > 0.9
    assert control["value"] > 0.5  # ten words are soon known by heart
    assert selectivity["value"] == pytest.approx(f1["value"] - control["value"])
    assert {row["n_sentences"] for row in (f1, control)} == {len(set(sentences(30, 2)))}
    assert found.run["mixes"] == []
    text = shown(found.rows, preset="today", mixes=found.run["mixes"])
    assert "By layer, test: F1 of model" in text
    assert f"{100 * selectivity['value']:.1f}" in text


def test_mixes_and_layers(place: Path, tmp_path: Path) -> None:
    found = probed(place, "model", preset="today", tasks=["spr", "pos"], sentences=20)
    assert {row["input"] for row in found.rows} == {"mix", *(f"layer:{k}" for k in range(BLOCKS + 1))}
    for mix in found.run["mixes"]:
        weights, shares = np.array(mix["weights"]), np.array(mix["shares"])
        assert weights.sum() == pytest.approx(1)
        assert shares.sum() == pytest.approx(1)
        assert mix["center"] == pytest.approx(weights @ [0, 1, 2])
        assert mix["center_of_shares"] == pytest.approx(shares @ [0, 1, 2])
    # The share is the weight times the mean length of that layer's vectors, which the model itself gives.
    checkpoint = load_checkpoint(place / "model")
    lengths = np.zeros(BLOCKS + 1)
    used = {words for split, count in enumerate((60, 20, 30)) for words in sentences(count, split)}
    drawn = read_tasks(["spr", "pos"], place / "edge")
    assert {record.words for records in drawn[0].splits.values() for record in records} == used
    from bertft.experiments.edge_tasks import group_tasks

    (group,) = group_tasks(drawn, 20)
    for words in group.sentences:
        tokens = checkpoint.tokenizer(" ".join(words), return_tensors="pt", truncation=True, max_length=12)
        with torch.inference_mode():
            states = checkpoint.model(**tokens, output_hidden_states=True).hidden_states
        lengths += [float(layer[0, 1:-1].norm(dim=1).sum()) for layer in states]
    mix = found.run["mixes"][0]
    expected = np.array(mix["weights"]) * lengths
    np.testing.assert_allclose(mix["shares"], expected / expected.sum(), rtol=1e-3)

    written = found.save(tmp_path)
    assert {path.name for path in written} >= {"edge-mix.png", "edge-mix-shares.png", "edge-layers.png"}
    drawing = edge.mix_figure(found.run["mixes"], "weights")
    assert [axes.get_title(loc="left") for axes in drawing.axes] == ["POS", "SPR"]
    lines = drawing.axes[0].get_lines()
    assert lines[0].get_ydata() == pytest.approx(found.run["mixes"][1]["weights"])
    assert [line.get_marker() for line in lines] == ["o", "^"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--input", "middle"], "unknown input 'middle'; choose one of mix, top, lexical, cat, layer:K"),
        (["--input", "layer:9"], "input 'layer:9' needs layer 9"),
        (["--preset", "old"], "unknown preset 'old'; choose one of paper, today"),
        (["--task", "srl"], "task srl: no folder"),
        (["--task", "dep"], "give a treebank to derive it from"),
        (["--seeds=-1"], "seed is -1"),
        (["--data", "{missing}"], "no such folder; give the folder above those of the tasks"),
        (["--output-dir", "{file}"], "cannot write there"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_bad_input_ends_in_one_line(
    change: list[str], said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    filled = [part.format(missing=tmp_path / "missing", file=tmp_path / "file") for part in change]
    assert cli.main(command(place, *filled)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def made_row(model: str, value: float, *, measure: str = "f1", half: float = 0.01, **more: Any) -> dict[str, Any]:
    return {
        "model": model, "baseline": False, "task": "pos", "input": "mix", "seed": 0, "split": "test", "scoring": "all",
        "measure": measure, "value": value, "low": value - half, "high": value + half, **more,
    }  # fmt: skip


def shown(rows: list[dict[str, Any]], *, width: int = 90, preset: str = "paper", **run: Any) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    edge.show(rows, {"options": {"preset": preset}, "mixes": [], "notes": ["a note"], **run}, console)
    return stream.getvalue()


def test_the_table_by_hand() -> None:
    rows = [
        made_row("runs/base", 0.9, seed=0),
        made_row("runs/base", 0.8, seed=1),
        made_row("runs/base", 0.5, task="coref", scoring="reported"),
        made_row("runs/base", 0.95, task="coref"),
        made_row("runs/mnli", 0.84),
        made_row("runs/mnli", -0.012, measure="f1_difference", seed=None),
        made_row("runs/base", 0.7, input="lexical", baseline=True),
        made_row("runs/base", -0.005, measure="f1_difference", seed=None, input="lexical", baseline=True),
    ]
    lines = [line.rstrip() for line in shown(rows).splitlines()]
    assert "task                base   Δ lexical   Δ mnli" in lines
    assert "POS           85.0 ± 1.0        -0.5   -1.2 *" in lines
    assert "Coreference   95.0 ± 1.0           -        -" in lines
    assert not any("label 1 alone" in line for line in lines)
    assert "Note: a note" in lines
    both = shown(rows, preset="today")
    assert "  label 1 alone   50.0 ± 1.0" in both
    # Too narrow for all columns: a table more, with the base again.
    assert shown(rows, width=60).count("85.0 ± 1.0") == 2


def test_probes_that_have_not_learnt_are_told() -> None:
    rows = [
        made_row("base", 0.705),
        made_row("mnli", 0.8),
        made_row("base", 0.6, input="lexical", baseline=True),
        made_row("base-random-0", 0.7, baseline=True),
        made_row("base", 0.001, task="own"),
    ]
    told = edge.findings(rows, {})
    assert told == [
        "POS, mix: the probe of base, F1 70.5, is no better than the baseline (random-0, 70.0): train longer, or on "
        "more sentences.",
        "own, mix: the probe of base, F1 0.1, is no better than a guess: train longer, or on more sentences.",
    ]
    assert told[0] in " ".join(shown(rows, width=200).split())


def test_undefined_numbers_are_said_and_drawn_as_nothing() -> None:
    rows = [made_row("base", math.nan), made_row("base", 0.5, task="own")]
    assert "undefined" in shown(rows)
    drawing = edge.figure(rows)
    assert [label.get_text() for label in drawing.axes[0].get_yticklabels()] == ["POS", "own"]
