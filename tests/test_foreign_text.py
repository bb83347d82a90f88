"""Text from outside on a terminal, in a spreadsheet and in pictures: shown as it is, never obeyed."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bertft import Scores, cli
from bertft.commands import output
from bertft.records import csv_bytes, json_bytes
from bertft.report import drawing
from bertft.report.edge import show as show_edge
from bertft.report.rows import short_names
from bertft.report.score.figure import figure
from bertft.report.score.table import show

ESCAPE = "x\x1b]0;PWNED\x07\x1b[31m\x9b2J"
NAMES = [ESCAPE, "[/b]", "[bold", "$$", "cost_$5_to_$9", r"$\frac{", "_hidden", "é\u202e", "a\r\nb", "\udcff", "^_{%"]


def rows(*names: str) -> list[dict[str, Any]]:
    return [
        {"base": f"base {name}", "tuned": name, "corpus": f"{name}.txt", "layer": layer, "measure": "rsa"}
        | {"value": 0.9, "stderr": 0.01, "n_tokens": 90, "n_sentences": 60}
        for name in names
        for layer in range(3)
    ]


def obeyed(text: str) -> list[str]:
    """What a terminal would obey in a text: all control characters but line ends and rich's own styles."""
    return re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("name", NAMES)
def test_tables_show_names_as_they_are(name: str, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace", newline="\n")
    console = output.console(stream)
    console.width = 200
    show(rows(name), {"notes": [name]}, console)
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert not obeyed(text)
    for shown in ("[/b]", "[bold", "$$", r"$\frac{", "PWNED"):
        assert (shown in text) == (shown in name)


def edge_rows(name: str) -> list[dict[str, Any]]:
    parts = {"baseline": False, "input": "mix", "seed": 0, "split": "dev", "scoring": "all", "low": 0.1, "high": 0.3}
    parts |= {"reference_half": 0.0, "n_targets": 9, "n_sentences": 9}
    found = []
    for model in ("base", name):
        for measure, against in (("f1", ""), ("control_f1", ""), ("selectivity", ""), ("f1_difference", "base")):
            row = {"model": model, "task": name, "measure": measure, "value": 0.2, "against": against}
            found.append({**parts, **row})
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_of_edge_probes_read_no_markup(name: str) -> None:
    stream = io.StringIO()
    mixes = [
        {"model": model, "task": name, "center": 1.0, "center_of_shares": 1.0, "weights": [1], "shares": [1]}
        for model in ("base", name)
    ]
    run = {"options": {"preset": "today"}, "mixes": mixes, "notes": [name]}
    show_edge(edge_rows(name), run, Console(file=stream, width=300))
    assert not obeyed(stream.getvalue())
    for shown in ("[/b]", "[bold"):
        assert (shown in stream.getvalue()) == (shown in name)


def test_names_stay_apart() -> None:
    assert len(set(short_names(["a\x1b", r"a\x1b"]).values())) == 2


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", NAMES)
def test_pictures_draw_names_as_they_are(tmp_path: Path, name: str) -> None:
    from matplotlib.text import Text

    drawn = figure(rows(name, "other"))
    assert drawing.image(drawn)
    for text in drawn.findobj(Text):
        assert isinstance(text, Text)
        assert not text.get_parse_math()
        assert not obeyed(text.get_text().replace("\n", ""))
    assert "<svg" in drawing.svg(drawn, "rsa")
    lines = lambda _: iter([drawing.Line(name, False, [0, 1], [0.1, 0.2])])  # noqa: E731
    panels = drawing.task_panels([name, "pos"], lines, name, name, name, None)
    assert drawing.image(panels)
    assert len(panels.legends[0].get_texts()) == 1  # also of a name with an underscore in front
    paths = Scores(rows(name), {"notes": [name], "options": {"text": name}}).save(tmp_path)
    assert {"scores.json", "scores.csv", "run.json", "report.html", "rsa.png"} == {path.name for path in paths}
    assert json.loads((tmp_path / "scores.json").read_text())["rows"][0]["tuned"] == name


def test_the_style_of_the_user_does_not_turn_mathematics_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"text.usetex": True, "text.parse_math": True}):
        assert drawing.image(figure(rows("$$")))


