"""What runs return, in every form: tables for notebooks and papers, figures, pandas, files."""

from __future__ import annotations

import base64
import json
import math
import re
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import tiny

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install .[tune]")

from matplotlib.figure import Figure

from bertft import Scores, ablate, pretrain, score, tune
from bertft.errors import OptionError, ReportWarning
from bertft.experiments.diff import DiffResults, diff
from bertft.experiments.edge import EdgeResults, probe_edges
from bertft.experiments.edge_tasks import read_tasks
from bertft.experiments.mdl import describe
from bertft.experiments.results import Results
from bertft.experiments.structural import probe_structural
from bertft.experiments.tune import TuneResults

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "rain", "fell", "it"]
SIZE = len(WORDS) + len(tiny.SPECIAL)
BASE, TUNED = "base", "a|b_<b>&100%$x$"
"""Names of checkpoints; the second has the marks of Markdown, HTML, LaTeX and mathematics."""

TEXTS = ["the cat sat on the mat", "rain fell", "the dog ran on", "the rain fell on the cat", "dog sat", "it ran"]
PAIRS = [("the cat sat", "entailment"), ("rain fell", "neutral"), ("the dog ran", "contradiction")] * 3


def saved(folder: Path, seed: int) -> None:
    tiny.save(folder, tiny.bert(SIZE, seed=seed), tiny.tokenizer(WORDS))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for seed, name in enumerate((BASE, TUNED)):
        saved(folder / name, seed)
    rows = [{"sentence1": one, "sentence2": "it rain fell", "gold_label": label} for one, label in PAIRS]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "text.txt").write_text("\n\n".join("\n".join(TEXTS) for _ in range(6)))
    (folder / "bank").mkdir()
    words = ["the", "cat", "sat", "on", "it", "."]
    lines = [
        f"{i}\t{w}\t_\tX\tT{i % 2}\t_\t{i - 1}\t{'dep' if i > 1 else 'root'}\t_\t_" for i, w in enumerate(words, 1)
    ]
    for split in ("train", "dev", "test"):
        (folder / "bank" / f"en-ud-{split}.conllu").write_text(
            "\n".join(lines) + "\n\n" + "\n".join(lines[:5]) + "\n\n"
        )
    return folder


TRAINING = {"epochs": 1, "batch_size": 4, "max_length": 16, "device": "cpu"}


def edge_options(place: Path) -> dict[str, Any]:
    return {"inputs": ["layer:0", "layer:1"], "cache": place / "cache", "epochs": 1}


def made_scores(place: Path) -> Results:
    return score(place / BASE, place / TUNED, TEXTS, measures=["rsa", "cka"])


def made_means(place: Path) -> Results:
    pairs = [place / BASE, place / TUNED]
    return score(pairs, pairs[::-1], [place / "text.txt", place / "more.txt"], layers="0,2")


def made_structural(place: Path) -> Results:
    models = [place / BASE, place / TUNED]
    return probe_structural(models, place / "bank", ranks=2, epochs=1, cache=place / "cache")


def made_edges(place: Path) -> Results:
    tasks = read_tasks(["pos", "dep"], treebank=place / "bank")
    return probe_edges([place / BASE, place / TUNED], tasks, baselines=True, seeds=[0, 1], **edge_options(place))


def made_codes(place: Path) -> Results:
    tasks = read_tasks(["pos"], treebank=place / "bank")
    return describe([place / BASE, place / TUNED], tasks, probe="perceptron", hidden=4, **edge_options(place))


def made_tuning(place: Path) -> Results:
    data = [place / "pairs.jsonl"] * 2
    return tune("mnli", place / TUNED, *data, place / "tuned", seeds=(1, 2), **TRAINING)


def made_ablation(place: Path) -> Results:
    data = [place / "pairs.jsonl"] * 2
    return ablate("mnli", place / TUNED, *data, place / "ablated", freeze="0", truncate="1", **TRAINING)


def made_pretraining(place: Path) -> Results:
    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    (place / "config.json").write_text(json.dumps({**config, "model_type": "bert", "max_position_embeddings": 24}))
    options = {"vocab_size": 40, "steps": 2, "batch_size": 4, "every": 1, "max_length": 16, "held_out": 0.3}
    return pretrain(place / "text.txt", place / "bert", config=place / "config.json", **options)


def made_diff(place: Path) -> Results:
    return diff(place / BASE, place / TUNED)


MADE: dict[str, Callable[[Path], Results]] = {
    function.__name__.removeprefix("made_"): function
    for function in (
        *(made_scores, made_means, made_structural, made_edges, made_codes),
        *(made_tuning, made_ablation, made_pretraining, made_diff),
    )
}
WITH_TUNED = {"scores", "means", "structural", "edges", "codes", "tuning", "diff"}
"""The results whose table names the checkpoint TUNED."""


