"""Trees from CoNLL-U: heads, path lengths and depths, the reference's reading of ranges, and what is refused."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertft.data import Tree, read_treebank
from bertft.errors import DataError


def row(number: str, form: str, head: str | int, relation: str = "dep", upos: str = "X", xpos: str = "XX") -> str:
    return f"{number}\t{form}\t{form}\t{upos}\t{xpos}\t_\t{head}\t{relation}\t_\t_"


def write(path: Path, *sentences: list[str]) -> Path:
    path.write_text("\n\n".join("\n".join(sentence) for sentence in sentences) + "\n\n")
    return path


def tree(*heads: int) -> Tree:
    n = len(heads)
    return Tree("made", "made:1", ("w",) * n, ("X",) * n, ("XX",) * n, heads, ("dep",) * n)


# Les chats "du" voisin dorment, with an empty node; du stands for de le.
RANGES = [
    "# sent_id = cats-1",
    "# text = Chats du voisin dorment",
    row("1", "Chats", 5, "nsubj", "NOUN", "NN"),
    row("2-3", "du", "_", "_", "_", "_"),
    row("2", "de", 4, "case"),
    row("3", "le", 4, "det"),
    row("4", "voisin", 1, "nmod"),
    row("5", "dorment", 0, "root", "VERB", "VB"),
    row("5.1", "ici", "_", "_"),
]


def test_a_tree_is_the_words_and_their_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "cats.conllu", RANGES, [row("1", "Rain", 0, "root")])
    treebank = read_treebank(path)
    assert treebank.name == "cats"
    first, second = treebank.split("all")
    assert first == Tree(
        sentence_id="cats-1",
        where="cats.conllu:1",
        forms=("Chats", "de", "le", "voisin", "dorment"),
        upos=("NOUN", "X", "X", "X", "VERB"),
        xpos=("NN", "XX", "XX", "XX", "VB"),
        heads=(5, 4, 4, 1, 0),
        relations=("nsubj", "case", "det", "nmod", "root"),
        empty_nodes=1,
    )
    assert (second.sentence_id, second.where, len(second)) == ("cats.conllu:11", "cats.conllu:11", 1)


def test_depths_and_distances_by_hand() -> None:
    # dorment -> Chats -> voisin -> de, le
    cats = tree(5, 4, 4, 1, 0)
    assert cats.depths().tolist() == [1, 3, 3, 2, 0]
    assert cats.distances().tolist() == [
        [0, 2, 2, 1, 1],
        [2, 0, 2, 1, 3],
        [2, 2, 0, 1, 3],
        [1, 1, 1, 0, 2],
        [1, 3, 3, 2, 0],
    ]
    assert cats.depths().dtype == cats.distances().dtype == np.int16
    assert tree(0).distances().tolist() == [[0]]


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A random tree: words in random order, each hanging from the root word or from one that was placed before it."""
    order = draw(st.permutations(range(1, draw(st.integers(1, 14)) + 1)))
    heads = [0] * len(order)
    for place, word in enumerate(order[1:], start=1):
        heads[word - 1] = order[draw(st.integers(0, place - 1))]
    return tree(*heads)


@given(trees())
def test_distances_are_those_of_a_breadth_first_search(made: Tree) -> None:
    neighbours: dict[int, set[int]] = {word: set() for word in range(1, len(made) + 1)}
    for word, head in enumerate(made.heads, start=1):
        if head:
            neighbours[word].add(head)
            neighbours[head].add(word)
    for start in neighbours:
        steps, queue = {start: 0}, deque([start])
        while queue:
            word = queue.popleft()
            for near in neighbours[word] - steps.keys():
                steps[near] = steps[word] + 1
                queue.append(near)
        assert made.distances()[start - 1].tolist() == [steps[word] for word in neighbours]
    root = made.heads.index(0)
    assert made.depths().tolist() == made.distances()[root].tolist()


def test_kept_ranges_hang_from_the_root_and_shift_later_heads(tmp_path: Path) -> None:
    path = write(
        tmp_path / "cats.conllu",
        ["# sent_id = a", row("1", "x", 2), row("2", "y", 0, "root"), row("2.1", "e", "_"), row("3", "z", 2)],
    )
    assert read_treebank(path).split("all")[0].heads == (2, 0, 2)
    (kept,) = read_treebank(path, keep_ranges=True).split("all")
    assert kept.forms == ("x", "y", "e", "z")
    assert kept.heads == (2, 0, 0, 3)  # z: 2 and one row without a head before it
    assert kept.depths().tolist() == [1, 0, 0, 1]
    # As the reference: a path between the two trees leads through the root.
    assert kept.distances().tolist() == [[0, 1, 3, 4], [1, 0, 2, 3], [3, 2, 0, 1], [4, 3, 1, 0]]


