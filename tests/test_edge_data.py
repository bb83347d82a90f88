"""Edge-probing records: what is read, what is refused and how, and treebanks converted by the rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bertft import cli
from bertft.data import (
    EdgeRecord,
    Target,
    Treebank,
    dep_records,
    pos_records,
    read_edge_corpus,
    read_edge_records,
    read_treebank,
)
from bertft.data.edge import edge_bytes
from bertft.data.treebank_edges import edge_corpus, released
from bertft.errors import DataError, OptionError

RECORD: dict[str, Any] = {
    "text": "It has rained , café",
    "targets": [
        {"span1": [1, 3], "label": "VP"},
        {"span1": [0, 1], "span2": [1, 3], "label": ["a", "b"]},
        {"span1": [0, 1], "span2": [1, 3], "label": []},
    ],
    "info": {"id": 7},
}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The record with another value at some path; ... deletes the field."""
    record = json.loads(json.dumps(RECORD))
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return dict(record)


def test_records_are_read_and_written_back(tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_text(json.dumps(RECORD) + "\n\n" + json.dumps(changed("info", to=...)) + "\n")
    first, second = records = read_edge_records(path)
    assert first == EdgeRecord(
        words=("It", "has", "rained", ",", "café"),
        targets=(
            Target((1, 3), None, ("VP",)),
            Target((0, 1), (1, 3), ("a", "b")),
            Target((0, 1), (1, 3), ()),
        ),
        info={"id": 7},
        where="dev.jsonl:1",
    )
    assert (second.where, second.info) == ("dev.jsonl:3", {})
    written = edge_bytes(records)
    assert [json.loads(line) for line in written.splitlines()] == [RECORD, changed("info", to={})]
    (tmp_path / "again.jsonl").write_bytes(written)
    assert edge_bytes(read_edge_records(tmp_path / "again.jsonl")) == written


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (changed("text", to=...), "text is missing; expected a string of words"),
        (changed("text", to=["It"]), "text is ['It']; expected a string of words"),
        (changed("text", to=""), "text has the word ''"),
        (changed("text", to="It  has rained , café"), "text has the word ''"),
        (changed("text", to="It has rained , café "), "text has the word ''"),
        (changed("targets", to=...), "targets is missing; expected a list of objects"),
        (changed("targets", to={}), "targets is {}; expected a list of objects"),
        (changed("targets", 1, to=3), "targets[1] is 3; expected an object with span1, span2 and label"),
        (changed("targets", 0, "label", to=...), "targets[0].label is missing; expected a string or a list of strings"),
        (changed("targets", 0, "label", to=1), "targets[0].label is 1; expected a string"),
        (changed("targets", 0, "label", to=[1]), "targets[0].label is [1]; expected a string"),
        (changed("targets", 0, "label", to=""), "targets[0].label is ''; expected a string"),
        (changed("targets", 0, "span1", to=...), "targets[0].span1 is missing; expected two whole numbers"),
        (changed("targets", 2, "span1", to=[1]), "targets[2].span1 is [1]; expected two whole numbers"),
        (changed("targets", 2, "span1", to=[0.0, 1.0]), "targets[2].span1 is [0.0, 1.0]; expected two whole numbers"),
        (changed("targets", 2, "span1", to=[True, 2]), "targets[2].span1 is [True, 2]; expected two whole numbers"),
        (changed("targets", 1, "span2", to=[2, 2]), "targets[1].span2 is [2, 2]; a span of 5 words is [start, end)"),
        (changed("targets", 1, "span2", to=[3, 2]), "targets[1].span2 is [3, 2]; a span of 5 words"),
        (changed("targets", 1, "span2", to=[-1, 2]), "targets[1].span2 is [-1, 2]; a span of 5 words"),
        (changed("targets", 1, "span1", to=[4, 6]), "with 0 <= start < end <= 5"),
        (changed("info", to="x"), "info is 'x'; expected an object"),
        ([1], "expected a JSON object with text and targets"),
    ],
)
def test_bad_records_are_refused_naming_file_line_and_field(record: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(RECORD) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(DataError) as caught:
        read_edge_records(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{\n", r"train\.jsonl:1: expected one edge-probing record as JSON on each line"),
        ("", "the file is empty; give edge-probing records"),
        ("\x1f\x8b", "gunzip|not UTF-8"),
    ],
)
def test_files_that_are_none_are_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=said):
        read_edge_records(tmp_path / "train.jsonl")


