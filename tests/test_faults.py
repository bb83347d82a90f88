"""Commands whose file operations fail, or that die there: the folder is whole or refused, and a second run ends well.

The suite tries a few operations of two commands. With the variable BERTFT_FAULTS=all, every operation of every command
that writes results fails once and dies once, which takes an hour: BERTFT_FAULTS=all pytest tests/test_faults.py
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from faults import DIED, dies, fails, fault

from bertft import cli, files

WORDS = {"the": "DET", "a": "DET", "cat": "NOUN", "dog": "NOUN", "saw": "VERB", "left": "VERB", "not": "X", "it": "X"}
AGAIN = {"tune": ["--resume"], "pretrain": ["--resume"], "score": ["--overwrite"], "structural": ["--overwrite"]}
"""What a command needs in a folder that holds its run; all others go on by themselves."""
EVERY = os.environ.get("BERTFT_FAULTS") == "all"


def commands(place: Path) -> dict[str, list[str]]:
    """The commands that write results, without --out."""
    training = ["--train", f"{place}/mnli.jsonl", "--dev", f"{place}/mnli.jsonl", "--epochs", "2", "--batch-size", "4"]
    training += ["--max-length", "12", "--device", "cpu", "--model", f"{place}/a"]
    probing = [f"{place}/a", "--treebank", f"{place}/bank", "--cache", f"{place}/cache", "--epochs", "1"]
    return {
        "score": ["score", f"{place}/a", f"{place}/b", "--text", f"{place}/text.txt", "--measures", "rsa,cka"],
        "tune": ["tune", "mnli", *training, "--seeds", "1", "2"],
        "ablate": ["ablate", "mnli", *training, "--freeze", "0"],
        "structural": ["probe", "structural", *probing, "--rank", "4"],
        "edge": ["probe", "edge", *probing, "--task", "pos", "dep"],
        "mdl": ["probe", "mdl", *probing, "--task", "pos", "--probe", "perceptron", "--hidden", "4"],
        "pretrain": [
            *("pretrain", "--text", f"{place}/text.txt", "--like", f"{place}/a", "--steps", "4", "--every", "2"),
            *("--batch-size", "2", "--max-length", "12", "--duplicates", "1", "--held-out", "0.3", "--device", "cpu"),
        ],
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models `a` and `b`, and data of every command."""
    folder = tmp_path_factory.mktemp("faults")
    words = tiny.tokenizer(WORDS, special=(*tiny.SPECIAL, "[MASK]"))
    for seed, name in enumerate("ab"):
        tiny.save(folder / name, tiny.bert(len(words), length=16, seed=seed), words)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list(WORDS), 6)) for _ in range(40)]
    (folder / "text.txt").write_text("\n\n".join("\n".join(texts[at : at + 20]) for at in (0, 20)) + "\n")
    labels = ("entailment", "neutral", "contradiction")
    pairs = [{"sentence1": text, "sentence2": text, "gold_label": labels[i % 3]} for i, text in enumerate(texts[:12])]
    (folder / "mnli.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    (folder / "bank").mkdir()
    for split in ("train", "dev", "test"):
        trees = []
        for text in texts:
            lines = [
                (at, word, word, WORDS[word], WORDS[word], "_", at - 1, "dep" if at > 1 else "root", "_", "_")
                for at, word in enumerate(text.split(), start=1)
            ]
            trees.append("".join("\t".join(map(str, line)) + "\n" for line in lines))
        (folder / "bank" / f"x-ud-{split}.conllu").write_text("\n".join(trees) + "\n")
    return folder


def run(command: list[str]) -> tuple[int, str]:
    """The status of a command and what it says on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")), contextlib.redirect_stderr(said):
        return cli.main(command), said.getvalue()


def in_child(call: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """What a call returns in a copy of this process, or the status of the copy if it died."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as stream:
                json.dump(call(), stream)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(said) if said else (status, "")


def faulty(command: list[str], out: Path, at: int, act: Callable[[], None]) -> tuple[int, str]:
    with fault(out, at, act) as counted:
        status, said = run([*command, "--output-dir", str(out)])
    return (counted.seen, said) if not at else (status, said)


if __name__ == "__main__":
    # A process that has computed nothing yet, so that its copies can.
    name, act, work, order, place = (
        sys.argv[1],
        {"fails": fails, "dies": dies}[sys.argv[2]],
        Path(sys.argv[3]),
        *sys.argv[4:],
    )
    for module in ("score", "tune", "ablate", "pretrain", "structural", "edge", "mdl"):
        __import__(f"bertft.experiments.{module}")
    command = commands(Path(place))[name]
    count, _ = in_child(lambda: faulty(command, work / "whole", 0, fails))
    tries = (
        range(1, count + 1) if order == "all" else sorted({round(float(share) * count) for share in order.split(",")})
    )
    answers = {}
    for at in tries:
        out = work / f"{at}"
        first = in_child(lambda out=out, at=at: faulty(command, out, at, act))  # type: ignore[misc]
        again = [*command, *AGAIN.get(name, []), "--output-dir", str(out)]
        answers[at] = (first, in_child(lambda again=again: run(again)))  # type: ignore[misc]
    print(json.dumps({"count": count, "answers": answers}))


def plain(content: Any) -> Any:
    """A record without the hashes and sizes of files, some of which tell times."""
    if isinstance(content, dict):
        return {name: plain(value) for name, value in content.items() if name not in ("sha256", "bytes")}
    return [plain(value) for value in content] if isinstance(content, list) else content


def content(folder: Path) -> dict[str, Any]:
    """The files of a folder and those below; of records, what does not differ between any two runs."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.name == "run.json":
            found[name] = None
        elif path.suffix == ".json":
            found[name] = plain(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            with path.open() as stream:
                found[name] = plain(list(csv.DictReader(stream)))
        elif path.is_file() and path.suffix != ".html":
            found[name] = path.read_bytes()
        else:
            found[name] = None
    return found


def tried(place: Path, work: Path, name: str, act: str, order: str) -> int:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    call = [sys.executable, __file__, name, act, str(work), order, str(place)]
    found = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout.splitlines()[-1])
    whole = content(work / "whole")
    for at, ((first, said), (second, again)) in report["answers"].items():
        where = f"{name} {act} at {at} of {report['count']}: {said} then {again}"
        assert first in ((DIED,) if act == "dies" else (0, 2)), where
        assert "unexpected" not in said, where
        assert first == 0 or act == "dies" or said.splitlines()[-1].startswith("bertft: "), where
        assert second == 0, where
        mended = content(work / at)
        assert mended.keys() == whole.keys(), f"{where}: {mended.keys() ^ whole.keys()}"
        assert {key for key in whole if whole[key] != mended[key]} == set(), where
        if (manifest := work / at / files.MANIFEST).exists():
            listed = json.loads(manifest.read_text())
            assert listed["complete"], where
            assert files.damage(work / at, listed["files"]) is None, where
    return int(report["count"])


pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]


@pytest.mark.parametrize("act", ["fails", "dies"])
@pytest.mark.parametrize("name", ["score", "tune"])
def test_a_few_faults(name: str, act: str, place: Path, tmp_path: Path) -> None:
    if name == "tune":
        pytest.importorskip("accelerate", reason="accelerate is not installed: pip install .[tune]")
    assert tried(place, tmp_path, name, act, "0.2,0.5,0.8") > 20


@pytest.mark.skipif(not EVERY, reason="BERTFT_FAULTS=all tries every operation, for an hour")
@pytest.mark.parametrize("act", ["fails", "dies"])
@pytest.mark.parametrize("name", ["score", "tune", "ablate", "structural", "edge", "mdl", "pretrain"])
def test_every_fault(name: str, act: str, place: Path, tmp_path: Path) -> None:
    count = tried(place, tmp_path, name, act, "all")
    print(f"{name} {act} at each of {count} file operations")