def test_errors_and_lines_for_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.txt").write_text("It rains.\n")
    assert cli.main(["score", f"/{ESCAPE}", "t", "--text", str(tmp_path / "x.txt")]) == 2
    output.say(f"Wrote {ESCAPE}")
    err = capsys.readouterr().err
    assert not obeyed(err)
    assert err.count(r"x\x1b]0;PWNED\x07\x1b[31m\x9b2J") == 2


# ------------------------------------------------------------------------------------------------------ CSV and JSON

FORMULAS = ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "=HYPERLINK(1).txt"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_text_is_a_formula(text: str) -> None:
    found = list(csv.reader(io.StringIO(csv_bytes([{"corpus": text, "value": -0.5, text: 1}], ()).decode())))
    assert found[1] == [f"'{text}", "-0.5", "1"]
    assert found[0] == ["corpus", "value", f"'{text}"]
    assert json.loads(json_bytes([{"corpus": text}], {}))["rows"] == [{"corpus": text}]


def test_ordinary_cells_stay() -> None:
    assert csv_bytes([{"a": "x=1", "b": -1, "c": float("-inf"), "d": ""}], ()) == b"a,b,c,d\nx=1,-1,-inf,\n"


@pytest.mark.parametrize("text", [ESCAPE, "\u2028", "\udcff", "é"])
def test_json_holds_every_text(text: str) -> None:
    found = json_bytes([{"corpus": text}], {text: text})
    assert json.loads(found)["rows"][0]["corpus"] == text
    assert not obeyed(found.decode())
    csv_bytes([{"corpus": text}])


# ------------------------------------------------------------------------------------------------------------ stdout

CODE = """
import sys, types
from bertft import Scores, cli
rows = [dict(base='b', tuned='é', corpus='c', layer=i, measure='rsa', value=1.0, stderr=0.0, n_tokens=9, n_sentences=9)
        for i in range(9)]
sys.modules['bertft.experiments.score'] = types.SimpleNamespace(
    score=lambda *a, **o: Scores(rows, {}))
sys.exit(cli.main(['score', 'b', 't', '--text', types.__file__, *sys.argv[1:]]))
"""


def shell(redirection: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    command = ["bash", "-c", f'"$0" -c "$1" "${{@:2}}" {redirection}', sys.executable, CODE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


@pytest.fixture
def bash() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("without /dev/full")


@pytest.mark.usefixtures("bash")
@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["table", "json"])
@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_a_stdout_that_takes_nothing(tmp_path: Path, redirection: str, json_too: list[str]) -> None:
    ended = shell(redirection, "--output-dir", str(tmp_path / "out"), *json_too)
    assert ended.returncode == 2
    assert re.fullmatch(r"bertft: stdout: cannot write to it: .*; Wrote scores\.json.* to .*\n", ended.stderr)
    assert (tmp_path / "out" / "scores.json").exists()
    ended = shell(redirection, *json_too)
    assert ended.returncode == 2
    assert re.fullmatch(r"bertft: stdout.*--output-dir DIR.*\n", ended.stderr)


@pytest.mark.usefixtures("bash")
def test_help_into_a_full_device() -> None:
    ended = shell(">/dev/full", "--help")
    assert ended.returncode == 2
    assert re.fullmatch(r"bertft: stdout: .*\n", ended.stderr)


@pytest.mark.usefixtures("bash")
def test_without_stderr_nothing_goes_to_stdout_in_its_place(tmp_path: Path) -> None:
    ended = shell("2>&-", "--json", "--output-dir", str(tmp_path / "out"))
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["rows"]


@pytest.mark.usefixtures("bash")
def test_a_terminal_that_lacks_a_character() -> None:
    ended = shell("", PYTHONIOENCODING="ascii")
    assert ended.returncode == 0
    assert r"\xe9" in ended.stdout