def test_a_corpus_is_the_splits_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder; give the folder of a task"):
        read_edge_corpus(tmp_path / "pos")
    (tmp_path / "pos").mkdir()
    for split, count in {"dev": 1, "train": 2}.items():
        with pytest.raises(DataError, match=r"has no train\.jsonl"):
            read_edge_corpus(tmp_path / "pos")
        (tmp_path / "pos" / f"{split}.jsonl").write_text((json.dumps(RECORD) + "\n") * count)
    corpus = read_edge_corpus(tmp_path / "pos")
    assert corpus.name == "pos"
    assert {split: len(records) for split, records in corpus.splits.items()} == {"train": 2, "dev": 1}


def test_records_made_by_hand_are_checked() -> None:
    with pytest.raises(DataError, match=r"here: text has the word 'a b'"):
        EdgeRecord(("a b",), (), {}, "here")
    with pytest.raises(DataError, match=r"here: targets\[0\].span1 is \[0, 2\]; a span of 1 words"):
        EdgeRecord(("a",), (Target((0, 2), None, ()),), {}, "here")


# Two files of a split, a word with a space, a range, an empty node, a subtype.
FIRST = """\
# sent_id = a
1\tIl\til\tPRON\tPP\t_\t2\tnsubj\t_\t_
2\ta\tavoir\tVERB\tVB\t_\t0\troot\t_\t_
3\t10 000\t10000\tNUM\tCD\t_\t2\tobj:num\t_\t_

# sent_id = b
1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_
1\tde\tde\tADP\tIN\t_\t2\tcase\t_\t_
2\tle\tle\tDET\tDT\t_\t0\troot\t_\t_
2.1\tx\tx\tX\tX\t_\t_\t_\t_\t_

# sent_id = c
1\tOui\toui\tINTJ\tUH\t_\t0\troot\t_\t_

"""
SECOND = """\
# sent_id = d
1\tNon\tnon\tINTJ\t_\t_\t0\troot\t_\t_

# sent_id = e
1\tOui\toui\tINTJ\tUH\t_\t0\troot\t_\t_

"""


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    folder = tmp_path / "bank"
    folder.mkdir()
    (folder / "fr_x-ud-train-a.conllu").write_text(FIRST)
    (folder / "fr_x-ud-train-b.conllu").write_text(SECOND)
    return folder


def test_conversion_by_hand(bank: Path) -> None:
    trees = read_treebank(bank).split("train")
    first, second, *_ = dep_records(trees, source="UD")
    assert first.words == ("Il", "a", "10\N{NO-BREAK SPACE}000")
    assert first.targets == (
        Target((0, 1), (1, 2), ("nsubj",)),
        Target((1, 2), (1, 2), ("root",)),
        Target((2, 3), (1, 2), ("obj:num",)),
    )
    assert first.info == {"source": "UD", "sent_id": "a"}
    assert second.words == ("de", "le")
    tagged = pos_records(trees, "upos")
    assert [target.labels for target in tagged[0].targets] == [("PRON",), ("VERB",), ("NUM",)]
    assert all(target.span2 is None for record in tagged for target in record.targets)
    with pytest.raises(DataError, match=r"sentence d: word 1 \(Non\) has no xpos tag; use the tags upos instead"):
        pos_records(trees)
    with pytest.raises(OptionError, match="unknown tags 'feats'; choose one of xpos, upos"):
        pos_records(trees, "feats")
    with pytest.raises(OptionError, match="unknown task 'ner' of a treebank; choose one of pos, dep"):
        edge_corpus(read_treebank(bank), "ner")
    assert [tree.sentence_id for tree in released(trees)] == ["a", "d"]