def test_kept_ranges_that_close_a_circle_are_refused(tmp_path: Path) -> None:
    # The head of the root is shifted too, to row 1: the reference's code never ends on such a sentence.
    rows = ["# sent_id = a", row("1", "x", 3), row("2-3", "yz", "_"), row("2", "y", 0, "root"), row("3", "z", 2)]
    path = write(tmp_path / "cats.conllu", rows)
    assert read_treebank(path).split("all")[0].depths().tolist() == [2, 0, 1]
    with pytest.raises(DataError, match=r"cats\.conllu:2: sentence a: .*1 → 3 → 1.*keep_ranges.* without it"):
        read_treebank(path, keep_ranges=True)


def test_a_folder_has_splits(tmp_path: Path) -> None:
    for split, words in (("train-b", ["b"]), ("train-a", ["a", "c"]), ("test", ["t"])):
        write(tmp_path / f"xx_rain-ud-{split}.conllu", *[[row("1", word, 0)] for word in words])
    write(tmp_path / "notes.conllu", ["nothing"])
    treebank = read_treebank(tmp_path)
    assert treebank.name == "xx_rain"
    assert list(treebank.splits) == ["train", "test"]
    assert [tree.forms[0] for tree in treebank.split("train")] == ["a", "c", "b"]
    assert read_treebank(tmp_path / "xx_rain-ud-test.conllu").splits == {"test": treebank.split("test")}
    with pytest.raises(DataError, match="xx_rain: no split 'dev'; it has train, test"):
        treebank.split("dev")
    before = treebank.content_hash
    write(tmp_path / "xx_rain-ud-test.conllu", [row("1", "u", 0)])
    assert read_treebank(tmp_path).content_hash != before


def test_a_folder_without_a_treebank_or_with_two(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file named \*-ud-train.conllu, .*dev.conllu$|test.conllu$"):
        read_treebank(tmp_path)
    write(tmp_path / "rain.conllu", [row("1", "a", 0)])
    with pytest.raises(DataError, match=r"to read a single file, give .*rain\.conllu"):
        read_treebank(tmp_path)
    for name in ("xx_a", "xx_b"):
        write(tmp_path / f"{name}-ud-dev.conllu", [row("1", "a", 0)])
    with pytest.raises(DataError, match="2 treebanks, xx_a, xx_b"):
        read_treebank(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_treebank(tmp_path / "absent")


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        ([row("1", "a", 0), "2\tb"], 3, "not CoNLL-U: expected 10 columns"),
        ([row("1", "a", 0), row("3", "b", 1)], 3, "expected word 2, got 3"),
        ([row("1", "a", 0), row("2", "b", "_")], 3, r"the head of word 2 \(b\) in column 7, 0 for the root, got '_'"),
        ([row("1", "a", 0), row("2", "b", "-1")], 3, "got '-1'"),
        ([row("1", "a", 0), row("2", "b", 3)], 3, "word 2 has head 3, but the sentence has 2 words"),
        ([row("1-2", "ab", "_"), row("1", "a", 0), row("2", "b", 7)], 4, "word 2 has head 7"),
        ([row("1", "a", 0), row("2", "b", 3), row("3", "c", 2)], 3, "form a cycle, 2 → 3 → 2"),
        ([row("1", "a", 0), row("2", "b", 2)], 3, "form a cycle, 2 → 2"),
        ([row("1", "a", 0), row("2", "b", 1), row("3", "c", 0)], 4, "words 1, 3 have head 0; a tree has one root"),
        ([row("1", "a", 2), row("2", "b", 1)], 2, "no word has head 0; a tree has one root"),
        ([row("0.1", "e", "_")], 1, "no word has head 0"),
    ],
)
def test_what_is_no_tree_names_file_line_and_sentence(tmp_path: Path, rows: list[str], line: int, message: str) -> None:
    path = write(tmp_path / "rain.conllu", ["# sent_id = rain-7", *rows])
    with pytest.raises(DataError, match=rf"rain\.conllu:{line}: sentence rain-7: .*{message}"):
        read_treebank(path)


def test_a_tree_of_ones_own_is_held_to_the_same() -> None:
    with pytest.raises(DataError, match="made:1: sentence made: word 2 has head 3"):
        tree(0, 3)
    with pytest.raises(DataError, match="form a cycle, 2 → 3 → 2"):
        tree(0, 3, 2)
    with pytest.raises(DataError, match="32767 words; a sentence can have at most 32766"):
        tree(0, *range(1, 32767))


def test_the_real_treebank(data_dir: Path) -> None:
    treebank = read_treebank(data_dir / "ud_ewt")
    assert treebank.name == "en_ewt"
    assert {split: len(trees) for split, trees in treebank.splits.items()} == {
        "train": 12544,
        "dev": 2001,
        "test": 2077,
    }
    trees = [tree for split in treebank.splits.values() for tree in split]
    assert len({tree.sentence_id for tree in trees}) == 16622
    assert sum(map(len, trees)) == 254_818
    for tree in trees:
        depths = tree.depths()
        assert depths[tree.heads.index(0)] == 0
        heads = [(word, head - 1) for word, head in enumerate(tree.heads) if head]
        assert all(depths[word] == depths[head] + 1 for word, head in heads)
    some = max(trees, key=len).distances()
    assert (some == some.T).all()
    assert (np.count_nonzero(some == 1) // 2, np.count_nonzero(some == 0)) == (len(some) - 1, len(some))
