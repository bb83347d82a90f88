"""What people read of a score: files whole or not at all, sentences true of any numbers, and honest pictures."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import json
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bertft import Scores
from bertft.errors import BertftError, OptionError
from bertft.files import require_writable, write_files
from bertft.records import csv_bytes, json_bytes
from bertft.report.drawing import Line, image, spread, svg, task_panels
from bertft.report.rows import conditions, fit, short_names
from bertft.report.score.figure import figure
from bertft.report.score.series import distinct, estimate, finding, headline, layers_text, panels, series
from bertft.report.score.table import drawn_bar, show

NAN = math.nan
RUN = {
    "versions": {"bertft": "0.1.0", "torch": "2.13.0"},
    "seed": 7,
    "options": {"tokens": None, "layers": (0, 1), "standardize": False},
    "checkpoints": {"base": "9f2c7d0a", "mnli": "1bd3a8c4"},
    "corpora": {"wiki.txt": "4b1d5e90"},
    "notes": ["wiki.txt: 5000 tokens were asked for, and all 812 were used"],
    "timings": {"forward": 1.5},
}


def rows(
    values: Sequence[float] = (1.0, 0.995, 0.97, 0.81, 0.8),
    tuned: str = "mnli",
    corpus: str = "wiki.txt",
    measure: str = "rsa",
    layers: Sequence[int] | None = None,
    stderr: float = 0.01,
) -> list[dict[str, Any]]:
    """Rows of one curve."""
    names = {"base": "base", "tuned": tuned, "corpus": corpus, "measure": measure}
    counts = {"n_tokens": 5000, "n_sentences": 1000}
    numbered = zip(layers or range(len(values)), values, strict=True)
    return [
        {**names, "layer": layer, "value": value, "stderr": NAN if math.isnan(value) else stderr, **counts}
        for layer, value in numbered
    ]


def crowd(checkpoints: int, corpora: int = 1, measures: Sequence[str] = ("rsa",)) -> list[dict[str, Any]]:
    """Rows of many curves that end at different heights."""
    found = []
    for measure in measures:
        for corpus in range(corpora):
            for tuned in range(checkpoints):
                end = 0.9 - 0.05 * tuned - 0.1 * corpus
                found += rows((1.0, 0.99, end), f"task-{tuned}", f"text-{corpus}.txt", measure)
    return found


def printed(found: list[dict[str, Any]], **options: Any) -> str:
    """What `show` prints into a pipe."""
    stream = io.StringIO()
    show(found, RUN, Console(file=stream, highlight=False, **{"width": 80, **options}))
    return stream.getvalue()


# Files


def test_json_reads_back_to_the_same_numbers() -> None:
    found = rows((1 / 3, NAN, 1e-300))
    read = json.loads(json_bytes(found, RUN), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [row["value"] for row in read["rows"]] == [1 / 3, None, 1e-300]
    assert read["rows"][0] == found[0]
    assert read["run"]["options"]["layers"] == [0, 1]
    assert json.loads(json_bytes([], {})) == {"rows": [], "run": {}}


def test_rows_read_back_from_json_report_the_same() -> None:
    found = rows((1.0, NAN, 0.5))
    read = json.loads(json_bytes(found, RUN))
    one, other = (re.sub(r'href="data:[^"]*"', "", text) for text in (page(**read), page(found, RUN)))
    assert one == other  # but for the files to save: CSV has a nan where JSON has a null


def test_csv_reads_back_to_the_same_numbers() -> None:
    found = [{**row, "extra": "a,\nb"} for row in rows((0.1 + 0.2, NAN))]
    first, second = csv.DictReader(io.StringIO(csv_bytes(found).decode()))
    assert float(first["value"]) == 0.1 + 0.2
    assert math.isnan(float(second["value"]))
    assert (first["layer"], first["extra"]) == ("0", "a,\nb")


def test_save_gives_every_file_and_the_same_bytes_twice(tmp_path: Path) -> None:
    found = crowd(2, 2, ("rsa", "cka"))
    one, two = Scores(found, RUN).save(tmp_path / "a" / "b"), Scores(found, RUN).save(tmp_path / "c")
    names = ["scores.json", "scores.csv", "run.json", "rsa.png", "cka.png", "report.html"]
    assert [path.name for path in one] == names == [path.name for path in two]
    assert all(path.read_bytes() == other.read_bytes() for path, other in zip(one, two, strict=True))
    assert sorted(os.listdir(tmp_path / "c")) == sorted([*names, ".bertft.json"])


def test_full_disk_leaves_the_old_files_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"a": b"old"})
    synced = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BertftError, match=r"cannot write there: No space left on device; free space"):
        write_files(tmp_path, {"a": b"new", "b": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_failure_takes_away_the_folder_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_files(tmp_path / "new", {"a": b"1"})
    assert not (tmp_path / "new").exists()


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(BertftError, match=r"b is a folder there"):
        write_files(tmp_path, {"a": b"1", "b": b"2"})
    assert os.listdir(tmp_path) == ["b"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BertftError, match=r"file.*cannot write there"):
            require_writable(place)
        with pytest.raises(BertftError, match=r"file.*cannot write there"):
            write_files(place, {"a": b"1"})


def test_asking_whether_a_folder_is_writable_makes_nothing(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []


# Sentences


@pytest.mark.parametrize(
    ("values", "layers", "said"),
    [
        (
            (1, 1, 0.995, 0.99, 0.97, 0.81),
            None,
            "Layers 0–3 are almost unchanged (RSA at or above 0.99); "
            "the largest drop is between layers 4 and 5 (RSA 0.97 → 0.81).",
        ),
        (
            (1, 0.6, 0.5),
            None,
            "Layer 0 is almost unchanged (RSA at or above 0.99); "
            "the largest drop is between layers 0 and 1 (RSA 1.00 → 0.60); "
            "the lowest is 0.50, at layer 2.",
        ),
        (
            (0.98, 0.9),
            (3, 7),
            "Layer 3 has changed already (RSA below 0.99); "
            "the largest drop is between layers 3 and 7 (RSA 0.98 → 0.90).",
        ),
        (
            (0.5, 0.6),
            None,
            "Layer 0 has changed already (RSA below 0.99); "
            "no layer is lower than the one before it, and the lowest is 0.50, "
            "at layer 0.",
        ),
        (
            (1, 0.9921),
            None,
            "Every layer compared is almost unchanged (RSA at or above 0.99); the lowest is 0.9921, at layer 1.",
        ),
        ((1, 1), None, "RSA is exactly 1 at every layer compared: the representations did not change."),
        ((0.81,), (4,), "RSA is 0.8100 at layer 4, the only layer compared."),
        ((NAN, 0.81), None, "RSA is 0.8100 at layer 1, the only layer where it is defined."),
        ((NAN, NAN), None, "RSA is undefined at every layer compared."),
        (
            (NAN, 1, 0.7, NAN),
            None,
            "Layer 1 is almost unchanged (RSA at or above 0.99); "
            "the largest drop is between layers 1 and 2 (RSA 1.00 → 0.70) "
            "(undefined at layers 0 and 3).",
        ),
        (
            (0.9, 0.9 - 1e-9),
            None,
            "Layer 0 has changed already (RSA below 0.99); the largest drop is between layers 0 and 1 "
            "(RSA 0.900000000 → 0.899999999).",
        ),
    ],
)
def test_finding(values: Sequence[float], layers: Sequence[int] | None, said: str) -> None:
    found = rows(values, layers=layers)
    assert finding(series(found)[0]) == said
    assert headline(found) == said


@given(st.lists(st.one_of(st.just(NAN), st.just(1.0), st.floats(-1, 1)), min_size=1, max_size=14))
def test_finding_is_true_of_any_numbers(values: list[float]) -> None:
    said = finding(series(rows(values))[0])
    defined = [(layer, value) for layer, value in enumerate(values) if not math.isnan(value)]
    if match := re.match(r"Layers? ([\d, –and]+) keeps? ", said):
        kept: list[int] = []
        for part in re.split(r", | and ", match[1]):
            ends = [int(end) for end in part.split("–")]
            kept += range(ends[0], ends[-1] + 1)
        assert kept == [layer for layer, _ in defined][: len(kept)]
        assert all(values[layer] >= 0.99 for layer in kept)
        assert dict(defined)[defined[len(kept)][0]] < 0.99
    if match := re.search(r"between layers (\d+) and (\d+)", said):
        before, after = int(match[1]), int(match[2])
        drops = [a - b for (_, a), (_, b) in itertools.pairwise(defined)]
        assert values[before] - values[after] == max(drops) > 0
    if match := re.search(r"the lowest is (\S+), at layer (\d+)", said):
        assert values[int(match[2])] == min(value for _, value in defined)


def test_headline_of_several_curves_names_the_extremes() -> None:
    found = rows((1, 0.31), "dep") + rows((1, 0.84), "mnli") + rows((1, 0.6), "squad")
    assert headline(found) == "RSA drops most for dep (to 0.31 at layer 1) and least for mnli (to 0.84 at layer 1)."
    found = rows((1, 0.3), corpus="mnli/dev.txt") + rows((1, 0.9), corpus="wiki/dev.txt")
    assert "most on mnli/dev.txt (to 0.30 at layer 1)" in headline(found)
    found = rows((1, 0.5), "a") + rows((0.5, 1), "b")
    assert headline(found) == "RSA drops equally far in every comparison, to 0.50."
    found = rows((1, 1), "a") + rows((1, NAN), "b")
    assert headline(found) == "RSA is exactly 1 wherever it is defined: the representations did not change."
    assert headline(rows((NAN,), "a") + rows((NAN,), "b")) == "RSA is undefined at every layer compared."


def test_headline_speaks_of_a_measure_that_compares() -> None:
    cosines = rows((0.2, 0.9), measure="mean-cosine-base")
    assert headline(cosines + rows((0.5, 0.5), measure="cka")).startswith(
        "Layer 0 has changed already (CKA below 0.99)"
    )
    assert headline(cosines) == headline([]) == "No measure that compares the models was computed."


def test_names_are_the_shortest_tails_that_differ() -> None:
    assert short_names(["a/x/best", "b/x/best", "c/last"]) == {
        "a/x/best": "a/x/best",
        "b/x/best": "b/x/best",
        "c/last": "last",
    }
    assert short_names(["org/bert", ""]) == {"org/bert": "bert", "": ""}
    assert short_names(["x", "a/x"]) == {"x": "x", "a/x": "a/x"}


def test_numbers_in_words() -> None:
    assert estimate(0.5, 0.01) == "0.5000 ± 0.0196"
    assert estimate(0.5, NAN) == "0.5000"
    assert estimate(NAN, NAN) == "undefined"
    assert (estimate(1.0, 0.0), estimate(0.99999, 0.0)) == ("1 exactly", "1.0000 ± 0.0000")
    assert estimate(0.99984, 1e-5) == "0.9998 ± <1e-4"
    assert distinct(0.97, 0.81) == ("0.97", "0.81")
    assert distinct(0.9712, 0.9704) == ("0.971", "0.970")
    assert layers_text([0]) == "layer 0"
    assert layers_text([0, 2, 3, 4, 9]) == "layers 0, 2–4 and 9"
    assert fit("abcdefghij", 5) == "ab…ij"
    assert fit("abc", 5) == "abc"


# Terminal


@pytest.mark.parametrize(("checkpoints", "corpora"), [(1, 1), (2, 1), (3, 1), (4, 1), (9, 1), (2, 3)])
def test_the_table_fits_80_columns_and_holds_every_number(checkpoints: int, corpora: int) -> None:
    found = crowd(checkpoints, corpora)
    text = printed(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for row in found:
        assert estimate(row["value"], row["stderr"]) in text


def test_the_table_says_what_it_rests_on_and_what_was_found() -> None:
    text = " ".join(printed(rows()).split())
    assert "RSA with base wiki.txt: 5,000 tokens from 1,000 sentences" in text
    assert "± = half the 95 % interval (1.96 standard errors)" in text
    assert f"Note: {RUN['notes'][0]}" in text  # type: ignore[index]
    assert headline(rows()) in text


def test_the_table_without_unicode() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show(rows((1.0, 0.5, NAN)), RUN, Console(file=stream, width=80))
    stream.seek(0)
    assert "0.5000 +/- 0.0196 ######" in stream.read()


def test_bars() -> None:
    assert drawn_bar(1, 4, False) == "████"
    assert drawn_bar(0.5, 4, False) == "██"
    assert drawn_bar(0.28125, 4, False) == "█▏"
    assert drawn_bar(1.5, 4, False) == "████"
    assert [drawn_bar(value, 4, False) for value in (0, -0.3, NAN)] == ["", "", ""]


# Pictures


def test_a_picture_has_a_line_a_checkpoint_with_its_name_and_numbers() -> None:
    found = crowd(3)
    (axes,) = figure(found).axes
    assert [[*np.asarray(line.get_ydata())] for line in axes.lines] == [list(curve.values) for curve in series(found)]
    assert {"task-0", "task-1", "task-2"} <= {text.get_text() for text in axes.texts}
    assert axes.get_xlabel() == "Layer (0 = embeddings)"


def test_several_corpora_give_a_panel_a_checkpoint_and_a_line_a_corpus() -> None:
    drawing = figure(crowd(3, 2))
    used = [axes for axes in drawing.axes if axes.axison]
    assert len(used) == 3
    assert all(len(axes.lines) == 2 for axes in used)
    assert len({axes.get_ylim() for axes in used}) == 1
    assert [list(panel.lines) for panel in panels(crowd(3, 2))] == [["text-0.txt", "text-1.txt"]] * 3


@pytest.mark.parametrize(
    ("values", "stderr", "bottom"),
    [((1, 0.5), 0.01, 0), ((1, 0.95), 0.001, 0.9), ((1, 0.91), 0.02, 0), ((1, -0.23), 0.001, -0.3), ((NAN, NAN), 0, 0)],
)
def test_the_axis_begins_at_0_or_says_so(values: Sequence[float], stderr: float, bottom: float) -> None:
    (axes,) = figure(rows(values, stderr=stderr)).axes
    assert axes.get_ylim()[0] == pytest.approx(bottom)
    assert axes.get_ylim()[1] >= 1
    assert ("axis begins at 0.9" in axes.get_ylabel()) == (bottom == 0.9)


@pytest.mark.parametrize(
    "found",
    [rows((0.5,), layers=(4,)), rows((NAN,)), rows((1, NAN, 0.5)), rows([1 - i / 90 for i in range(81)]), crowd(16)],
    ids=["one layer", "undefined", "gap", "81 layers", "16 checkpoints"],
)
def test_any_rows_can_be_drawn(found: list[dict[str, Any]]) -> None:
    assert image(figure(found)).startswith(b"\x89PNG")
    ET.fromstring(svg(figure(found), "rsa"))


def test_pictures_leave_matplotlib_as_it_was_and_ignore_its_settings() -> None:
    with mpl.rc_context({"lines.linewidth": 9, "axes.facecolor": "red"}):
        before = dict(mpl.rcParams)
        other = image(figure(rows()))
        assert dict(mpl.rcParams) == before
    assert other == image(figure(rows()))


def test_unknown_measure_is_named_with_the_known() -> None:
    with pytest.raises(OptionError, match=r"no rows of the measure 'cca'; the rows contain rsa"):
        figure(rows(), "cca")


@given(st.lists(st.floats(0, 1), max_size=12).map(sorted))
def test_labels_keep_their_distance_and_order(heights: list[float]) -> None:
    placed = spread(heights, gap=0.05)
    assert len(placed) == len(heights)
    assert all(after - before >= 0.05 - 1e-5 for before, after in itertools.pairwise(placed))
    if all(after - before >= 0.05 for before, after in itertools.pairwise(heights)):
        assert placed == pytest.approx(heights, abs=1e-6)


# Page


class Reader(HTMLParser):
    """Collects the text and the attributes of a page, and fails where tags do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href", "style")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page(rows: list[Any], run: dict[str, Any]) -> str:
    return Scores(rows, run).page()