def test_the_command_writes_what_can_be_read(bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bank / "fr_x-ud-dev.conllu").write_text(FIRST)
    out = tmp_path / "edge"
    fixed = ["data", "edge", "--treebank", str(bank), "--output-dir", str(out), "--task"]
    assert cli.main([*fixed, "pos", "dep", "--tags", "upos"]) == 0
    assert "dep: 8 sentences, 14 targets. Wrote train.jsonl, dev.jsonl" in capsys.readouterr().err
    for task in ("pos", "dep"):
        corpus, again = read_edge_corpus(out / task), edge_corpus(read_treebank(bank), task, tags="upos")
        for split in ("train", "dev"):
            assert edge_bytes(corpus.splits[split]) == edge_bytes(again.splits[split])
    assert cli.main([*fixed, "dep", "--as-released"]) == 0
    assert {s: len(r) for s, r in read_edge_corpus(out / "dep").splits.items()} == {"train": 2, "dev": 1}


def test_the_command_leaves_nothing_half_written(
    bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "data",
        "edge",
        "--treebank",
        str(bank),
        "--output-dir",
        str(tmp_path / "edge"),
        "--task",
        "dep",
        "pos",
    ]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "edge").exists()


def plain_sentences(path: Path) -> Iterator[list[list[str]]]:
    """The token lines of each sentence, as the released converter groups them, its last sentence kept."""
    rows: list[list[str]] = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line and not line.startswith("#"):
            rows.append(line.split("\t"))
        elif not line and rows:
            yield rows
            rows = []


def restated(rows: list[list[str]], task: str) -> dict[str, Any]:
    """Text and targets by the rules: ids are places, a head of 0 is the word itself, ranges and empty nodes are out."""
    words = [row for row in rows if "-" not in row[0] and "." not in row[0]]
    targets = []
    for row in words:
        here, head = int(row[0]), int(row[6])
        if task == "pos":
            targets.append({"span1": [here - 1, here], "label": row[4]})
        else:
            head = here if head == 0 else head
            targets.append({"span1": [here - 1, here], "span2": [head - 1, head], "label": row[7]})
    return {"text": " ".join(row[1] for row in words), "targets": targets}


@pytest.fixture(scope="module")
def ewt(data_dir: Path) -> Treebank:
    return read_treebank(data_dir / "ud_ewt")


@pytest.mark.parametrize("task", ["pos", "dep"])
def test_all_of_ewt_equals_the_rules(task: str, ewt: Treebank, data_dir: Path) -> None:
    every, fewer = edge_corpus(ewt, task), edge_corpus(ewt, task, as_released=True)
    sizes, small = {}, {}
    for split, records in every.splits.items():
        found = [json.loads(line) for line in edge_bytes(records).splitlines()]
        rows = list(plain_sentences(data_dir / "ud_ewt" / f"en_ewt-ud-{split}.conllu"))
        sizes[split] = len(found)
        for record, of_sentence in zip(found, rows, strict=True):
            assert {"text": record["text"], "targets": record["targets"]} == restated(of_sentence, task)
        kept = [of_sentence for of_sentence in rows[:-1] if not any("." in row[0] for row in of_sentence)]
        small[split] = len(kept)
        for made, of_sentence in zip(fewer.splits[split], kept, strict=True):
            assert " ".join(made.words) == restated(of_sentence, task)["text"]
    assert sizes == {"train": 12_544, "dev": 2_001, "test": 2_077}
    assert sum(sizes.values()) == 16_622
    assert {split: len(records) for split, records in fewer.splits.items()} == small
    assert all(small[split] < sizes[split] for split in sizes)


@pytest.mark.parametrize("task", ["const", "srl", "spr", "ner", "coref", "rel"])
def test_the_published_records_read_whole(task: str, data_dir: Path) -> None:
    corpus = read_edge_corpus(data_dir / "edge" / task)
    for split, records in corpus.splits.items():
        lines = (data_dir / "edge" / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        again = [json.loads(line) for line in edge_bytes(records).splitlines()]
        for written, line in zip(again, lines, strict=True):
            given = json.loads(line)
            for target in given["targets"]:
                if isinstance(target["label"], list) and len(target["label"]) == 1:
                    target["label"] = target["label"][0]
            assert written == given
