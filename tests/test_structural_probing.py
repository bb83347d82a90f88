"""From checkpoints and a treebank to the table, the figure and the drawn trees, through the command line."""

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
from rich.console import Console
from tiny import bert, save, tokenizer

from bertft import cli
from bertft.data import read_treebank
from bertft.experiments.structural import CHAIN, RANDOM_TREE, best_layers, probe_structural
from bertft.probes.structural.training import RECIPES, train_probes
from bertft.report.structural import curves, figure, finding, show, tree_figure

WORDS = {"the": "DET", "a": "DET", "cat": "NOUN", "dog": "NOUN", "mat": "NOUN", "saw": "VERB", "left": "VERB"}
LAYERS = 3


def saved_model(folder: Path, seed: int = 0) -> Path:
    words = tokenizer([*WORDS, "."])
    return save(folder, bert(len(words), blocks=LAYERS - 1, seed=seed), words)


def written_treebank(folder: Path, splits: dict[str, int], *, xpos: bool = True) -> Path:
    """Sentences such as `the cat saw a dog .`, with their trees."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    nouns, verbs, determiners = ([w for w, tag in WORDS.items() if tag == kind] for kind in ("NOUN", "VERB", "DET"))
    for split, count in splits.items():
        lines = []
        for number in range(count):
            phrases = [[rng.choice(determiners), rng.choice(nouns)] for _ in range(1 + rng.integers(1, 3))]
            words = [*phrases[0], rng.choice(verbs), *(word for phrase in phrases[1:] for word in phrase), "."]
            lines.append(f"# sent_id = {split}-{number}")
            for place, word in enumerate(words, start=1):
                tag = WORDS.get(word, "PUNCT")
                head = {"DET": place + 1, "VERB": 0}.get(tag, 3)
                fine = {"PUNCT": "."}.get(tag, tag[:2]) if xpos else "_"
                lines.append(f"{place}\t{word}\t{word}\t{tag}\t{fine}\t_\t{head}\tdep\t_\t_")
            lines.append("")
        (folder / f"en_small-ud-{split}.conllu").write_text("\n".join([*lines, ""]))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models, `model` and `other`, and the treebank `bank`."""
    folder = tmp_path_factory.mktemp("probing")
    saved_model(folder / "model")
    saved_model(folder / "other", seed=1)
    written_treebank(folder / "bank", {"train": 40, "dev": 12, "test": 10})
    return folder


def command(place: Path, *more: str, model: str = "model", others: tuple[str, ...] = ()) -> list[str]:
    fixed = ["--treebank", str(place / "bank"), "--cache", str(place / "cache"), "--rank", "8", "--epochs", "3"]
    return ["probe", "structural", *(str(place / name) for name in (model, *others)), *fixed, *more]


def value(rows: list[dict[str, Any]], **wanted: Any) -> float:
    (found,) = [row["value"] for row in rows if all(row[key] == item for key, item in wanted.items())]
    return float(found)


@pytest.mark.equality
def test_the_whole_way_and_the_cache_again(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(place, "--output-dir", str(tmp_path / "out"), others=("other",))) == 0
    out, err = capsys.readouterr()
    for said in (
        "distance",
        "root accuracy",
        "left-to-right chain",
        "random tree",
        "model-random-0",
        "rank 8",
    ):
        assert said in out
    assert "other-random-0 is model-random-0, of the same shape" in " ".join(out.split())
    assert "are written to" in err
    assert "Wrote probes.json, probes.csv, run.json, structural.png, trees.png, report.html" in err
    assert sorted(os.listdir(tmp_path / "out")) == [
        ".bertft.json", "probes.csv", "probes.json", "report.html", "run.json", "structural.png", "trees.png",
    ]  # fmt: skip
    content = json.loads((tmp_path / "out" / "probes.json").read_text())
    rows, run = content["rows"], content["run"]
    # 3 models × 3 layers and 2 trees, of 2 splits and 4 measures.
    assert len(rows) == (3 * LAYERS + 2) * 2 * 4
    assert len(list(csv.DictReader((tmp_path / "out" / "probes.csv").read_text().splitlines()))) == len(rows)
    assert run["options"]["recipe"]["learning_rate"] == 1e-3
    assert run["options"]["recipe"]["epochs"] == 3
    assert {(row["model"], row["baseline"]) for row in rows} == {
        ("model", False), ("other", False), ("model-random-0", True), (CHAIN, True), (RANDOM_TREE, True)
    }  # fmt: skip

    assert cli.main(command(place, "--json")) == 0
    out, err = capsys.readouterr()
    assert "reused from" in err
    assert "are written" not in err
    again = json.loads(out)["rows"]
    # The same vectors in the same shapes, in memory that is aligned alike, give the same bits.
    assert [row for row in again if not row["baseline"]] == [row for row in rows if row["model"] == "model"]