def test_the_page_holds_the_finding_the_numbers_and_the_record() -> None:
    found = crowd(2)
    text = " ".join(" ".join(Reader(page(found, RUN)).texts).split())
    assert headline(found) in text
    for row in found:
        assert estimate(row["value"], row["stderr"]).replace(" ± ", " ± ") in text.replace("  ", " ")
    for traced in ("9f2c7d0a", "1bd3a8c4", "4b1d5e90", "2.13.0", "seed", RUN["notes"][0]):  # type: ignore[index]
        assert str(traced) in text


def test_the_page_stands_alone() -> None:
    reader = Reader(page(crowd(2, 2, ("rsa", "cka")), RUN))
    assert not set(reader.tags) & {"link", "img", "iframe", "object"}
    assert reader.tags.count("script") == 1  # which sorts tables
    links = [link for link in reader.links if not link.startswith(("#", "data:text/", "data:application/x-tex"))]
    assert [link for link in links if re.search(r"url\((?!#)|//|^\w+:/", link)] == []
    references = re.findall(r'href="#([^"]+)"', page(crowd(2, 2, ("rsa", "cka")), RUN))
    names = re.findall(r' id="([^"]+)"', page(crowd(2, 2, ("rsa", "cka")), RUN))
    assert set(references) <= set(names)
    assert len(names) == len(set(names))


