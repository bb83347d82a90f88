"""Damaged files and configs: only the errors of bertft may come out, each in less than five seconds."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from fuzzing import CONLLU, MNLI, SECONDS, SEED, TIMES, at_most, check, tried

from bertft.checkpoints.load import load_checkpoint
from bertft.data import read_corpus, read_edge_records, read_treebank
from bertft.data.mnli import read_pairs
from bertft.data.plain_text import read_documents
from bertft.data.squad import read_questions
from bertft.data.text_file import read_text_file
from bertft.errors import BertftError

TABLE = "gold_label\tsentence1\tsentence2\tpairID\nneutral\tIt pours.\tIt rains.\t7\n-\tIt pours.\tIt rains.\t8\n"
SQUAD = json.dumps(tiny.SQUAD)
EDGE = '{"text": "It rains", "targets": [{"span1": [0, 1], "span2": [1, 2], "label": ["a", "b"]}], "info": {}}\n' * 3
TEXT = "It rains.\n\nIt pours.\nThe sun shines.\n"

READERS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "conllu as text": ("a.conllu", CONLLU, read_corpus),
    "conllu as trees": ("a.conllu", CONLLU, read_treebank),
    "conllu with ranges": ("a.conllu", CONLLU, lambda path: read_treebank(path, keep_ranges=True)),
    "mnli as text": ("a.jsonl", MNLI, read_corpus),
    "mnli as pairs": ("a.jsonl", MNLI, lambda path: read_pairs(str(path))),
    "table as pairs": ("a.tsv", TABLE, lambda path: read_pairs(str(path))),
    "squad as text": ("a.json", SQUAD, read_corpus),
    "squad as questions": ("a.json", SQUAD, lambda path: read_questions(str(path))),
    "edge records": ("a.jsonl", EDGE, read_edge_records),
    "plain text": ("a.txt", TEXT, read_corpus),
    "documents": ("a.txt", TEXT, lambda path: read_documents(read_text_file(path))),
}

PIECES = [
    *(b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"\t", b"\n", b"\r", b"\n\n", b" "),
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"-", b".", b"#", b"_", b"0", b"1", b"-1", b"99999", b"1e999"),
    *(b"null", b"true", b"NaN", b"[]", b"{}", b'""', b'"\\ud800"', b'"\\u0000"', b"1.5", b"1" * 30, b"1" * 4301),
    *(b"[" * 980, b"[" * 5000, b'{"a":' * 980, b"]" * 980, "²٣é\u2028\x1b[31m\u202e".encode(), b"a" * 5000),
    *(b"sentence1", b"sentence2", b'"data": ', b"3-2\t", b"1.1\t", b"# text = ", b"\t_\t_\t_\t_\t0\troot\t_\t_"),
]


def damaged(rng: np.random.Generator, content: bytes, others: list[bytes]) -> bytes:
    """Return the content after one to four random edits."""
    for _ in range(int(rng.integers(1, 5))):
        first, last = sorted(rng.integers(len(content) + 1, size=2).tolist())
        last = min(last, first + int(rng.integers(1, 40)))
        piece = PIECES[rng.integers(len(PIECES))]
        other = others[rng.integers(len(others))]
        content = [
            content[:first] + content[last:],
            content[:first] + piece + content[first:],
            content[:first] + piece + content[last:],
            content[:first] + content[first:last] * 3 + content[last:],
            content[:last],
            content[:first] + other[first:last] + content[last:],
            content[:first] + bytes(rng.integers(256, size=2).tolist()) + content[last:],
        ][rng.integers(7)]
    return content


@pytest.mark.parametrize("kind", READERS)
def test_readers(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    name, content, read = READERS[kind]
    others = [text.encode() for _, text, _ in READERS.values()]
    read_path = tmp_path / name
    read_path.write_bytes(content.encode())
    read(read_path)
    count, refused = 300 * TIMES, 0
    for number in range(count):
        rng = np.random.default_rng([SEED, number, len(kind)])
        read_path.write_bytes(damaged(rng, content.encode(), others))
        try:
            with at_most(SECONDS):
                read(read_path)
        except BertftError as error:
            refused += check(error)
        except BaseException as error:
            raise AssertionError(f"{kind}, seed {[SEED, number, len(kind)]}: {read_path} gives {error!r}") from error
    tried(capsys, kind, count, refused)


VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, -1, 3, 7, 16, 64, 1000, 10**5, 10**6, 10**9, 10**18, 10**400, -(10**9)),
    *(0.5, -1.5, 1e9, 1e308, float("inf"), float("nan"), "", "a", "gelu", "no such", "1", "a" * 5000, "\x1b[2J", "\0"),
    *([], [1], ["a"], [[[]]], [10**9] * 3, ["query"], {}, {"a": 1}, {"a": {"b": 10**9}}, {"0": "x"}, ["x"] * 2000),
    *("(.*.*)*.*[.]zzz!", "(a+)+$", "(", ".*", "query|value", "all-linear", "olora", "eva", "../../x", "/dev/zero"),
]


def changed(rng: np.random.Generator, settings: dict[str, Any], names: list[str]) -> dict[str, Any]:
    found = dict(settings)
    for _ in range(int(rng.integers(1, 4))):
        name = names[rng.integers(len(names))]
        if rng.random() < 0.1:
            found.pop(name, None)
        else:
            found[name] = VALUES[rng.integers(len(VALUES))]
    return found


def loading(folder: Path, file: Path, content: bytes, seed: list[int]) -> int:
    """Load a model after one of its files was replaced; return 1 where it was refused."""
    whole = file.read_bytes()
    file.write_bytes(content)
    generator = torch.get_rng_state()
    try:
        with at_most(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_checkpoint(folder)
    except BertftError as error:
        return check(error)
    except BaseException as error:
        raise AssertionError(f"seed {seed}: {file.name} of {content[:500]!r} gives {error!r}") from error
    finally:
        assert torch.equal(torch.get_rng_state(), generator)
        file.write_bytes(whole)
    return 0


CONFIG_NAMES = [
    *("num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "num_attention_heads", "model_type"),
    *("max_position_embeddings", "type_vocab_size", "hidden_act", "layer_norm_eps", "pad_token_id", "num_labels"),
    *("architectures", "torch_dtype", "dtype", "quantization_config", "text_config", "is_decoder", "auto_map"),
    *("attn_implementation", "_attn_implementation", "id2label", "label2id", "use_cache", "initializer_range"),
    *("output_hidden_states", "return_dict", "tie_word_embeddings", "pruned_heads", "position_embedding_type"),
    *("hidden_dropout_prob", "is_encoder_decoder", "transformers_version", "eos_token_id", "add_cross_attention"),
]


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_models(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models / "base", folder)
    whole = (folder / name).read_bytes()
    settings = json.loads(whole)
    names = [*settings, *CONFIG_NAMES] if name == "config.json" else list(settings)
    count, refused = 40 * TIMES, 0
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        made = json.dumps(changed(rng, settings, names)).encode()
        content = made if rng.random() < 0.7 else damaged(rng, whole, [whole])
        refused += loading(folder, folder / name, content, [SEED, number])
    tried(capsys, name, count, refused)


def test_adapters(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peft = pytest.importorskip("peft")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(
            load_checkpoint(models / "base").model, peft.LoraConfig(r=2, target_modules=["query", "value"])
        )
        model.peft_config["default"].base_model_name_or_path = str(models / "base")
        model.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(file.read_text())
    kinds = [str(kind.value) for kind in peft.PeftType]
    count, refused = 60 * TIMES, 0
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        made = changed(rng, settings, list(settings))
        if rng.random() < 0.2:
            made["peft_type"] = kinds[rng.integers(len(kinds))]
        content = json.dumps(made).encode()
        if rng.random() < 0.2:
            content = damaged(rng, content, [content])
        refused += loading(tmp_path / "adapter", file, content, [SEED, number])
    tried(capsys, file.name, count, refused)