@pytest.fixture(scope="module", params=MADE)
def found(request: pytest.FixtureRequest, place: Path) -> tuple[str, Results]:
    (place / "more.txt").write_text("\n".join(TEXTS[::-1]))
    return request.param, MADE[request.param](place)


class Notebook(HTMLParser):
    """What a browser makes of a piece of HTML: its tables, its pictures, and that every element is closed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.lines: list[list[str]] = []
        self.pictures: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])
            assert dict(attrs)["alt"]
        else:
            self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.lines[-1][-1] += data


def read(results: Results) -> Notebook:
    page = Notebook()
    page.feed(results._repr_html_())
    page.close()
    return page


def test_a_notebook_shows_a_table_and_a_picture(found: tuple[str, Results]) -> None:
    name, results = found
    page = read(results)
    assert not page.open
    assert page.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td", "img", "p"}
    heading, *lines = page.lines
    assert lines
    assert {len(line) for line in lines} == {len(heading)}
    (picture,) = page.pictures
    kind, _, content = picture.partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content, validate=True).startswith(b"\x89PNG")
    assert (TUNED in page.text) == (name in WITH_TUNED)


def unescaped(cell: str) -> str:
    return re.sub(r"\\(.)", r"\1", cell)


def test_all_tables_say_the_same(found: tuple[str, Results]) -> None:
    _, results = found
    lines = [[cell.strip() for cell in line] for line in read(results).lines]
    markdown = [line for line in results.to_markdown().splitlines() if line.startswith("|")]
    cells = [[unescaped(cell) for cell in re.split(r"(?<!\\) \| |^\| | \|$", line)[1:-1]] for line in markdown]
    assert [cells[0], *cells[2:]] == lines
    assert all(set(mark) <= set("-:") for mark in cells[1])

    latex = results.to_latex().splitlines()
    body = [line for line in latex if line.endswith(r"\\")]
    assert len(body) == len(lines)
    assert {len(re.split(r"(?<!\\)&", line)) for line in body} == {len(lines[0])}
    rules = [line for line in latex if "rule" in line]
    assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]
    for line in body:
        assert "±" not in line
        plain = line.replace(r"$\pm$", "").replace(r"\\", "")
        assert not re.search(r"(?<!\\)[$%_#]|[<>|]", plain)
    numbers = [cell for line in lines[1:] for cell in line if re.match(r"-?[\d,]+\.\d", cell)]
    assert numbers
    assert all(number.partition(" ")[0] in results.to_latex() for number in numbers)


def test_pandas_gets_the_rows(found: tuple[str, Results]) -> None:
    _, results = found
    frame = results.to_frame()
    assert len(frame) == len(results.rows)
    assert json.loads(results.to_json())["run"].keys() == results.run.keys() - {"date", "timings"}


def test_a_plot_is_drawn_on_the_axes_that_are_given(found: tuple[str, Results]) -> None:
    _, results = found
    before = dict(mpl.rcParams)
    drawing = Figure()
    left, right = drawing.subplots(1, 2)
    right.set_title("$x^2$")
    assert results.plot(left) is left
    assert left.lines
    assert left.get_xlabel()
    assert left.get_ylabel()
    assert not right.lines
    assert right.title.get_parse_math()
    drawing.savefig("/dev/null", format="png")
    assert dict(mpl.rcParams) == before


def test_a_plot_without_axes_gets_its_own(found: tuple[str, Results], monkeypatch: pytest.MonkeyPatch) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    open_before = set(plt.get_fignums())
    axes = found[1].plot()
    (number,) = set(plt.get_fignums()) - open_before
    assert plt.figure(number).axes == [axes]
    plt.close(number)


COMMANDS = {
    "scores": ("scores.json", "scores.csv", "rsa.png", "cka.png", "report.html"),
    "means": ("scores.json", "scores.csv", "rsa.png", "report.html"),
    "structural": ("probes.json", "probes.csv", "structural.png", "report.html"),
    "edges": ("edge.json", "edge.csv", "edge-labels.csv", "edge.png", "edge-layers.png", "report.html"),
    "codes": ("mdl.json", "mdl.csv", "mdl-layers.png", "mdl-curves.png", "report.html"),
    "tuning": ("tuning.json", "tuning.csv", "tuning.png", "report.html"),
    "ablation": ("ablation.json", "ablation.csv", "freeze.png", "truncate.png", "report.html"),
    "pretraining": ("pretraining.json", "pretraining.csv", "pretraining.png", "report.html"),
    "diff": ("weights.json", "weights.csv", "weights.png", "report.html"),
}


def test_the_files_are_those_of_the_command(found: tuple[str, Results], tmp_path: Path) -> None:
    name, results = found
    paths = results.save(tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()} - {".bertft.json"}
    assert written == {path.name for path in paths}
    assert written - {"trees.png"} == {*COMMANDS[name], "run.json"}
    numbers = next(path for path in paths if path.suffix == ".json")
    assert len(json.loads(numbers.read_text())["rows"]) == len(results.rows)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_figures_come_in_every_format_with_the_same_bytes(found: tuple[str, Results], tmp_path: Path) -> None:
    name, results = found
    one, two = (results.save(tmp_path / folder, formats=("svg", "pdf")) for folder in "ab")
    figures = {path.name.removesuffix(".png") for path in map(Path, COMMANDS[name]) if path.suffix == ".png"}
    assert {path.stem for path in one if path.suffix == ".svg"} >= figures
    assert not [path for path in one if path.suffix == ".png"]
    for path, other in zip(one, two, strict=True):
        assert path.read_bytes() == other.read_bytes()
        begins = {".svg": b"<?xml", ".pdf": b"%PDF"}.get(path.suffix, b"")
        assert path.read_bytes().startswith(begins)
    with pytest.raises(OptionError, match="did you mean 'svg'"):
        results.save(tmp_path / "c", formats=["svgg"])


def test_every_class_of_results_is_among_them() -> None:
    def classes(of: type) -> set[type]:
        return {*of.__subclasses__(), *(inner for one in of.__subclasses__() for inner in classes(one))}

    names = {one.__name__ for one in classes(Results)}
    assert names == {
        *("Scores", "StructuralResults", "EdgeResults", "MdlResults"),
        *("TuneResults", "AblateResults", "PretrainResults", "DiffResults"),
    }
    assert len(MADE) == len(names) + 1
    assert {DiffResults, EdgeResults, Scores} <= classes(Results)


# ---------------------------------------------------------------------------------------------------------------- cells


def row(**changes: Any) -> dict[str, Any]:
    given = {"base": "b", "tuned": "t", "corpus": "c", "layer": 0, "measure": "rsa", "value": 0.5, "stderr": 0.01}
    return {**given, "n_tokens": 9, "n_sentences": 3, "n_stderr_sentences": 3, **changes}


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        ({}, "0.5000 ± 0.0100"),
        ({"stderr": math.nan}, "0.5000"),
        ({"value": math.nan, "stderr": math.nan}, "undefined"),
        ({"value": None}, "undefined"),
        ({"value": 1.0, "stderr": 0.0}, "1 exactly"),
        ({"stderr": 1e-9}, "0.5000 ± <0.0001"),
        ({"value": -12345.678, "stderr": 2.0}, "-12,345.7 ± 2.0"),
        ({"stderr": math.nan, "spread": 0.2, "n_pairs": 4}, "0.5000 ± 0.1000"),
    ],
)
def test_cells(changes: dict[str, Any], cell: str) -> None:
    assert read(Scores([row(**changes)], {})).lines[1] == ["0", cell]


def test_rows_of_one_cell_are_averaged() -> None:
    rows = [
        {"model": "m", "epoch": 1, "measure": "f1", "value": value, "seed": seed}
        for seed, value in enumerate((1, 2, 6))
    ]

    text = TuneResults(rows, {}).to_markdown()
    # The deviation of 1, 2 and 6 is √7; that of their mean √(7 / 3).
    assert "| 1 | 3.0000 ± 1.5275 |" in text
    assert "model: m. ± one standard error." in text


def test_names_stay_apart_in_one_line_and_as_they_are() -> None:
    rows = [row(tuned="a, b", corpus="c"), row(tuned="a", corpus="b, c"), row(tuned="a\n\x1b[1m|*b*", corpus="c")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReportWarning)
        heading = read(Scores(rows, {})).lines[0]
    assert len(set(heading)) == 4
    assert "c, a \\x1b[1m|*b*" in heading
    table = Scores(rows, {}).to_markdown().splitlines()
    assert len(table[0].replace("\\|", "").split("|")) == 6
    long = "x" * 300
    assert f"tuned: {long}." in read(Scores([row(tuned=long)], {})).text
    assert long in read(Scores([row(tuned=long), row(tuned="t")], {})).lines[0]


def test_what_cannot_be_drawn_leaves_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scores, "draw", lambda *_: 1 / 0)
    with pytest.warns(ReportWarning, match="the figure was left out: ZeroDivisionError"):
        page = read(Scores([row()], {}))
    assert page.lines
    assert not page.pictures


@pytest.mark.parametrize("form", ["to_latex", "to_markdown", "plot"])
def test_no_rows_are_told(form: str) -> None:
    for empty in (Scores([], {}), EdgeResults([], {}, []), DiffResults([], {}), TuneResults([], {})):
        with pytest.raises(OptionError, match=f"this {type(empty).__name__} has no rows to show"):
            getattr(empty, form)()
        assert empty._repr_html_() is None  # a notebook shows the plain representation instead
        assert empty.to_frame().empty