def test_the_page_escapes_what_comes_from_outside() -> None:
    evil = '<script>alert("1")</script>&'
    run = {**RUN, "notes": [evil], "options": {evil: evil}}
    reader = Reader(page(rows(tuned=evil, corpus=evil), run))
    assert reader.tags.count("script") == 1
    assert evil in reader.texts


def test_the_page_warns_of_few_sentences_and_of_undefined_scores() -> None:
    few = [{**row, "n_sentences": 12} for row in rows((1.0, NAN))]
    text = " ".join(Reader(page(few, {})).texts)
    assert "only 12 sentences" in text
    assert "An undefined score means" in text
    calm = " ".join(Reader(page(rows(), {})).texts)
    assert "only" not in calm
    assert "An undefined score means" not in calm


# Means over pairs


def pairs(count: int = 3, corpora: int = 1) -> list[dict[str, Any]]:
    """Rows of pairs of checkpoints, each with a base of its own, and of their mean."""
    found = []
    for corpus in range(corpora):
        name = f"text-{corpus}.txt"
        for i in range(count):
            own = rows((1.0, 0.9, 0.5 + 0.1 * i), f"mnli-{i}", name)
            found += [row | {"base": f"base-{i}"} for row in own]
        mean = rows((1.0, 0.9, 0.6), f"mean of {count} pairs", name, stderr=NAN)
        spreads = (0.0, 0.00001, 0.1)
        found += [
            row | {"base": f"{count} bases", "spread": spread, "n_pairs": count}
            for row, spread in zip(mean, spreads, strict=True)
        ]
    return found


