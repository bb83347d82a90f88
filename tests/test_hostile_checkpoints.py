"""Model folders that were not written by transformers: sizes that no weights have, pipes, folders, nested JSON."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import transformers

from bertft.checkpoints.bounds import check_sizes
from bertft.checkpoints.load import load_checkpoint
from bertft.errors import CheckpointError

WORDS = ["it", "rain", "snow", "pours", "falls", "."]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    return tiny.save(folder, tiny.build(tiny.FAMILIES["bert"](10)), tiny.tokenizer(WORDS))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(source: str | Path, needle: str) -> None:
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=needle) as caught:
        load_checkpoint(source)
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        (
            {"num_hidden_layers": 10**9},
            r"config\.json: num_hidden_layers is 1000000000, but the weights hold 55 tensors",
        ),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers is more than"),
        ({"num_hidden_layers": 1e9}, "num_hidden_layers is 1000000000.0"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000, but the weights have"),
        ({"vocab_size": 10**15}, "vocab_size is more than"),
        ({"intermediate_size": 10**12}, "intermediate_size is"),
        ({"hidden_size": 900_000}, "the config describes .* parameters"),
        ({"vocab_size": 900_000}, "the config describes .* parameters"),
        ({"max_position_embeddings": 10**9}, "the config describes .* parameters"),
        ({"type_vocab_size": 900_000}, "the config describes .* parameters"),
        ({"num_labels": 10**9}, "num_labels is 1000000000, but at most"),
    ],
)
def test_sizes_that_the_weights_cannot_have(folder: Path, changes: dict[str, Any], needle: str) -> None:
    edit(folder, **changes)
    refusal(folder, needle)


def test_nested_sizes(folder: Path) -> None:
    config = {"text_config": {"deep": [{"num_experts": 10**7}]}}
    with pytest.raises(CheckpointError, match="num_experts is 10000000"):
        check_sizes(folder, config, [folder / "model.safetensors"])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_sizes_in_use_pass(tmp_path: Path, family: str) -> None:
    """Long position tables, large rotation bases and vocabularies of tiny models are no reason to refuse one."""
    config = tiny.FAMILIES[family](10)
    model = tiny.build(config)
    model.config.rope_theta, model.config.sliding_window = 10**7, 10**6
    tiny.save(tmp_path, model, tiny.tokenizer(WORDS))
    check_sizes(tmp_path, json.loads((tmp_path / "config.json").read_text()), [tmp_path / "model.safetensors"])


def test_defaults_of_all_configs_pass() -> None:
    """Every number that a config of transformers has by default is in bounds for weights of its size."""
    from bertft.checkpoints import bounds

    mapping = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    checked = 0
    for kind in sorted(mapping.keys()):
        try:
            settings = json.loads(mapping[kind]().to_json_string(use_diff=False))
        except Exception:  # some cannot be made without arguments
            continue
        for name, number in bounds._numbers(settings):
            if bounds._MODULES.fullmatch(name):
                few = bounds._EXPERTS if name.endswith("experts") else bounds._FEW
                assert number <= few, (kind, name, number)
            elif not isinstance(number, float) and not bounds._NO_SIZE.fullmatch(name):
                assert number <= bounds._LARGE, (kind, name, number)
            checked += 1
    assert checked > 1000


# ------------------------------------------------------------------------------------------------- files of other kinds

FILES = [
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "model.safetensors",
    "adapter_config.json",
    "vocab.txt",
]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.skipif(os.name == "nt", reason="without pipes in folders")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make", [pipe, device])
def test_pipes_and_devices(folder: Path, name: str, make: Callable[[Path], None]) -> None:
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    refusal(folder, f"{name}: a pipe or a device")


@pytest.mark.parametrize("name", FILES[:5])
def test_folders_in_place_of_files(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    refusal(folder, "model")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "adapter_config.json"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "1" * 5000 + "}", "\xff", "", "{}x", "3"]
)
def test_json_that_cannot_be_read(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    refusal(folder, f"{name}|tokenizer cannot be loaded")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_without_permission(folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    refusal(folder, f"{name}: cannot be read .*[Pp]ermission")


def test_an_unreadable_file_in_any_case(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    refusal(folder, r"model\.safetensors: cannot be read \(Permission denied\)")


@pytest.mark.parametrize("source", ["n" * 300, "/" + "n" * 300, "~nosuchuser/x", "a\0b", "\udcff"])
def test_names_that_the_system_refuses(source: str) -> None:
    refusal(source, "cannot be opened|no such folder")


def test_shards_elsewhere_that_are_no_files(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for shard in ("/dev/zero", "/dev", ".."):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
        refusal(folder, "a folder, a pipe or a device")


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel@main:f"},
        {"_attn_implementation_internal": {"": "evil/kernel"}},
        {"text_config": {"experts_implementation": "evil/kernel"}},
    ],
)
def test_kernels_of_the_hub(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder, **changes)
    refusal(folder, "implementation.* names a kernel of the hub, and bertft does not run code")
