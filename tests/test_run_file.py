"""`run.json`, which holds all that differs between two runs of one command; every other file has the same bytes."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from fuzzing import make_files

from bertft import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("files"))


COMMANDS = {
    "score": "score base tuned --text text.txt",
    "diff": "diff base tuned",
    "structural": "probe structural base --treebank bank --rank 2 --random-seeds 0 --epochs 1",
    "tune": "tune mnli base --train pairs.jsonl --dev pairs.jsonl --epochs 1",
    "ablate": "ablate mnli base --train pairs.jsonl --dev pairs.jsonl --epochs 1 --truncate 1",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_all_files_but_one_have_the_same_bytes(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = COMMANDS[name].split()
    found = []
    for number in (1, 2):
        out = tmp_path / str(number) / "out"
        assert cli.main([*words, "-o", str(out)]) == 0
        files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
        told = {file: path for file, path in files.items() if path.name == "run.json"}
        kept = {
            file: path.read_bytes()
            for file, path in files.items()
            if file not in told and path.name != ".bertft.json"  # it holds the hash of run.json
        }
        found.append(kept)
        assert told
        run = json.loads((out / "run.json").read_text())
        assert run["command"] == f"bertft {' '.join(words)} -o {out}"
        assert run["directory"] == str(folder)
        assert run["paths"]["base"] == str(folder / "base")
        assert datetime.fromisoformat(run["date"]).tzinfo == timezone.utc
        assert all(seconds >= 0 for seconds in run["timings"].values())
    assert found[0].keys() == found[1].keys()
    assert [file for file in found[0] if found[0][file] != found[1][file]] == []


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be removed there")
def test_a_removed_working_directory_does_not_cost_the_results(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["diff", str(folder / "base"), str(folder / "tuned"), "-o", str(tmp_path / "out")]) == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["directory"] is None
    assert run["paths"][str(folder / "base")] == str(folder / "base")
    monkeypatch.chdir(tmp_path)