def test_a_mean_over_pairs_is_shown_with_its_spread() -> None:
    text = printed(pairs(), width=200)
    assert "RSA of pairs" in text
    assert "mnli-1 with base-1" in text
    assert "mean of 3 pairs" in text
    assert re.search(r"^ *0 .* 1 exactly +█+ *$", text, re.MULTILINE)
    assert "0.9000 σ <1e-4" in text
    assert "0.6000 σ 0.1000" in text
    assert "σ = standard deviation over the pairs in a mean" in text
    assert (
        "Layer 0 is almost unchanged (RSA at or above 0.99); "
        "the largest drop is between layers 1 and 2 (RSA 0.90 → 0.60)." in text
    )
    assert "σ" not in printed(crowd(2))


def test_the_band_of_a_mean_is_its_spread() -> None:
    (panel,) = panels(pairs())
    mean = panel.lines["mean of 3 pairs"]
    assert mean.half_widths() == (0.0, 0.00001, 0.1)
    axes = figure(pairs()).axes[0]
    band = axes.collections[list(panel.lines).index("mean of 3 pairs")].get_paths()[0].vertices
    assert {round(float(y), 6) for x, y in band if x == 2} == {0.5, 0.7}
    assert "bands: 95 %, σ for the mean" in " ".join(text.get_text() for text in axes.texts)


