"""Command lines: every option of every command with plausible and with odd values, in process.

A line begins as one that runs. Options are read off the parser, so that a new one is tried without a change here.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import SECONDS, SEED, TIMES, at_most

from bertft import cli

ODD = [
    *("", "-1", "0", "x", "1e9", "nan", "all", "9" * 30, "0,3-5,-1", "n" * 300, "~nosuchuser/x", "\x1b[2J", "é", "--"),
    *("/dev/null", "2.5", "-", ".", "cuda:99", "float65", "rsa,rsa", "1 2", "%s", "{}", "\\", "0x10", "inf", "None"),
]
LISTS = {"--layers": ["0", "-1", "0,1", "0-2"], "--measures": ["rsa", "cka", "rsa,cka", "rsa-euclidean"]}
LESS = ["--random-seeds", "0", "--epochs", "1"]

Line = list[str]


def starts(folder: Path, out: str) -> dict[str, Line]:
    """Return a line that runs for each command, with tiny files and little work."""
    base, tuned, text = str(folder / "base"), str(folder / "tuned"), str(folder / "text.txt")
    bank, pairs = str(folder / "bank"), str(folder / "pairs.jsonl")
    return {
        "score": ["score", base, tuned, "--text", text],
        "diff": ["diff", base, tuned],
        "probe structural": ["probe", "structural", base, "--treebank", bank, "--rank", "2", *LESS],
        "probe edge": ["probe", "edge", base, "--task", "pos", "--treebank", bank, *LESS],
        "probe mdl": ["probe", "mdl", base, "--task", "pos", "--treebank", bank, *LESS],
        "tune": ["tune", "mnli", base, "--train", pairs, "--dev", pairs, "--epochs", "1", "--output-dir", out],
        "ablate": ["ablate", "mnli", base, "--train", pairs, "--dev", pairs, "--freeze", "1", "--epochs", "1"],
        "pretrain": ["pretrain", "--text", text, "--like", base, "--steps", "1", "--batch-size", "2", "-o", out],
    }


SHARE = {"score": 0.45, "diff": 0.4}
"""Shares of the commands that take a tenth of a second; the others share the rest."""


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command with its own parser."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for word, below in action.choices.items():
            yield from commands(below, f"{name} {word}".strip())
    if not inner:
        yield name, parser


def value_of(rng: np.random.Generator, action: argparse.Action, files: list[str]) -> str:
    """Draw a plausible value three times in four, else an odd one."""
    if rng.random() < 0.25:
        return str(rng.choice([*ODD, *files]))
    if action.choices:
        return str(rng.choice([str(choice) for choice in action.choices]))
    for option in action.option_strings:
        if option in LISTS:
            return str(rng.choice(LISTS[option]))
    if action.type is Path or action.metavar in ("FILE", "DIR", "MODEL"):
        return str(rng.choice(files))
    return str(rng.choice(["1", "2", "3", "0.5", "all", "cpu", "8"]))


def drawn(rng: np.random.Generator, lines: dict[str, Line], parsers: dict[str, Any], files: list[str]) -> Line:
    names = list(lines)
    rest = (1 - sum(SHARE.values())) / (len(names) - len(SHARE))
    name = str(rng.choice(names, p=[SHARE.get(name, rest) for name in names]))
    line = list(lines[name])
    options = [action for action in parsers[name]._actions if action.option_strings]
    for _ in range(int(rng.choice([0, 1, 1, 2, 3]))):
        action = options[rng.integers(len(options))]
        line.append(str(rng.choice(action.option_strings)))
        if action.nargs != 0:
            count = action.nargs if isinstance(action.nargs, int) else 1
            line += [value_of(rng, action, files) for _ in range(count)]
    if rng.random() < 0.3:  # one word is lost, doubled, misspelt, moved or replaced
        at = int(rng.integers(len(line)))
        word = line[at]
        changed = [[], [word, word], [word[:-1]], [f"{word}x"], [str(rng.choice([*ODD, *files]))]]
        line[at : at + 1] = changed[rng.integers(len(changed))]
    return line


def check_files(folder: Path, where: object) -> None:
    """Check that what a command left is whole: no temporary file, and JSON that can be read."""
    for path in folder.rglob("*"):
        assert not path.name.endswith(".tmp"), (where, path)
        if path.suffix == ".json" and path.is_file():
            json.loads(path.read_bytes())


def test_command_lines(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    out, cache = tmp_path / "out", str(tmp_path / "cache")
    lines = starts(models, str(out))
    parsers = dict(commands(cli.parser()))
    assert set(lines) <= set(parsers)
    files = [str(models / name) for name in ("base", "tuned", "text.txt", "bank", "pairs.jsonl", "nothing")]
    count, refused, done = 60 * TIMES, 0, 0
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        line = drawn(rng, lines, parsers, [*files, str(out)])
        if "probe" in line and "--cache" not in line:
            line += ["--cache", cache]
        where = f"seed {[SEED, number]}: {line}"
        try:
            with at_most(SECONDS * 6):  # training may take as long on a busy machine
                status = cli.main(line)
        except SystemExit as ended:  # --help
            status = int(ended.code or 0)
        except BaseException as error:
            raise AssertionError(f"{where} gives {error!r}") from error
        told = capsys.readouterr().err
        differs = status == 1 and any(word.startswith("--fail") for word in line)  # --fail-if-equal, or a part of it
        assert status in (0, 2) or differs, (where, status, told)
        assert "unexpected" not in told, (where, told)
        assert "Traceback" not in told, (where, told)
        if out.exists():
            check_files(out, where)
            shutil.rmtree(out)
        refused += status == 2
        done += status == 0
    with capsys.disabled():
        print(f"\nfuzz: command lines: {count:,}, {done:,} ran to the end, {refused:,} refused in one line", end="")
    assert done > count // 3
