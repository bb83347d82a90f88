"""The command line: what reaches `score`, what goes to stdout and to stderr, and how every failure ends."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bertft import Scores, cli
from bertft.commands import output
from bertft.errors import CheckpointError, UndefinedWarning

ROWS = [
    {
        "base": "base",
        "tuned": "mnli",
        "corpus": "wiki.txt",
        "layer": layer,
        "measure": "rsa",
        "value": value,
        "stderr": 0.01,
        "n_tokens": 500,
        "n_sentences": 100,
    }
    for layer, value in enumerate((1.0, 0.9, 0.5))
]
COMMAND = ["score", "base", "mnli", "--text", "wiki.txt"]


@dataclass
class FakeScore:
    """Stands for `bertft.score`: remembers its call and answers with fixed rows, or does as told."""

    act: Callable[[], None] = lambda: None
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def score(self, *arguments: Any, **options: Any) -> Scores:
        self.calls.append((arguments, options))
        self.act()
        return Scores(ROWS, {"seed": 0, "notes": ["all 500 tokens were used"]})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> FakeScore:
    """A fake `bertft.score`, quick to import, in a folder that has the text."""
    module = FakeScore()
    folder = tmp_path_factory.mktemp("fake")
    for name in ("wiki.txt", "x.txt", "y.conllu", "x"):
        (folder / name).write_text("It rains.\n")
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "bertft.experiments.score", module)
    monkeypatch.delenv("BERTFT_DEBUG", raising=False)
    return module


def test_the_table_goes_to_stdout_and_the_rest_to_stderr(fake: FakeScore, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(COMMAND) == 0
    out, err = capsys.readouterr()
    assert "0.9000 ± 0.0196" in out
    assert err == "Nothing was written; --output-dir DIR writes the scores, a figure and a report.\n"


def test_out_writes_the_files(fake: FakeScore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, "--output-dir", str(tmp_path / "new")]) == 0
    assert sorted(os.listdir(tmp_path / "new")) == [
        ".bertft.json", "report.html", "rsa.png", "run.json", "scores.csv", "scores.json",
    ]  # fmt: skip
    assert f"to {tmp_path / 'new'}." in capsys.readouterr().err


def test_json_is_alone_on_stdout(fake: FakeScore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, "--json", "--output-dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["rows"] == ROWS
    assert out.encode() == (tmp_path / "scores.json").read_bytes()
    assert err == ""


def test_defaults_reach_score(fake: FakeScore) -> None:
    cli.main(COMMAND)
    ((arguments, options),) = fake.calls
    assert arguments == ("base", ["mnli"], [Path("wiki.txt")])
    assert callable(options.pop("progress"))
    assert options == {
        "tokens": 5000,
        "sentences": 1000,
        "seed": 0,
        "layers": "all",
        "measures": ("rsa",),
        "special_tokens": False,
        "standardize": False,
        "dtype": "float32",
        "device": "auto",
        "batch_tokens": None,
        "max_length": None,
        "single": False,
        "allow_pickle": False,
        "compare_bases": False,
    }


def test_options_reach_score(fake: FakeScore) -> None:
    command = "score b t1 t2 --text x.txt y.conllu --tokens all --sentences all --seed 3 --layers 0,3-5,-1"
    command += " --measures rsa,cka --special-tokens --standardize --dtype float64 --device cuda:1 --batch-tokens 64"
    cli.main([*command.split(), "--max-length", "128", "--single", "--allow-pickle"])
    ((arguments, options),) = fake.calls
    assert arguments == ("b", ["t1", "t2"], [Path("x.txt"), Path("y.conllu")])
    assert (options["tokens"], options["sentences"], options["seed"]) == (None, None, 3)
    assert (options["layers"], options["measures"]) == ("0,3-5,-1", ("rsa", "cka"))
    assert all(options[name] for name in ("special_tokens", "standardize", "single", "allow_pickle"))
    assert (options["dtype"], options["device"]) == ("float64", "cuda:1")
    assert (options["batch_tokens"], options["max_length"]) == (64, 128)


@pytest.mark.parametrize("flag", ["--compare-bases", "--floor"])
def test_pairs_reach_score(flag: str, fake: FakeScore) -> None:
    cli.main(["score", "--pair", "b1", "t1", "--pair", "b2", "t2", flag, "--text", "x.txt"])
    ((arguments, options),) = fake.calls
    assert arguments == (["b1", "b2"], ["t1", "t2"], [Path("x.txt")])
    assert options["compare_bases"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("scrub", "unknown command 'scrub' (did you mean 'score'?); choose one of score, diff, tune"),
        ("score base", "the following arguments are required: --text"),
        ("score base --text x", "TUNED is missing: give BASE TUNED or pairs of them with --pair"),
        ("score --text x", "TUNED is missing: give BASE TUNED or pairs of them with --pair"),
        ("score a b --pair c d --text x", "both were given: give BASE TUNED or pairs of them with --pair"),
        ("score --pair c --text x", "argument --pair: expected 2 arguments"),
        ("score base mnli", "the following arguments are required: --text"),
        ("score a b --text x --tokens 0", "'0' is neither a whole number above 0 nor `all`"),
        ("score a b --text x --sentences many", "'many' is neither a whole number above 0 nor `all`"),
        ("score a b --text x --layers -1,0", "write --option=-1 if the value begins with a minus"),
        ("score a b --text x --seed x", "invalid int value: 'x'"),
        ("score a b --text x --colour", "unknown option --colour; see `bertft score --help`"),
    ],
)
def test_bad_arguments_end_in_one_line(
    command: str, said: str, fake: FakeScore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("bertft: ")
    assert said in err
    assert "--help`" in err
    assert fake.calls == []


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (CheckpointError("runs/x: no model there;\n  give a folder"), 2, "runs/x: no model there; give a folder"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("odd"), 1, "unexpected RuntimeError: odd (BERTFT_DEBUG=1 shows where)"),
        (MemoryError(), 1, "out of memory; try a smaller --batch-tokens or --max-length"),
        (RuntimeError("CUDA out of memory. Tried"), 1, "out of memory; try a smaller --batch-tokens or --max-length"),
    ],
    ids=["refused", "interrupted", "unexpected", "memory", "device memory"],
)
def test_failures_end_in_one_line(
    error: BaseException, status: int, line: str, fake: FakeScore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    fake.act = fail
    assert cli.main([*COMMAND, "--output-dir", str(tmp_path / "new")]) == status
    assert capsys.readouterr() == ("", f"bertft: {line}\n")
    assert not (tmp_path / "new").exists()


def test_debug_shows_the_traceback(fake: FakeScore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise CheckpointError("no model")

    fake.act = fail
    monkeypatch.setenv("BERTFT_DEBUG", "1")
    with pytest.raises(CheckpointError, match="no model"):
        cli.main(COMMAND)


def test_a_place_that_cannot_be_written_is_refused_before_scoring(
    fake: FakeScore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main([*COMMAND, "--output-dir", str(tmp_path / "file" / "below")]) == 2
    assert "cannot write there" in capsys.readouterr().err
    assert fake.calls == []


def test_numbers_that_cannot_be_written_are_printed(
    fake: FakeScore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for options in ([], ["--json"]):
        assert cli.main([*COMMAND, "--output-dir", str(tmp_path / "new"), *options]) == 2
        out, err = capsys.readouterr()
        assert "0.9000 ± 0.0196" in out if not options else json.loads(out)["rows"] == ROWS
        assert err.endswith("new: cannot write there: No space left on device; free space or name another folder\n")
        assert err.count("\n") == 1
        assert os.listdir(tmp_path) == []


def test_numbers_that_cannot_be_printed_are_written(
    fake: FakeScore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr(output, "print_results", broken)
    assert cli.main([*COMMAND, "--output-dir", str(tmp_path)]) == 1
    assert {"rsa.png", "report.html", "scores.csv", "scores.json"} <= set(os.listdir(tmp_path))


def test_a_picture_that_fails_is_a_line_and_not_the_end(
    fake: FakeScore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("no such font")

    monkeypatch.setattr("bertft.report.score.figure.figure", broken)
    assert cli.main([*COMMAND, "--output-dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "0.9000 ± 0.0196" in out
    assert "bertft: warning: rsa.png was left out: ValueError: no such font; the numbers are whole\n" in err
    assert not (tmp_path / "rsa.png").exists()


@pytest.mark.parametrize("name", ["scores.json", "scores.csv", "n" * 300])
def test_a_place_that_cannot_take_the_results_is_refused_before_scoring(
    name: str, fake: FakeScore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name if len(name) > 255 else tmp_path
    if out is tmp_path:
        (tmp_path / name).mkdir()
    assert cli.main([*COMMAND, "--output-dir", str(out)]) == 2
    assert "cannot write there" in capsys.readouterr().err
    assert fake.calls == []


def test_a_second_command_for_the_same_folder_is_refused_at_once(
    fake: FakeScore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def second() -> None:
        fake.act = lambda: None
        thread = threading.Thread(target=lambda: seen.append(cli.main([*COMMAND, "--output-dir", str(tmp_path)])))
        thread.start()
        thread.join()

    fake.act = second
    assert cli.main([*COMMAND, "--output-dir", str(tmp_path)]) == 0
    assert seen == [2]
    assert "another run is at work there; wait for it to end, or name another folder" in capsys.readouterr().err
    assert len(fake.calls) == 1


def test_own_warnings_are_one_line_each_and_others_are_not_shown(
    fake: FakeScore, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn() -> None:
        for _ in range(2):
            warnings.warn("layer 3 is\nconstant", UndefinedWarning, stacklevel=1)
        warnings.warn("chatter", FutureWarning, stacklevel=1)

    fake.act = warn
    before = warnings.showwarning
    cli.main([*COMMAND, "--json"])
    assert capsys.readouterr().err == "bertft: warning: layer 3 is constant\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize("output", ["['--json']", "[]"], ids=["json", "table"])
def test_a_reader_that_leaves_ends_quietly(output: str) -> None:
    code = (
        "import sys, types\n"
        "from bertft import Scores, cli\n"
        "rows = [dict(base='b', tuned='t', corpus='c', layer=i, measure='rsa', value=1.0, stderr=0.0, n_tokens=9,"
        " n_sentences=9) for i in range(5000)]\n"
        "sys.modules['bertft.experiments.score'] = types.SimpleNamespace("
        "score=lambda *a, **o: Scores(rows, {}))\n"
        f"sys.exit(cli.main(['score', 'b', 't', '--text', types.__file__] + {output}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()


def test_progress_is_a_line_every_ten_seconds_where_there_is_no_terminal() -> None:
    now = 0.0
    pipe = io.StringIO()
    progress = output.progress_lines(pipe, clock=lambda: now)
    for step in range(1, 31):
        now += 1.0
        progress(step * 1000, 30_000, "fine-\x1btuning")
    assert pipe.getvalue().splitlines() == [f"bertft: fine-\\x1btuning: {done},000 of 30,000" for done in (10, 20, 30)]
    pipe.close()
    with output.progress_bar(None) as silent:
        assert silent is None


def test_progress_is_drawn_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with output.progress_bar(terminal) as progress:
        assert progress is not None
        progress(1, 2, "[wiki] one")
        progress(1, 3, "two")
    assert "two" in terminal.getvalue()
    assert "[wiki] one" in terminal.getvalue()


@pytest.mark.parametrize("command", [["--help"], ["--version"], *([*name.split(), "--help"] for name in cli.COMMANDS)])
def test_help_says_what_there_is(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(command)
    assert leaving.value.code == 0
    out = capsys.readouterr().out
    assert "bertft" in out
    assert max(map(len, out.splitlines())) <= 100


def test_results_that_are_there_are_replaced_only_on_request(
    fake: FakeScore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*COMMAND, "--output-dir", "out"]) == 0
    before = Path("out", "scores.json").read_bytes()
    assert cli.main([*COMMAND, "--output-dir", "out"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "bertft: out: holds results already (scores.json); replace them with --overwrite, or name another directory"
    )
    assert (len(fake.calls), Path("out", "scores.json").read_bytes()) == (1, before)
    assert cli.main([*COMMAND, "--output-dir", "out", "--overwrite"]) == 0
    manifest = json.loads(Path("out", ".bertft.json").read_text())
    Path("out", ".bertft.json").write_text(json.dumps({**manifest, "complete": False}))
    assert cli.main([*COMMAND, "--output-dir", "out"]) == 0  # a run that did not end
