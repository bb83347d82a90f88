"""Output folders: locks, sets of files that never mix, and what is left after a fault at any file operation."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults import DIED, dies, fails, fault, in_child

from bertft import files
from bertft.errors import BertftError, ReportWarning
from bertft.files import (
    MANIFEST,
    ResultFiles,
    broken_seal,
    copy_files,
    folder_lock,
    holds_nothing,
    require_writable,
    seal,
    write_files,
    write_results,
)

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
TOO_LONG = "n" * 300


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def results(version: int, *pictures: str) -> ResultFiles:
    """A set of results; every file of it says the version."""

    def drawn(name: str) -> Callable[[], bytes]:
        return lambda: f"{name} {version}".encode()

    numbers = {name: f"{name} {version}".encode() for name in ("scores.json", "scores.csv")}
    return ResultFiles(numbers, {name: drawn(name) for name in pictures})


# Locks


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    code = f"""
import sys
from bertft.files import folder_lock
with folder_lock({str(out)!r}):
    print("holds", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin
    assert other.stdout
    assert other.stdout.readline() == "holds\n"
    with pytest.raises(BertftError, match=r"out: another run is at work there; wait for it to end, or name another"):
        folder_lock(out).__enter__()
    other.kill()
    other.communicate()
    with folder_lock(out, wait=10):  # the lock of a process that was killed is free
        with folder_lock(out):  # and a run may take its own again
            (out / "a").write_text("")
        refused: list[str] = []

        def try_it() -> None:
            try:
                with folder_lock(out):
                    refused.append("not refused")
            except BertftError as error:
                refused.append(str(error))

        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        assert "another run is at work there" in refused[0]
    assert os.listdir(out) == ["a"]


def test_a_folder_that_nothing_was_written_to_goes_again(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert os.listdir(tmp_path) == []


def test_a_short_wait_for_a_run_that_writes(tmp_path: Path) -> None:
    begun = threading.Event()

    def writes() -> None:
        with folder_lock(tmp_path):
            begun.set()
            time.sleep(0.2)

    thread = threading.Thread(target=writes)
    thread.start()
    begun.wait()
    write_files(tmp_path, {"a": b"1"})
    thread.join()
    assert content(tmp_path) == {"a": b"1"}


def test_a_file_system_without_locks_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    write_files(tmp_path, {"a": b"1"})
    assert (tmp_path / "a").read_bytes() == b"1"


# What killed runs leave


def test_the_temporary_files_of_a_killed_run_are_removed_and_no_others(tmp_path: Path) -> None:
    for name in (".scores.json.17.bertft.tmp", ".bertft.lock", ".mine.tmp", ".mine.17.tmp", "mine.17.bertft.tmp"):
        (tmp_path / name).write_text("")
    (tmp_path / ".best.17.bertft.tmp").mkdir()
    (tmp_path / ".best.17.bertft.tmp" / "model").write_text("")
    write_files(tmp_path, {"a": b"1"})
    assert sorted(os.listdir(tmp_path)) == [".mine.17.tmp", ".mine.tmp", "a", "mine.17.bertft.tmp"]


@pytest.mark.parametrize(
    ("name", "nothing"),
    [
        (".DS_Store", True),
        ("Thumbs.db", True),
        ("._notes", True),
        (".tuning.json.4711.tmp", True),
        (".tuning.json.4711.bertft.tmp", True),
        (".bertft.lock", True),
        ("notes.txt", False),
        (".hidden", False),
        ("tuning.json", False),
    ],
)
def test_what_counts_as_an_empty_folder(name: str, nothing: bool, tmp_path: Path) -> None:
    assert holds_nothing(tmp_path)
    assert holds_nothing(tmp_path / "absent")
    (tmp_path / name).write_text("")
    assert holds_nothing(tmp_path) == nothing


# What is told beforehand


@pytest.mark.parametrize("name", [TOO_LONG, f"{TOO_LONG}/below", f"new/{TOO_LONG}", "nul\0l", "file/below", "dangling"])
def test_a_folder_that_cannot_be_made_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at all")
    before = sorted(os.listdir(tmp_path))
    for attempt in (
        lambda: require_writable(tmp_path / name),
        lambda: write_files(tmp_path / name, {"a": b"1"}),
        lambda: folder_lock(tmp_path / name).__enter__(),
    ):
        with pytest.raises(BertftError, match=r"cannot write there: .*; free space or name another folder"):
            attempt()
    assert sorted(os.listdir(tmp_path)) == before


def test_a_folder_with_the_name_of_a_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").mkdir()
    with pytest.raises(BertftError, match=r"cannot write there: scores\.csv is a folder there"):
        require_writable(tmp_path, ["scores.json", "scores.csv"])


# Sets of files


def test_pictures_of_an_older_set_go_and_what_others_wrote_stays(tmp_path: Path) -> None:
    write_results(tmp_path, results(1, "rsa.png", "cka.png", "report.html"))
    (tmp_path / "report.html").write_text("edited by hand")
    (tmp_path / "notes.txt").write_text("mine")
    written = write_results(tmp_path, results(2, "rsa.png"))
    assert [path.name for path in written] == ["scores.json", "scores.csv", "rsa.png"]
    found = content(tmp_path)
    manifest = json.loads(found.pop(MANIFEST))
    assert found == {
        "scores.json": b"scores.json 2",
        "scores.csv": b"scores.csv 2",
        "rsa.png": b"rsa.png 2",
        "report.html": b"edited by hand",
        "notes.txt": b"mine",
    }
    assert manifest["complete"]
    assert list(manifest["files"]) == ["scores.json", "scores.csv", "rsa.png"]


def test_a_manifest_of_a_stranger_removes_nothing_elsewhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    out = tmp_path / "out"
    out.mkdir()
    described = files.describe(tmp_path, ["victim"])["victim"]
    for listed in ({"../victim": described}, {str(victim): described}, [], {"a": 1}, "[" * 5000):
        text = listed if isinstance(listed, str) else json.dumps({"files": listed})
        (out / MANIFEST).write_text(text)
        write_results(out, results(1))
        assert victim.read_bytes() == b"mine"


def test_a_picture_that_fails_is_left_out_with_a_warning(tmp_path: Path) -> None:
    def broken() -> bytes:
        raise ZeroDivisionError("no ink")

    numbers = results(1).numbers
    with pytest.warns(ReportWarning, match=r"rsa\.png was left out: ZeroDivisionError: no ink; the numbers are whole"):
        written = write_results(tmp_path, ResultFiles(numbers, {"rsa.png": broken, "report.html": lambda: b"page"}))
    assert [path.name for path in written] == ["scores.json", "scores.csv", "report.html"]
    assert json.loads((tmp_path / MANIFEST).read_text())["complete"]


def operations(folder: Path, run: Callable[[], object]) -> int:
    """The number of file operations of a run."""
    with fault(folder, 0, fails) as counted:
        run()
    return counted.seen


def consistent(folder: Path, versions: tuple[int, ...]) -> None:
    """All results in a folder are of one version; a set that its manifest calls complete is so."""
    found = content(folder)
    shown = {name: int(text.split()[1]) for name, text in found.items() if not name.startswith(".")}
    assert len(set(shown.values())) <= 1, shown
    assert set(shown.values()) <= set(versions)
    if MANIFEST in found:
        manifest = json.loads(found[MANIFEST])
        assert not manifest["complete"] or files.damage(folder, manifest["files"]) is None


@forks
@pytest.mark.filterwarnings("ignore::bertft.errors.ReportWarning")
@pytest.mark.parametrize("act", [fails, dies])
def test_results_never_mix_wherever_a_run_fails_or_dies(act: Callable[[], None], tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        write_results(folder, results(2, "rsa.png", "report.html"))

    write_results(tmp_path / "whole", results(1, "rsa.png", "cka.png"))
    count = operations(tmp_path / "whole", lambda: write(tmp_path / "whole"))
    whole = content(tmp_path / "whole")
    assert count > 20
    for at in range(1, count + 1):
        folder = tmp_path / f"{at}"
        write_results(folder, results(1, "rsa.png", "cka.png"))
        if act is dies:
            assert in_child(lambda folder=folder: write(folder), folder, at) == DIED  # type: ignore[misc]
        else:
            with suppress(BertftError), fault(folder, at, act):
                write(folder)
        consistent(folder, (1, 2))
        assert (folder / "scores.json").exists(), f"the numbers are gone after {at}"
        write(folder)
        assert content(folder) == whole, f"not mended after {at}"


@forks
@pytest.mark.parametrize("act", [fails, dies])
def test_a_folder_of_copies_is_whole_wherever_a_run_fails_or_dies(act: Callable[[], None], tmp_path: Path) -> None:
    sources = [tmp_path / "config.json", tmp_path / "model.safetensors"]
    for path in sources:
        path.write_bytes(path.name.encode())

    def copy(out: Path) -> None:
        copy_files(sources, out / "best")

    (tmp_path / "whole").mkdir()
    count = operations(tmp_path / "whole", lambda: copy(tmp_path / "whole"))
    for at in range(1, count + 1):
        out = tmp_path / f"{at}"
        out.mkdir()
        if act is dies:
            assert in_child(lambda out=out: copy(out), out, at) == DIED  # type: ignore[misc]
        else:
            with suppress(BertftError), fault(out, at, act):
                copy(out)
        if (out / "best").exists():
            assert content(out / "best").keys() == {"config.json", "model.safetensors"}
        copy(out)
        assert os.listdir(out) == ["best"]


def test_a_seal_tells_every_change(tmp_path: Path) -> None:
    assert broken_seal(tmp_path) == "it was not saved completely"
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"12345")
    seal(tmp_path)
    assert broken_seal(tmp_path) is None
    (tmp_path / "more").write_text("a file that was not there")
    assert broken_seal(tmp_path) is None
    (tmp_path / "a").write_bytes(b"12346")
    assert broken_seal(tmp_path) == "a has changed: its checksum is another"
    (tmp_path / "a").write_bytes(b"1234")
    assert broken_seal(tmp_path) == "a has 4 bytes instead of 5"
    (tmp_path / "a").unlink()
    assert broken_seal(tmp_path) == "a is missing"


# The command line


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_terminated_command_removes_what_it_began(tmp_path: Path) -> None:
    code = f"""
import sys, time, types
from bertft import cli

def score(*_, **__):
    open({str(tmp_path / "begun")!r}, "w").close()
    time.sleep(60)

sys.modules["bertft.experiments.score"] = types.SimpleNamespace(score=score)
sys.exit(cli.main(["score", "a", "b", "--text", {__file__!r}, "--output-dir", {str(tmp_path / "out")!r}]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "bertft: terminated\n")
    assert not (tmp_path / "out").exists()


# The cache


@pytest.mark.parametrize("known", [RuntimeError("Could not determine home directory"), Path("~/.cache/bertft")])
def test_a_user_without_a_home_is_told_to_name_a_cache(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertft.activations.cache import cache_root

    def unknown(*_: Any, **__: Any) -> Path:
        if isinstance(known, Path):
            return known
        raise known

    monkeypatch.setattr("platformdirs.user_cache_path", unknown)
    with pytest.raises(BertftError, match="no directory for the cache: this user has no home directory, and XDG_CACHE"):
        cache_root(None)
    with pytest.raises(
        BertftError, match="~nosuchuser/cache: there is no such home directory; name the folder in full"
    ):
        cache_root("~nosuchuser/cache")