def test_the_page_explains_a_mean_over_pairs() -> None:
    html = page(pairs(), RUN)
    assert "What fine-tuning changed in base-0, base-1, base-2" in html
    assert '0.6000 <span class="pm">σ 0.1000</span>' in html
    assert "1 exactly</td>" in html
    assert "is the standard deviation over the pairs of models" in html
    assert "standard deviation over the pairs of models" not in page(crowd(2), RUN)


def test_pairs_on_several_texts_have_a_panel_each() -> None:
    shown = panels(pairs(2, corpora=2))
    assert [panel.heading for panel in shown] == [
        "RSA of mnli-0 with base-0",
        "RSA of mnli-1 with base-1",
        "RSA of mean of 2 pairs",
    ]


def test_gaps_are_dotted_between_layers_and_nowhere_else() -> None:
    def drawn(*, of_layers: bool) -> list[str]:
        line = Line("a", False, [0, 1, 50, 100], [0.1, 0.2, 0.3, 0.9], of_layers=of_layers)
        (axes,) = task_panels(["pos"], lambda _: iter([line]), "a", "b" * 200, "c", 0.0).axes
        assert axes.get_ylim()[1] > 0.9  # nothing is cut off
        return [str(drawing.get_linestyle()) for drawing in axes.get_lines()]

    assert drawn(of_layers=True) == [":", "-"]
    assert drawn(of_layers=False) == ["-"]


def test_many_checkpoints_on_several_texts_are_overlaid_text_by_text() -> None:
    few, many = panels(crowd(3, 2)), panels(crowd(4, 2))
    assert [set(panel.lines) for panel in few] == [{"text-0.txt", "text-1.txt"}] * 3
    assert [panel.heading for panel in many] == ["RSA with base, text-0.txt", "RSA with base, text-1.txt"]
    assert [set(panel.lines) for panel in many] == [{f"task-{number}" for number in range(4)}] * 2


def test_options_that_change_the_number_stand_in_every_title() -> None:
    run = {**RUN, "options": {"standardize": True, "dtype": "float16", "special_tokens": False}}
    told = "standardized, float16"
    (axes,) = figure(rows(), "rsa", run).axes
    assert told in " ".join(" ".join(text.get_text() for text in axes.texts).split())
    assert told in page(rows(), run)
    console = Console(file=io.StringIO(), width=100)
    show(rows(), run, console)
    assert told in console.file.getvalue()  # type: ignore[attr-defined]
    usual = {"standardize": False, "dtype": "float32", "pooling": "mean", "preset": "paper"}
    assert conditions({"options": usual}) == ""
