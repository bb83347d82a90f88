"""The readers: what each format gives, on small files and on the real ones, and what each refuses."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest
from tiny import MNLI, SQUAD

from bertft.data import (
    Corpus,
    Example,
    corpus_from_texts,
    read_corpus,
    read_edge_corpus,
    read_edge_records,
    read_treebank,
)
from bertft.data.conllu import parse_row, read_sentences, surface_tokens
from bertft.data.mnli import read_pairs
from bertft.data.squad import read_questions
from bertft.data.text_file import read_text_file
from bertft.data.treebank import read_split
from bertft.errors import DataError


def row(number: str, form: str, misc: str = "_") -> str:
    return f"{number}\t{form}\t{form.lower()}\tX\tX\t_\t0\troot\t_\t{misc}"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(corpus: Corpus) -> list[str]:
    return [example.text for example in corpus.examples]


def test_plain_text_is_one_sentence_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "rain.txt", "\ufeffIt rains.\r\n\r\n  \n It pours.\u2028Still. \n")
    corpus = read_corpus(path)
    assert corpus.name == "rain.txt"
    assert corpus.examples == (
        Example("It rains.", None, "rain.txt:1"),
        Example("It pours.\u2028Still.", None, "rain.txt:4"),  # a Unicode line separator does not end a line
    )
    assert corpus.content_hash == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["rain", "rain.md", "rain.TXT", "rain.tokens"])
def test_an_unknown_suffix_reads_as_plain_text(tmp_path: Path, name: str) -> None:
    assert texts(read_corpus(str(write(tmp_path / name, "Über {all} 雨\n")))) == ["Über {all} 雨"]


def test_conllu_prefers_the_text_comment(tmp_path: Path) -> None:
    lines = ["# sent_id = a", "# text = It rains .", row("1", "It"), row("2", "rains"), row("3", "."), "", ""]
    corpus = read_corpus(write(tmp_path / "rain.conllu", "\n".join(lines)))
    assert corpus.examples == (Example("It rains .", None, "rain.conllu:1"),)


def test_conllu_joins_forms_as_space_after_says(tmp_path: Path) -> None:
    lines = [
        *("# text_en = not this", row("1", "It"), row("2", "rains", "Gloss=x|SpaceAfter=No"), row("3", "!"), ""),
        *(row("1-2", "don't", "SpaceAfter=No"), row("1", "do"), row("2", "n't"), row("2.1", "go"), row("3", "...")),
    ]
    corpus = read_corpus(write(tmp_path / "rain.conllu", "\n".join(lines)))  # no blank line at the end
    assert texts(corpus) == ["It rains!", "don't..."]
    assert [example.where for example in corpus.examples] == ["rain.conllu:1", "rain.conllu:6"]


def test_conllu_rows_keep_ranges_and_empty_nodes(tmp_path: Path) -> None:
    lines = [row("1-2", "au"), row("1", "à"), row("2", "le"), row("2.1", "temps"), row("3", "soir"), ""]
    (sentence,) = read_sentences(read_text_file(write(tmp_path / "soir.conllu", "\n".join(lines))))
    assert [(r.id, r.is_range, r.is_word, r.is_empty) for r in sentence.rows] == [
        ("1-2", True, False, False),
        ("1", False, True, False),
        ("2", False, True, False),
        ("2.1", False, False, True),
        ("3", False, True, False),
    ]
    assert [r.form for r in surface_tokens(sentence.rows)] == ["au", "soir"]
    assert parse_row(lines[0]) == sentence.rows[0]


@pytest.mark.parametrize(("single", "pair"), [(False, "It rains."), (True, None)])
def test_mnli_pairs(tmp_path: Path, single: bool, pair: str | None) -> None:
    path = write(tmp_path / "dev.jsonl", f"{json.dumps(MNLI)}\n\n{json.dumps(MNLI)}\n")
    corpus = read_corpus(path, single=single)
    assert corpus.examples == (Example("It pours.", pair, "dev.jsonl:1"), Example("It pours.", pair, "dev.jsonl:3"))


@pytest.mark.parametrize(("single", "pair"), [(False, "Rain falls from clouds."), (True, None)])
def test_squad_gives_an_example_a_question(tmp_path: Path, single: bool, pair: str | None) -> None:
    corpus = read_corpus(write(tmp_path / "dev.json", json.dumps(SQUAD, indent=1)), single=single)
    assert corpus.examples == (
        Example("What falls?", pair, "dev.json: question q1"),
        Example("From what?", pair, "dev.json: question q2"),
    )


def test_texts_in_memory() -> None:
    corpus = corpus_from_texts(["It rains.", ("It pours.", "It rains.")], name="rain")
    assert corpus.name == "rain"
    assert corpus.examples == (Example("It rains.", None, "rain[0]"), Example("It pours.", "It rains.", "rain[1]"))
    assert corpus == corpus_from_texts((text for text in ["It rains.", ("It pours.", "It rains.")]), name="rain")


def test_the_hash_of_texts_tells_where_one_ends() -> None:
    variants = [["ab", "c"], ["a", "bc"], ["abc"], [("ab", "c")], [("a", "bc")], ["c", "ab"]]
    assert len({corpus_from_texts(variant).content_hash for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    ("file", "count", "first", "paired"),
    [
        ("wiki/sentences.txt", 12369, "Zoe Telford -- played the police officer", False),
        ("mnli/dev.jsonl", 1500, "The Garden Island is lush", True),
        ("squad/dev.json", 1365, "Which name is also used to describe the Amazon", True),
        ("ud_ewt/en_ewt-ud-dev.conllu", 2001, "From the AP comes this story :", False),
    ],
)
def test_real_files(data_dir: Path, file: str, count: int, first: str, paired: bool) -> None:
    corpus = read_corpus(data_dir / file)
    assert len(corpus.examples) == count
    assert corpus.examples[0].text.startswith(first)
    assert all((example.pair is not None) == paired for example in corpus.examples)
    assert len({example.where for example in corpus.examples}) == count


def test_joined_forms_are_the_real_text(data_dir: Path) -> None:
    sentences = list(read_sentences(read_text_file(data_dir / "ud_ewt/en_ewt-ud-dev.conllu")))
    joined = ["".join(r.form + r.space_after for r in surface_tokens(s.rows)).strip() for s in sentences]
    assert joined == [sentence.text for sentence in sentences]


def refused(path: Path, *needles: str) -> None:
    """Reading `path` fails with one line that names the file and holds every needle."""
    with pytest.raises(DataError) as caught:
        read_corpus(path)
    message = str(caught.value)
    assert "\n" not in message
    for needle in (str(path), *needles):
        assert needle in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "rain.txt", "no such file", "one sentence a line")
    refused(tmp_path, "a folder, not a file")
    refused(tmp_path / ("long" * 200), "cannot be read")


@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
@pytest.mark.parametrize("suffix", ["txt", "conllu", "jsonl", "json"])
def test_an_empty_file(tmp_path: Path, suffix: str, content: bytes) -> None:
    refused(write(tmp_path / f"rain.{suffix}", content), "empty")


@pytest.mark.parametrize(
    ("content", "needles"),
    [
        ("It rains.\nÜber\n".encode("latin-1"), (":2:", "not UTF-8", "0xdc", "offset 10", "iconv")),
        ("It rains.".encode("utf-16"), ("UTF-16",)),
        (b"\x1f\x8b\x08\x00rain", ("gzip", "gunzip")),
        (b"PK\x03\x04rain", ("zip",)),
        (b"It rains.\n\nIt\0pours", (":3:", "NUL", "offset 13")),
    ],
)
def test_a_file_that_is_not_text(tmp_path: Path, content: bytes, needles: tuple[str, ...]) -> None:
    refused(write(tmp_path / "rain.txt", content), *needles)


@pytest.mark.parametrize(
    ("content", "needle"),
    [
        (f"\n{row('1', 'It')}\n", "give the file the suffix .conllu"),
        ("# sent_id = 1\n", "give the file the suffix .conllu"),
        (json.dumps(MNLI), ".jsonl"),
        ("index\tsentence1\tsentence2\n0\ta\tb\n", "tab-separated"),
    ],
)
def test_plain_text_that_is_another_format(tmp_path: Path, content: str, needle: str) -> None:
    refused(write(tmp_path / "rain.txt", content), "expected one sentence a line", needle)


@pytest.mark.parametrize(
    ("lines", "needles"),
    [
        (["It rains."], (":1:", "10 columns", "got 1")),
        ([row("1", "It"), row("2", "rains") + "\textra"], (":2:", "got 11")),
        ([row("1", "It"), row("x", "rains")], (":2:", "word number", "'x'")),
        ([row("1", "It"), row("3", "rains")], (":2:", "expected word 2", "3")),
        ([row("1", "It"), row("1", "Rain")], (":2:", "expected word 2", "blank line")),
        ([row("1", "It"), "# text = Rain"], (":2:", "comment")),
        ([row("1", "It"), row("3.1", "rains")], (":2:", "empty node 3.1")),
        ([row("2-3", "It")], (":1:", "expected word 1")),
        ([row("1-0", "It")], (":1:", "ends before it begins")),
        ([row("1", "")], (":1:", "no form")),
        (["# text = It rains.", "", row("1", "It")], (":2:", "token line")),
        (["# text = It rains."], (":2:", "token line")),
    ],
)
def test_malformed_conllu(tmp_path: Path, lines: list[str], needles: tuple[str, ...]) -> None:
    refused(write(tmp_path / "rain.conllu", "\n".join(lines)), *needles)


@pytest.mark.parametrize(
    ("content", "needles"),
    [
        ("It rains.\n", (":1:", "MNLI", "It rains.", ".txt")),
        (json.dumps(MNLI) + "\n[1]\n", (":2:", "JSON object")),
        (json.dumps({"text": "It rains.", "targets": []}), (":1:", "sentence1", "text, targets")),
        (json.dumps(MNLI) + "\n" + json.dumps(MNLI | {"sentence2": None}), (":2:", "None in sentence2")),
        (json.dumps(MNLI)[:-5], (":1:",)),
        ("{}", (":1:", "(none)")),
    ],
)
def test_json_lines_that_are_not_mnli(tmp_path: Path, content: str, needles: tuple[str, ...]) -> None:
    refused(write(tmp_path / "dev.jsonl", content), *needles)


@pytest.mark.parametrize(
    ("content", "needles"),
    [
        (f"{json.dumps(MNLI)}\n{json.dumps(MNLI)}\n", (":2:", ".jsonl")),
        (json.dumps(SQUAD, indent=1)[:-20], ("SQuAD", "truncated")),
        ("[1]", ("the document", "list data", "[1]")),
        (json.dumps(MNLI), ("the document", "list data", "sentence1")),
        ('{"data": [{"title": "Rain"}]}', ("data[0]", "list paragraphs", "title")),
        ('{"data": [{"paragraphs": ["x"]}]}', ("data[0].paragraphs[0]", "an object")),
        ('{"data": [{"paragraphs": [{"context": 1, "qas": []}]}]}', ("data[0].paragraphs[0]", "string context")),
        ('{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 1}]}]}]}', ("qas[0]", "string question")),
        ('{"data": []}', ("no text",)),
    ],
)
def test_json_that_is_not_squad(tmp_path: Path, content: str, needles: tuple[str, ...]) -> None:
    refused(write(tmp_path / "dev.json", content), *needles)


@pytest.mark.parametrize(
    ("record", "needle"),
    [(MNLI | {"sentence1": " "}, "blank"), (MNLI | {"sentence2": "rain \ud83d"}, "character 5")],
)
def test_text_that_no_tokenizer_takes(tmp_path: Path, record: dict[str, str], needle: str) -> None:
    path = write(tmp_path / "dev.jsonl", f"{json.dumps(MNLI)}\n{json.dumps(record)}\n")
    with pytest.raises(DataError, match=f"dev.jsonl:2: .*{needle}"):
        read_corpus(path)


@pytest.mark.parametrize(
    ("given", "needle"),
    [
        ("It rains.", "one string"),
        ([], "no texts"),
        (["It rains.", ""], r"texts\[1\].*blank"),
        (["It rains.", 7], r"texts\[1\].*got 7"),
        ([("a", "b", "c")], r"texts\[0\].*pair"),
        ([("a", None)], r"texts\[0\].*pair"),
    ],
)
def test_texts_that_are_none(given: list[str], needle: str) -> None:
    with pytest.raises(DataError, match=needle):
        corpus_from_texts(given)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("deep.json", "[" * 100_000, "too deeply nested"),
        ("deep.jsonl", "[" * 100_000, "expected one MNLI record"),
        ("pretty.txt", '{\n  "a": "b c"\n}\n', "got JSON"),
        ("list.txt", '["a b",\n "c d"]\n', "got JSON"),
        ("table.csv", "text,label\nIt rains.,1\n", r"a table, by its suffix \(\.csv\)"),
    ],
)
def test_text_of_another_format_is_not_read_as_language(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_corpus(tmp_path / name)


def test_a_sentence_in_brackets_is_a_sentence(tmp_path):
    (tmp_path / "stage.txt").write_text("[Enter a ghost.]\n{Exit.}\n")
    assert [example.text for example in read_corpus(tmp_path / "stage.txt").examples] == ["[Enter a ghost.]", "{Exit.}"]


# ---------------------------------------------------------------------------------------------- limits of the readers

LONG = "1" * 4301


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.conllu", f"{LONG}\tw\t_\t_\t_\t_\t0\troot\t_\t_\n\n", 1),
        ("a.conllu", f"1-{LONG}\tw\t_\t_\t_\t_\t0\troot\t_\t_\n\n", 1),
        ("a.conllu", f"1.{LONG}\tw\t_\t_\t_\t_\t0\troot\t_\t_\n\n", 1),
        ("b.conllu", f"# text = w\n1\tw\t_\t_\t_\t_\t{LONG}\troot\t_\t_\n\n", 2),
        ("c.json", f'{{"data":\n {LONG}}}', 2),
        ("c.json", f'{{"data": [{{"paragraphs": [{{"context": "a", "qas": [{{"id": -{LONG}}}]}}]}}]}}', 1),
        ("d.jsonl", f"{json.dumps(MNLI)}\n{LONG}\n", 2),
        ("d.jsonl", f'{{"sentence1": {LONG}}}\n', 1),
    ],
)
def test_numbers_of_too_many_digits(tmp_path: Path, name: str, content: str, line: int) -> None:
    path = write(tmp_path / name, content)
    read = read_treebank if name == "b.conllu" else read_corpus
    with pytest.raises(DataError, match=f"{name}:{line}: ") as caught:
        read(path)
    assert len(str(caught.value)) < 600


def test_edge_records_with_numbers_of_too_many_digits(tmp_path: Path) -> None:
    record = '{"text": "a b", "targets": [{"span1": [0, %s], "label": "x"}]}'
    path = write(tmp_path / "dev.jsonl", f"{record % 1}\n{record % LONG}\n")
    with pytest.raises(DataError, match=r"dev\.jsonl:2: .*too many digits"):
        read_edge_records(path)
    path = write(tmp_path / "dev.jsonl", record % ("1" * 4000))
    with pytest.raises(DataError, match=r"dev\.jsonl:1: targets\[0\]\.span1 is \[0, 1{20}\]"):
        read_edge_records(path)


@pytest.mark.parametrize("depth", [900, 950, 970, 980, 990, 1000, 5000])
@pytest.mark.parametrize("name", ["deep.json", "deep.jsonl", "deep.txt", "edge.jsonl"])
def test_nested_values_are_refused_at_every_depth(tmp_path: Path, name: str, depth: int) -> None:
    """Just below the depth that the parser refuses, the value must not break the message."""
    nested = "[" * depth + "]" * depth
    content = {
        "deep.json": f'{{"data": {nested}}}',
        "deep.jsonl": f'{{"sentence1": {nested}}}',
        "edge.jsonl": f'{{"text": {nested}}}',
    }
    path = write(tmp_path / name, content.get(name, nested))
    with pytest.raises(DataError) as caught:
        (read_edge_records if name == "edge.jsonl" else read_corpus)(path)
    assert len(str(caught.value)) < 600


def test_json_lines_of_another_release(tmp_path: Path) -> None:
    mrqa = '{"header": {"dataset": "HotpotQA"}}\n{"id": "", "context": "It rains.", "qas": []}\n'
    with pytest.raises(
        DataError, match=r"got JSON lines, as those of MRQA; give one document in the form of SQuAD v1.1"
    ):
        read_questions(str(write(tmp_path / "mrqa.jsonl", mrqa)))
    with pytest.raises(DataError, match="got JSON lines; give one document"):
        read_questions(str(write(tmp_path / "other.jsonl", '{"a": 1}\n{"b": 2}\n')))
    with pytest.raises(DataError, match="'Extra data'; is the file truncated or damaged"):
        read_questions(str(write(tmp_path / "other.json", "[1]\n[2]\n")))


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="without pipes that have names")
def test_pipes_are_read_and_devices_are_not(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("It rains.\n",))
    writer.start()
    assert [example.text for example in read_corpus(pipe).examples] == ["It rains."]
    writer.join()
    for device in ("/dev/zero", "/dev/urandom"):
        with pytest.raises(DataError, match=f"{device}: cannot be read \\(a device, not a file"):
            read_corpus(device)
    os.rename(pipe, tmp_path / "x-ud-dev.conllu")
    with pytest.raises(DataError, match=r"x-ud-dev\.conllu: a folder, a pipe or a device"):
        read_treebank(tmp_path)


@pytest.mark.parametrize("source", ["n" * 300, "/" + "n" * 300, "~nosuchuser/x", "a\0b"])
def test_paths_that_the_system_refuses(source: str) -> None:
    for read in (read_corpus, read_treebank, read_edge_records, read_questions, read_pairs, read_split):
        with pytest.raises(DataError, match=r"cannot be read|no such file"):
            read(source)
    with pytest.raises(DataError, match=r"cannot be read|is not a folder"):
        read_edge_corpus(source)


def test_pairs_without_any_label(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.jsonl", f"{json.dumps(MNLI | {'gold_label': '-'})}\n" * 3)
    with pytest.raises(DataError, match=r"dev\.jsonl: no pair has a gold label \(3 have '-'.*give labelled pairs"):
        read_pairs(str(path))
    assert len(read_corpus(path).examples) == 3


def test_half_a_surrogate_pair_in_edge_records(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.jsonl", '{"text": "a \\ud800", "targets": []}')
    with pytest.raises(DataError, match=r"dev\.jsonl:1: text has half of a surrogate pair"):
        read_edge_records(path)
