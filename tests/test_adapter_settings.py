"""What of an adapter's config reaches peft, and that peft never reaches the base: over every type of adapter."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import PreTrainedModel

from bertft.checkpoints.adapter_config import SECONDS, TYPES, Limits, SettingError, peft_settings
from bertft.checkpoints.load import load_checkpoint
from bertft.errors import CheckpointError

peft = pytest.importorskip("peft", reason='adapters take peft: pip install "bertft[lora]"')

pytestmark = [
    # peft asks transformers for a property by a name that is to go, and warns about what it initialises.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

WORDS = ["it", "rain", "snow", "pours", "falls", "."]
TARGETS = ["query", "value"]
LORA: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 16},
    "weight-decomposed": {"use_dora": True},
    "olora": {"init_lora_weights": "olora"},
    "pissa": {"init_lora_weights": "pissa"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "eva": {"init_lora_weights": "eva"},
    "not initialised": {"init_lora_weights": False},
    "biases": {"bias": "all"},
    "own biases": {"lora_bias": True},
    "all linear": {"target_modules": "all-linear"},
    "expression": {"target_modules": r"encoder\.layer\.[02]\..*\.(?:query|dense)"},
    "excluded": {"exclude_modules": r".*layer\.1\..*"},
    "patterns": {"rank_pattern": {r"^encoder\.layer\.1\..*query": 2, "value": 3}, "alpha_pattern": {r"query": 16}},
    "layers": {"layers_to_transform": [0, 2], "layers_pattern": "layer"},
    "whole modules": {"modules_to_save": ["LayerNorm"]},
}
OTHERS: dict[str, dict[str, Any]] = {
    "ADALORA": {"init_r": 4, "target_r": 2, "total_step": 10},
    "LOHA": {"r": 4, "alpha": 16},
    "LOKR": {"r": 4, "alpha": 16, "decompose_both": True},
    "IA3": {"target_modules": ["value", "output.dense"], "feedforward_modules": ["output.dense"]},
    "OFT": {"r": 0, "oft_block_size": 4, "use_cayley_neumann": False},
    "BOFT": {"boft_block_size": 4, "boft_n_butterfly_factor": 1},
    "VERA": {"r": 4},
    "FOURIERFT": {"n_frequency": 20},
    "HRA": {"r": 4},
    "LN_TUNING": {"target_modules": ["LayerNorm"]},
}
CASES = [*(("LORA", options) for options in LORA.values()), *OTHERS.items()]


def base_folder(folder: Path) -> Path:
    model = tiny.build(tiny.FAMILIES["bert"](10, initializer_range=0.3))
    return tiny.save(folder, model, tiny.tokenizer(WORDS))


def digest(model: PreTrainedModel) -> str:
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


@torch.no_grad()
def saved_adapter(folder: Path, base: Path, kind: str, options: dict[str, Any]) -> Any:
    """Save an adapter with random weights over the base, and return the model merged by peft."""
    made = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    given: dict[str, Any] = {"target_modules": TARGETS, **options}
    if kind == "LORA":
        given = {"r": 4, **given}
    whole = load_checkpoint(base).model
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng(devices=[]):
        model = peft.get_peft_model(copy.deepcopy(whole), made(**given))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        model.peft_config["default"].base_model_name_or_path = str(base)
        model.save_pretrained(folder)
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(whole), folder)
        return loaded.merge_and_unload()


@pytest.mark.parametrize(("kind", "options"), CASES, ids=[*LORA, *OTHERS])
def test_every_type_merges_as_peft_does_and_leaves_the_base(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    base = base_folder(tmp_path / "base")
    expected = saved_adapter(tmp_path / "adapter", base, kind, options).state_dict()
    given = load_checkpoint(base)
    before, generator = digest(given.model), torch.get_rng_state()
    for name in ("CC", "CXX"):  # as the calls of peft above may leave them
        os.environ.pop(name, None)
    environment = dict(os.environ)
    ours = load_checkpoint(tmp_path / "adapter", present=[given]).model
    assert dict(os.environ) == environment
    assert digest(given.model) == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert digest(ours) != before
    assert ours.state_dict().keys() == expected.keys()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    # What is unchanged is in the memory of the base.
    theirs = dict(given.model.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, theirs[name]) == (parameter.data_ptr() == theirs[name].data_ptr()), name


def test_the_cases_are_all_types() -> None:
    assert {kind for kind, _ in CASES} == TYPES


def test_types_that_are_not_listed_are_refused(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    saved_adapter(tmp_path / "adapter", base, "LORA", {})
    others = {str(kind.value) for kind in peft.PeftType} - TYPES
    assert len(others) > 5
    for kind in [*sorted(others), 7, None, "../x", ["LORA"]]:
        edit(tmp_path / "adapter", peft_type=kind)
        with pytest.raises(CheckpointError, match="cannot apply this adapter") as caught:
            load_checkpoint(tmp_path / "adapter")
        assert "\n" not in str(caught.value)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "code of megatron": ({"megatron_config": {"a": 1}}, "megatron_config is .* does not pass on"),
    "code of any module": ({"megatron_config": None, "megatron_core": "evil"}, "megatron_core is 'evil'"),
    "copied layers": ({"layer_replication": [[0, 3], [1, 3]]}, "layer_replication is"),
    "parameters": ({"target_parameters": ["weight"]}, "target_parameters is"),
    "tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices is"),
    "an unknown field": ({"of_the_future": 3}, "of_the_future is 3"),
    "loftq": ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq', which may change the base"),
    "corda": ({"init_lora_weights": "corda"}, "may change the base"),
    "random pissa": ({"init_lora_weights": "pissa_niter_4"}, "may change the base"),
    "initialised by a list": ({"init_lora_weights": []}, "may change the base"),
    "a huge rank": ({"r": 10**9}, "r is 1000000000; expected a whole number from 1 to 1024"),
    "a rank of a pattern": ({"rank_pattern": {"query": 10**9}}, r"rank_pattern\['query'\] is 1000000000"),
    "a rank of a word": ({"r": "4"}, "r is '4'; expected"),
    "a rank of true": ({"r": True}, "r is True; expected"),
    "no number": ({"lora_alpha": float("nan")}, "lora_alpha is nan; expected"),
    "a number of many digits": ({"lora_alpha": 10**400}, "lora_alpha is 1000.*; expected"),
    "no flag": ({"use_dora": "yes"}, "use_dora is 'yes'; expected true or false"),
    "no bias": ({"bias": "all; rm"}, "bias is 'all; rm'; expected"),
    "no layers": ({"layers_to_transform": ["0"]}, "layers_to_transform is .*; expected the numbers of layers"),
    "no names": ({"target_modules": [".*.*.*x"]}, "target_modules is .*; expected the name of a module"),
    "a pattern of layers": ({"layers_pattern": ["(a+)+"]}, "layers_pattern is .*; expected the name of a module"),
    "a pattern to save": ({"modules_to_save": ["(.*)*x"]}, "modules_to_save is .*; expected the name of a module"),
    "no expression": ({"target_modules": "(query"}, "is no regular expression"),
    "a deep expression": ({"target_modules": "(" * 5000 + ")" * 5000}, "is no regular expression"),
    "a long expression": ({"target_modules": "query|" * 2000 + "value"}, "is no regular expression"),
    "two in one": ({"rank_pattern": {"query)|(value": 2}}, "is no regular expression"),
    "no match": ({"target_modules": "nothing"}, "target_modules is 'nothing', which matches no module"),
}


@pytest.mark.parametrize(("changes", "needle"), REFUSED.values(), ids=REFUSED)
def test_settings_that_are_refused(tmp_path: Path, changes: dict[str, Any], needle: str) -> None:
    base = base_folder(tmp_path / "base")
    saved_adapter(tmp_path / "adapter", base, "LORA", {})
    edit(tmp_path / "adapter", **changes)
    given = load_checkpoint(base)
    before, start = digest(given.model), time.monotonic()
    with pytest.raises(CheckpointError, match=needle) as caught:
        load_checkpoint(tmp_path / "adapter", present=[given])
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)
    assert digest(given.model) == before


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize(
    "pattern", ["(.*.*)*.*[.]zzz!", "(a|a|.)*(b|.)*!", ".*.*.*.*.*.*.*.*.*.*!", "(.?){60}.{60}!", r"((.+)+\.)+!"]
)
def test_a_regular_expression_that_would_take_years_is_ended(field: str, pattern: str) -> None:
    names = tuple(f"encoder.layer.{layer}.attention.self.query.very.long.name.{'a' * 30}" for layer in range(24))
    given = {field: {pattern: 4} if "pattern" in field else pattern}
    start = time.monotonic()
    with pytest.raises(SettingError, match=r"takes more than 2 s|matches no module") as caught:
        raise_where_quick(peft_settings(given, {field: None}, Limits(1024, names)))
    assert time.monotonic() - start < 2 * SECONDS
    assert "write the names" in str(caught.value) or "matches no" in str(caught.value)


def raise_where_quick(passed: dict[str, Any]) -> None:
    """Some patterns are matched quickly after all: then nothing of them may have been passed on."""
    assert not [value for name, value in passed.items() if name != "inference_mode" and value], passed
    raise SettingError("matches no module")


def test_matches_are_passed_on_as_names() -> None:
    names = ("a.query", "b.a.query", "a.value")
    passed = peft_settings(
        {"target_modules": r"a\.(query|value)", "rank_pattern": {"query": 2, r"a\..*": 3}},
        {"target_modules": None, "rank_pattern": {}},
        Limits(1024, names),
    )
    found = [name for name in names if re.fullmatch(passed["target_modules"], name)]
    assert found == ["a.query", "a.value"]
    ranks = {
        name: next(rank for key, rank in passed["rank_pattern"].items() if re.match(rf"(.*\.)?({key})$", name))
        for name in names
    }
    assert ranks == {"a.query": 2, "b.a.query": 2, "a.value": 3}


def test_no_code_of_the_folder_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_folder(tmp_path / "base")
    saved_adapter(tmp_path / "adapter", base, "LORA", {})
    (tmp_path / "adapter" / "evil.py").write_text("import builtins; builtins.evil_ran = True")
    (tmp_path / "megatron").mkdir()
    (tmp_path / "megatron" / "__init__.py").write_text("import builtins; builtins.evil_ran = True")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("adapter.evil", "megatron", "megatron.core"):
        edit(tmp_path / "adapter", megatron_config={"a": 1}, megatron_core=module)
        with pytest.raises(CheckpointError, match="megatron_c"):
            load_checkpoint(tmp_path / "adapter")
    assert "megatron" not in sys.modules
    assert not hasattr(__import__("builtins"), "evil_ran")
