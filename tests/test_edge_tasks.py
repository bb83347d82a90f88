"""Tasks made ready for probes: which sentences are drawn, which tasks share text, spans in pieces, control tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bertft.activations.subwords import SubwordRanges
from bertft.data import EdgeCorpus, EdgeRecord, Target, read_treebank
from bertft.data.edge import edge_bytes
from bertft.data.treebank_edges import edge_corpus
from bertft.errors import DataError, OptionError
from bertft.experiments.edge_tasks import TaskGroup, group_tasks, read_tasks


def record(text: str, *targets: tuple[tuple[int, int], tuple[int, int] | None, tuple[str, ...]]) -> EdgeRecord:
    return EdgeRecord(tuple(text.split()), tuple(Target(*target) for target in targets), {}, f"{text}:1")


def tags(text: str) -> EdgeRecord:
    """Every word labelled with its first letter."""
    return record(text, *(((place, place + 1), None, (word[0],)) for place, word in enumerate(text.split())))


def pairs(text: str) -> EdgeRecord:
    return record(text, ((0, 1), (0, len(text.split())), ("x", "y")), ((0, 1), (0, 1), ()))


TEXTS = [f"the {word} sat" for word in ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay")]
OTHERS = [f"a {word} fell" for word in ("star", "tree", "stone", "leaf")]


def corpus(name: str, make: object, train: list[str], dev: list[str]) -> EdgeCorpus:
    assert callable(make)
    return EdgeCorpus(name, {"train": tuple(map(make, train)), "dev": tuple(map(make, dev))}, name)


def test_tasks_on_one_text_are_one_group_whatever_their_order() -> None:
    tagged, paired = corpus("pos", tags, TEXTS[:8], TEXTS[8:]), corpus("rel", pairs, TEXTS[4:8], TEXTS[8:])
    apart = corpus("ner", tags, OTHERS, [*OTHERS[:1], TEXTS[0]])
    for given in ([tagged, apart, paired], [paired, tagged, apart], [apart, paired, tagged]):
        groups = {frozenset(group.tasks): group for group in group_tasks(given)}
        assert groups.keys() == {frozenset({"pos", "rel"}), frozenset({"ner"})}
        group = groups[frozenset({"pos", "rel"})]
        assert sorted(group.sentences) == sorted(tuple(text.split()) for text in TEXTS)


def test_arrays_hold_what_the_records_say() -> None:
    twice = corpus("pos", tags, [TEXTS[0], TEXTS[1], TEXTS[0]], [TEXTS[2]])
    (group,) = group_tasks([twice, corpus("rel", pairs, TEXTS[:2], [TEXTS[0]])])
    train, dev = group.tasks["pos"]["train"], group.tasks["pos"]["dev"]
    assert train.labels == dev.labels == ("a", "b", "c", "s", "t")
    assert train.sentence.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert [group.sentences[number][1] for number in (0, 1, *dev.sentences)] == ["ant", "bee", "cat"]
    assert train.span1.tolist() == [[0, 1], [1, 2], [2, 3]] * 3
    assert train.span2 is None
    assert [train.labels[column] for column in train.gold.argmax(axis=1)] == [*"tas", *"tbs", *"tas"]
    paired = group.tasks["rel"]["train"]
    assert paired.span2 is not None
    assert paired.span2.tolist() == [[0, 3], [0, 1]] * 2
    assert paired.gold.tolist() == [[True, True], [False, False]] * 2
    assert len(group.sentences) == 3


def test_draws_overlap_and_depend_on_the_seed_and_the_words_alone() -> None:
    tagged = corpus("pos", tags, TEXTS[:8], TEXTS[8:])
    paired = corpus("rel", pairs, TEXTS[7::-1], TEXTS[8:])
    (group,) = group_tasks([tagged, paired], sentences=3)
    (again,) = group_tasks([tagged], sentences=3)
    drawn = {name: {group.sentences[i] for i in splits["train"].sentences} for name, splits in group.tasks.items()}
    assert drawn["pos"] == drawn["rel"] == {again.sentences[i] for i in again.tasks["pos"]["train"].sentences}
    assert len(drawn["pos"]) == 3
    assert len(group.tasks["pos"]["dev"].sentences) == 2
    assert group.tasks["pos"]["train"].labels == ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "s", "t")
    seeds = [group_tasks([tagged], sentences=3, seed=seed)[0] for seed in range(5)]
    assert len({frozenset(group.sentences[i] for i in group.tasks["pos"]["train"].sentences) for group in seeds}) > 1
    assert len({group.content_hash for group in (*seeds, group_tasks([tagged])[0])}) == 6
    assert len(group_tasks([tagged], sentences=100)[0].tasks["pos"]["train"].sentences) == 8


def three_pieces_a_word(group: TaskGroup, kept: int) -> SubwordRanges:
    words = np.cumsum([0, *map(len, group.sentences)])
    ends = 3 * np.arange(words[-1] + 1)
    return SubwordRanges(words, ends, np.full(len(group.sentences), kept))


def test_spans_become_pieces_and_what_does_not_fit_is_counted() -> None:
    (group,) = group_tasks([corpus("pos", tags, TEXTS[:3], TEXTS[3:4]), corpus("rel", pairs, TEXTS[:3], TEXTS[3:4])])
    whole, notes = group.over_subwords(three_pieces_a_word(group, 9))
    assert notes == []
    assert whole["pos"]["train"].span1.tolist() == [[0, 3], [3, 6], [6, 9]] * 3
    cut, notes = group.over_subwords(three_pieces_a_word(group, 8))
    assert notes == [
        "pos, train: 3 of 9 targets do not fit and were left out",
        "pos, dev: 1 of 3 targets do not fit and were left out",
        "rel, train: 3 of 6 targets do not fit and were left out",
        "rel, dev: 1 of 2 targets do not fit and were left out",
    ]
    assert cut["pos"]["train"].span1.tolist() == [[0, 3], [3, 6]] * 3
    assert cut["rel"]["dev"].gold.tolist() == [[False, False]]
    with pytest.raises(DataError, match="pos, train: no target fits"):
        group.over_subwords(three_pieces_a_word(group, 2))


def test_tasks_that_cannot_be_arrays_are_refused() -> None:
    mixed = EdgeCorpus("x", {"train": (record("a b", ((0, 1), None, ()), ((0, 1), (1, 2), ())),)}, "x")
    with pytest.raises(DataError, match=r"a b:1: some targets of x have span2 and some do not"):
        group_tasks([mixed])
    with pytest.raises(DataError, match="x, dev: no targets; give records that have some"):
        group_tasks([EdgeCorpus("x", {"train": (tags("a b"),), "dev": (record("a b"),)}, "x")])


def test_tasks_without_a_label_are_refused() -> None:
    none = record("a b", ((0, 1), None, ()))
    with pytest.raises(DataError, match="spr: no target has a label"):
        group_tasks([EdgeCorpus("spr", {"train": (none,), "dev": (none,)}, "spr")])
    for split in ("train", "dev", "test"):
        splits = {name: (none if name == split else tags("a b"),) for name in ("train", "dev", "test")}
        with pytest.raises(DataError, match=f"spr, {split}: no target has a label"):
            group_tasks([EdgeCorpus("spr", splits, "spr")])


def test_tasks_are_read_from_their_folder_or_made_of_the_treebank(tmp_path: Path) -> None:
    (tmp_path / "edge" / "ner").mkdir(parents=True)
    for split in ("train", "dev"):
        (tmp_path / "edge" / "ner" / f"{split}.jsonl").write_bytes(edge_bytes([tags(TEXTS[0])]))
    bank = tmp_path / "en_x-ud-train.conllu"
    bank.write_text("1\tRain\train\tNOUN\tNN\t_\t0\troot\t_\t_\n\n")
    found = read_tasks(["ner", "pos", "ner", "dep"], tmp_path / "edge", bank, tags="upos")
    assert [task.name for task in found] == ["ner", "pos", "dep"]
    assert found[1].splits == edge_corpus(read_treebank(bank), "pos", tags="upos").splits
    for names, data, treebank, said in (
        (["pos"], tmp_path / "edge", None, r"task pos: no folder .*pos; give a treebank to derive it from"),
        (["srl"], tmp_path / "edge", bank, r"task srl: no folder .*srl; .*edge has the tasks ner"),
        (["srl"], None, bank, "task srl: no folder srl; give the folder above those of the tasks"),
    ):
        with pytest.raises(DataError, match=said):
            read_tasks(names, data, treebank)
    with pytest.raises(OptionError, match="no task was named"):
        read_tasks([])


def test_the_real_tasks_fall_into_three_texts(data_dir: Path) -> None:
    names = ["pos", "dep", "const", "ner", "srl", "coref", "spr", "rel"]
    groups = group_tasks(read_tasks(names, data_dir / "edge", data_dir / "ud_ewt"), sentences=2000)
    assert [sorted(group.tasks) for group in groups] == [
        ["const", "dep", "pos", "spr", "srl"],
        ["coref", "ner"],
        ["rel"],
    ]
    for group in groups:
        assert all(len(splits["train"].sentences) <= 2000 for splits in group.tasks.values())
    ewt = groups[0].tasks
    shared = set(ewt["pos"]["train"].sentences) & set(ewt["dep"]["train"].sentences)
    assert len(shared) == 2000