def test_numbers_are_those_of_the_chain_by_hand(place: Path) -> None:
    """In `the cat saw a dog .` the chain finds the-cat, cat-saw and a-dog, 3 of 4; with `a mat` 4 of 6."""
    found = probe_structural(
        place / "model", place / "bank", ranks=[2], epochs=1, random_seeds=0, cache=place / "cache"
    )
    bank = read_treebank(place / "bank")
    lengths = [len(tree) - 1 for tree in bank.split("dev")]
    right = sum({5: 3, 7: 4}[n] for n in lengths) / sum(n - 1 for n in lengths)
    assert value(found.rows, model=CHAIN, split="dev", measure="uuas") == pytest.approx(right)
    assert value(found.rows, model=CHAIN, split="test", measure="root_accuracy") == 0
    assert not any("random-" in row["model"] for row in found.rows)
    for tree in found.trees:
        gold = next(t for t in bank.split("test") if t.sentence_id == tree.sentence_id)
        assert len(tree.gold) == len(gold) - 1
        assert len(tree.predicted) == len(gold) - 2  # the full stop is left out
        assert tree.forms == gold.forms


@pytest.mark.parametrize("preset", RECIPES)
def test_presets_ranks_layers_and_sentences(place: Path, preset: str) -> None:
    found = probe_structural(
        [place / "model"], place / "bank", layers="1,-1", ranks=[1, 4], preset=preset, epochs=2,
        sentences=15, cache=place / "cache", seed=3,
    )  # fmt: skip
    trained = {(row["layer"], row["rank"]) for row in found.rows if row["model"] == "model"}
    assert trained == {(1, 1), (1, 4), (2, 1), (2, 4)}
    assert found.run["sentences"] == {"train": 15, "dev": 12, "test": 10}
    assert found.run["options"]["recipe"]["tree_loss"] is (preset == "today")
    assert len(found.run["training"]) == 2 * 2 * 2 * 2
    assert all(math.isfinite(row["value"]) for row in found.rows)


def test_without_xpos_or_a_test_set(place: Path, tmp_path: Path) -> None:
    bank = written_treebank(tmp_path / "bank", {"train": 9, "dev": 5}, xpos=False)
    found = probe_structural(place / "model", bank, ranks=[2], epochs=1, random_seeds=0, cache=tmp_path / "cache")
    assert {row["split"] for row in found.rows} == {"dev"}
    assert any("no XPOS tags" in note for note in found.run["notes"])
    assert all(curve.values["uuas"] for curve in curves(found.rows))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--layers", "7"], "there is no layer 7; this model has layers 0 to 2"),
        (["--rank", "0"], "'0' is not a whole number above 0"),
        (["--rank", "17"], "rank is 17; give a whole number from 1 to 16, the width of the vectors"),
        (["--preset", "old"], "unknown preset 'old'; choose one of paper, today"),
        (["--pooling", "max"], "unknown pooling 'max'"),
        (["--random-seeds=-1"], "random_seeds is -1"),
        (["--treebank", "{empty}"], "no file named *-ud-train.conllu"),
        (["--treebank", "{half}"], "no sentences for dev; give a folder"),
        (["--treebank", "{missing}"], "no such file"),
        (["--output-dir", "{file}"], "cannot write there"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_bad_input_ends_in_one_line(
    change: list[str], said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    if "{half}" in change:
        written_treebank(tmp_path / "half", {"train": 3})
    filled = [part.format(**{n: tmp_path / n for n in ("empty", "half", "missing", "file")}) for part in change]
    assert cli.main(command(place, *filled)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err.splitlines()[-1]
    assert [line for line in err.splitlines() if line.startswith("bertft: ")] == err.splitlines()[-1:]


def test_a_model_that_is_not_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(place, model="no/such/model")) == 2
    assert "no such folder" in capsys.readouterr().err


def test_an_interruption_leaves_nothing_behind(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bertft.experiments.structural.train_probes", interrupted)
    assert cli.main(command(place, "--output-dir", str(tmp_path / "out"))) == 130
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().err.endswith("bertft: interrupted\n")
    monkeypatch.setattr("bertft.experiments.structural.train_probes", train_probes)
    assert cli.main(command(place)) == 0
    assert "reused from" in capsys.readouterr().err


def test_help_names_both_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["probe", "--help"], ["probe", "structural", "--help"]):
        with pytest.raises(SystemExit):
            cli.main(words)
        assert "structural" in capsys.readouterr().out
    assert cli.main(["probe"]) == 2


def made_rows(values: dict[tuple[str, int | None], float], measure: str = "uuas") -> list[dict[str, Any]]:
    return [
        {"model": m, "baseline": m != "bert", "layer": k, "rank": None if k is None else 4, "split": split,
         "measure": measure, "value": v, "count": 1}
        for (m, k), v in values.items() for split in ("dev", "test")
    ]  # fmt: skip


def test_the_finding_says_how_far_above_the_floors() -> None:
    rows = made_rows({("bert", 0): 0.5, ("bert", 1): 0.8, ("random", 0): 0.55, (CHAIN, None): 0.4})
    assert best_layers(rows, "uuas") == {("bert", 4): 1, ("random", 4): 0}
    bert, *floors = curves(rows)
    names = {curve.model: curve.model for curve in (bert, *floors)}
    assert finding(bert, floors, names) == (
        "bert, rank 4: UUAS is best at layer 1, 0.800, 0.250 above the highest baseline (random, 0.550)."
    )
    assert finding(bert, [], names).endswith("0.300 above the highest baseline (layer 0, 0.500).")
    below, *floors = curves(made_rows({("bert", 1): 0.3, (CHAIN, None): 0.4}))
    assert "0.100 below the highest baseline (left-to-right chain, 0.400)" in finding(below, floors, names)


@pytest.mark.parametrize("width", [80, 100])
def test_a_wide_table_and_the_figure_have_intervals(width: int) -> None:
    rows = [{**row, "stderr": 0.01} for row in made_rows({("bert", 0): 0.5, ("bert", 1): 0.8, (CHAIN, None): 0.4})]
    run = {"treebank": {"name": "bank"}, "sentences": {"test": 12}, "options": {}}
    console = Console(file=io.StringIO(), width=width)
    show(rows, run, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("0.800 ± 0.020 *" in said) == (width == 100)
    assert ("A wider terminal shows the 95 % intervals too" in said) == (width == 80)
    bands = [band.get_paths()[0].get_extents() for band in figure(rows, run).axes[0].collections]
    assert [(round(band.y0, 3), round(band.y1, 3)) for band in bands] == [(0.48, 0.82)]


def test_drawn_trees_have_an_arc_an_edge(place: Path) -> None:
    found = probe_structural(
        place / "model", place / "bank", ranks=[2], epochs=1, random_seeds=0, cache=place / "cache"
    )
    drawing = tree_figure(found.trees)
    for axes, tree in zip(drawing.axes, found.trees, strict=True):
        assert len(axes.patches) == len(tree.gold) + len(tree.predicted)
        assert [text.get_text() for text in axes.texts] == list(tree.forms)
