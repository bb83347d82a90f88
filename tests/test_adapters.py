"""Adapters as `peft` saves them, from tiny random models, against the models that were trained."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import shape
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bertft.checkpoints import load as bertft_models
from bertft.checkpoints.compare import shared_depth
from bertft.checkpoints.edit import with_head
from bertft.checkpoints.load import load_checkpoint
from bertft.errors import CheckpointError
from bertft.experiments.inputs import loaded
from bertft.experiments.score import score
from bertft.tasks.lora import with_lora

peft = pytest.importorskip("peft", reason='adapters take peft: pip install "bertft[lora]"')

# peft asks transformers for a property by a name that is to go.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "it", "rain", "snow", "pours", "falls", "."]
SIZE = len(WORDS)
SHAPE = shape(SIZE, initializer_range=0.3)
# For each architecture, the modules that LoRA usually changes.
FAMILIES = {
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "electra": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "modernbert": ["Wqkv"],
}
TEXTS = ["it rain .", "it snow falls .", "rain pours .", "it pours it pours ."] * 5


def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.tokenizer(WORDS[4:])


def build(family: str, head: str = "Model", seed: int = 0) -> PreTrainedModel:
    return tiny.build(tiny.FAMILIES[family](SIZE, initializer_range=0.3), head, seed)


def save_base(folder: Path, family: str = "bert") -> Path:
    return tiny.save(folder, build(family), tokenizer())


@torch.no_grad()
def trained(model: Any, only: str = "") -> Any:
    """The model with what its adapter trains set to random numbers, where a name holds `only`."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and only in name:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def adapted(base: Path, family: str = "bert", head: str = "Model", only: str = "", **options: Any) -> Any:
    """A model over the base's weights with a LoRA trained on top."""
    outer = build(family, head, seed=1)
    outer.base_model.load_state_dict(build(family).state_dict(), strict=False)
    outer.name_or_path = str(base)
    config = peft.LoraConfig(**{"r": 4, "target_modules": FAMILIES[family], **options})
    return trained(peft.get_peft_model(outer, config), only)


def save_adapter(folder: Path, base: Path, **options: Any) -> Path:
    adapted(base, **options).save_pretrained(folder)
    return folder


def edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@torch.no_grad()
def hidden(model: Any) -> torch.Tensor:
    states = model(torch.tensor([[2, 4, 5, 6, 9, 3]]), output_hidden_states=True).hidden_states
    return torch.stack([layer[0] for layer in states])


def encoder(model: Any) -> Any:
    return model.get_base_model().base_model


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_loads_as_the_encoder_that_was_trained(tmp_path: Path, family: str, head: str) -> None:
    base = save_base(tmp_path / "base", family)
    task = {} if head == "Model" else {"task_type": "SEQ_CLS"}
    model = adapted(base, family, head, **task)
    model.save_pretrained(tmp_path / "lora")
    generator = torch.get_rng_state()
    checkpoint = load_checkpoint(tmp_path / "lora")
    assert torch.equal(torch.get_rng_state(), generator)
    assert checkpoint.name == "lora"
    assert type(checkpoint.model) is type(build(family))
    assert not checkpoint.model.training
    assert not any("lora" in name or p.requires_grad for name, p in checkpoint.model.named_parameters())
    torch.testing.assert_close(hidden(checkpoint.model), hidden(encoder(model)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(hidden(checkpoint.model)[-1], hidden(build(family))[-1], atol=0.01)


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True, "lora_alpha": 32},
        {"use_dora": True},
        {"bias": "all"},
        {"rank_pattern": {r"^bert\.encoder\.layer\.1\..*query": 2}, "alpha_pattern": {r"bert\..*\.value": 16}},
        {"target_modules": r"bert\.encoder\.layer\.[02]\..*\.dense"},
        {"target_modules": ["query", "word_embeddings"]},
        {"modules_to_save": ["LayerNorm", "classifier"]},
    ],
    ids=["rank-stabilised", "weight-decomposed", "biases", "patterns", "expression", "embeddings", "whole modules"],
)
def test_every_kind_of_lora(tmp_path: Path, options: dict[str, Any]) -> None:
    base = save_base(tmp_path / "base")
    model = adapted(base, head="ForSequenceClassification", task_type="SEQ_CLS", **options)
    model.save_pretrained(tmp_path / "lora")
    given = load_checkpoint(base)
    before = {name: tensor.clone() for name, tensor in given.model.state_dict().items()}
    checkpoint = load_checkpoint(tmp_path / "lora", present=[given])
    torch.testing.assert_close(hidden(checkpoint.model), hidden(encoder(model)), rtol=1e-4, atol=1e-5)
    assert checkpoint.base is given
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.model.state_dict().items())


def test_an_adapter_that_bertft_trains(tmp_path: Path) -> None:
    """It names every module by its whole path, and saves the pooler, which the base of this one lacks."""
    base = save_base(tmp_path / "base")
    transformers.BertModel.from_pretrained(base, add_pooling_layer=False).save_pretrained(base)
    outer = with_head(load_checkpoint(base), transformers.AutoModelForSequenceClassification)
    outer.name_or_path = str(base)
    model = trained(with_lora(outer, rank=4, first_block=1))
    model.save_pretrained(tmp_path / "lora")
    checkpoint = load_checkpoint(tmp_path / "lora")
    torch.testing.assert_close(hidden(checkpoint.model), hidden(encoder(model)), rtol=1e-4, atol=1e-5)
    assert checkpoint.base is not None
    assert shared_depth(checkpoint.base.model, checkpoint.model) == 1
    assert checkpoint.base.drawn == {"pooler.dense.weight", "pooler.dense.bias"}
    assert checkpoint.drawn == frozenset()


def test_other_methods_of_weights(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    for config in (
        peft.LoHaConfig(r=4, target_modules=["query"]),
        peft.IA3Config(target_modules=["value"], feedforward_modules=[]),
    ):
        outer = build("bert")
        outer.name_or_path = str(base)
        model = trained(peft.get_peft_model(outer, config))
        model.save_pretrained(tmp_path / config.peft_type)
        checkpoint = load_checkpoint(tmp_path / config.peft_type)
        torch.testing.assert_close(hidden(checkpoint.model), hidden(encoder(model)), rtol=1e-4, atol=1e-5)


def test_an_encoder_under_any_name(tmp_path: Path) -> None:
    """A model of one's own keeps its encoder where it likes: here under a name that the encoder itself uses inside."""

    class Tagger(torch.nn.Module):
        def __init__(self, body: PreTrainedModel) -> None:
            super().__init__()
            self.encoder, self.tagger = body, torch.nn.Linear(32, 4)

    base = save_base(tmp_path / "base")
    config = peft.LoraConfig(r=4, target_modules=["query", "tagger"])
    model = trained(peft.get_peft_model(Tagger(build("bert")), config))
    model.save_pretrained(tmp_path / "lora")
    edit(tmp_path / "lora", base_model_name_or_path=str(base))
    checkpoint = load_checkpoint(tmp_path / "lora")
    expected = hidden(model.get_base_model().encoder)
    torch.testing.assert_close(hidden(checkpoint.model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_number_types(tmp_path: Path, dtype: str) -> None:
    base = save_base(tmp_path / "base")
    lora = save_adapter(tmp_path / "lora", base)
    checkpoint = load_checkpoint(lora, dtype=dtype)
    assert {str(p.dtype) for p in checkpoint.model.parameters()} == {f"torch.{dtype}"}
    assert checkpoint.content_hash == load_checkpoint(lora).content_hash


# ---------------------------------------------------------------------------------------------------- one base, once


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    reads: list[Path] = []
    read = bertft_models._load_body

    def counted(folder: Path, *arguments: Any, **options: Any) -> PreTrainedModel:
        reads.append(folder)
        return read(folder, *arguments, **options)

    monkeypatch.setattr(bertft_models, "_load_body", counted)
    return reads


@pytest.mark.parametrize("given", ["same folder", "copy", "absent"])
def test_the_base_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    base = save_base(tmp_path / "base")
    shutil.copytree(base, tmp_path / "copy")
    adapters = [save_adapter(tmp_path / name, base, only=name) for name in ("query", "value")]
    sources = {"same folder": [base], "copy": [tmp_path / "copy"], "absent": []}[given]
    reads = count_reads(monkeypatch)
    found = loaded([*sources, *adapters], device="cpu", dtype="float32", allow_pickle=False)
    assert len(reads) == 1
    expected = load_checkpoint(base).content_hash
    assert [one.base and one.base.content_hash for one in found[-2:]] == [expected] * 2


def test_only_adapted_weights_take_memory(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    checkpoint = load_checkpoint(save_adapter(tmp_path / "lora", base, layers_to_transform=[1]))
    assert checkpoint.base is not None
    ours, theirs = dict(checkpoint.model.named_parameters()), dict(checkpoint.base.model.named_parameters())
    own = {name for name in ours if ours[name].data_ptr() != theirs[name].data_ptr()}
    parts = {f"encoder.layer.1.attention.self.{part}" for part in ("query", "value")}
    assert own == {f"{part}.weight" for part in parts}


def test_another_dtype_is_read_anew(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    lora = save_adapter(tmp_path / "lora", base)
    checkpoint = load_checkpoint(lora, dtype="float64", present=[load_checkpoint(base)])
    assert checkpoint.base is not None
    assert checkpoint.base.model.dtype == torch.float64


def test_the_hash_covers_adapter_and_base(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    lora = save_adapter(tmp_path / "lora", base)
    first = load_checkpoint(lora).content_hash
    shutil.copytree(lora, tmp_path / "copy")
    assert load_checkpoint(tmp_path / "copy").content_hash == first
    edit(tmp_path / "copy", lora_alpha=16)
    assert load_checkpoint(tmp_path / "copy").content_hash != first
    build("bert", seed=3).save_pretrained(base)
    assert load_checkpoint(lora).content_hash != first


# ------------------------------------------------------------------------------------------------------------ scoring


@pytest.mark.parametrize(("options", "equal"), [({"layers_to_transform": [2]}, 2), ({"only": "layer.1."}, 1)])
def test_layers_without_a_change_score_exactly_one(tmp_path: Path, options: dict[str, Any], equal: int) -> None:
    """Of the second, the LoRA of the other blocks was never trained: its second factor is zero."""
    base = save_base(tmp_path / "base")
    lora = save_adapter(tmp_path / "lora", base, **options)
    base_checkpoint, checkpoint = loaded([base, lora], device="cpu", dtype="float32", allow_pickle=False)
    assert shared_depth(base_checkpoint.model, checkpoint.model) == equal
    scores = score(base, lora, TEXTS)
    values = [row["value"] for row in scores.rows]
    assert values[: equal + 1] == [1.0] * (equal + 1)
    assert all(value < 1 for value in values[equal + 1 :])
    assert scores.run["checkpoints"]["lora"] == checkpoint.content_hash


def test_a_score_of_an_adapter_is_that_of_the_merged_model(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    model = adapted(base, head="ForSequenceClassification", task_type="SEQ_CLS")
    model.save_pretrained(tmp_path / "lora")
    model.merge_and_unload().save_pretrained(tmp_path / "whole")
    tokenizer().save_pretrained(tmp_path / "whole")
    scores = score(base, [tmp_path / "lora", tmp_path / "whole"], TEXTS)
    lora, whole = ([row["value"] for row in scores.rows if row["tuned"] == name] for name in ("lora", "whole"))
    assert lora == pytest.approx(whole, abs=1e-6)
    assert max(lora[1:]) < 1


def test_the_tokenizer_is_the_adapters_own_or_the_bases(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    lora = save_adapter(tmp_path / "lora", base)
    checkpoint = load_checkpoint(lora)
    assert checkpoint.base is not None
    assert checkpoint.tokenizer is checkpoint.base.tokenizer
    own = tokenizer()
    own.model_max_length = 7
    own.save_pretrained(lora)
    assert load_checkpoint(lora).tokenizer.model_max_length == 7


# ---------------------------------------------------------------------------------------------------------- bad input


def truncate(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def remove_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def lose_the_base(folder: Path) -> None:
    edit(folder, base_model_name_or_path="/no/such/base")


def name_no_base(folder: Path) -> None:
    edit(folder, base_model_name_or_path=None)


def name_itself(folder: Path) -> None:
    edit(folder, base_model_name_or_path=str(folder))


def widen(folder: Path) -> None:
    base = folder.parent / "wide"
    transformers.BertModel(transformers.BertConfig(**SHAPE | {"hidden_size": 48})).save_pretrained(base)
    tokenizer().save_pretrained(base)
    edit(folder, base_model_name_or_path=str(base))


def shorten(folder: Path) -> None:
    base = folder.parent / "short"
    transformers.BertModel(transformers.BertConfig(**SHAPE | {"num_hidden_layers": 2})).save_pretrained(base)
    tokenizer().save_pretrained(base)
    edit(folder, base_model_name_or_path=str(base))


def name_another_family(folder: Path) -> None:
    edit(folder, base_model_name_or_path=str(save_base(folder.parent / "distil", "distilbert")))


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(tensors.items())[1:]), folder / "adapter_model.safetensors")


def add_a_whole_model(folder: Path) -> None:
    save_base(folder)


def be_of_an_unknown_kind(folder: Path) -> None:
    edit(folder, peft_type="RAIN")


def break_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "needle"),
    [
        (truncate, r"adapter_model\.safetensors: truncated or corrupted"),
        (remove_weights, r"no weights \(adapter_model\.safetensors\)"),
        (lose_the_base, r"lora: the base of this adapter was not found .*/no/such/base.*adapter_config\.json"),
        (name_no_base, "does not name the base model of the adapter; set base_model_name_or_path"),
        (name_itself, "its base .* is an adapter too; merge"),
        (widen, r"lora: peft .* cannot apply this adapter to .*wide: size mismatch for .*\[4, 32\].*\[4, 48\]"),
        (shorten, r"4 of its tensors .*layer\.2.* match no module of .*short"),
        (name_another_family, "none of its 12 tensors .* belongs to a module of DistilBertModel"),
        (drop_a_tensor, r"the weights lack 1 tensors .*layer\.0.*lora_A"),
        (add_a_whole_model, "contains both an adapter and a full model"),
        (be_of_an_unknown_kind, "cannot apply this adapter to .*RAIN"),
        (break_config, r"adapter_config\.json: cannot be read as JSON"),
    ],
)
def test_a_damaged_adapter(tmp_path: Path, damage: Callable[[Path], None], needle: str) -> None:
    base = save_base(tmp_path / "base")
    lora = save_adapter(tmp_path / "lora", base)
    load_checkpoint(lora)  # whole before
    damage(lora)
    with pytest.raises(CheckpointError, match=needle) as caught:
        load_checkpoint(lora)
    assert "\n" not in str(caught.value)


def test_prompts_are_no_change_of_weights(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    outer = build("bert", "ForSequenceClassification")
    outer.name_or_path = str(base)
    config = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    peft.get_peft_model(outer, config).save_pretrained(tmp_path / "prefix")
    with pytest.raises(CheckpointError, match="PREFIX_TUNING adapter adds tokens and changes no weight"):
        load_checkpoint(tmp_path / "prefix")


def test_without_peft_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora = save_adapter(tmp_path / "lora", save_base(tmp_path / "base"))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(CheckpointError, match=r'lora: an adapter, .*pip install "bertft\[lora\]"'):
        load_checkpoint(lora)


def test_pickles_only_where_allowed(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    lora = save_adapter(tmp_path / "lora", base)
    expected = hidden(load_checkpoint(lora).model)
    tensors = load_file(lora / "adapter_model.safetensors")
    (lora / "adapter_model.safetensors").unlink()
    torch.save(tensors, lora / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin: a pickle.*allow_pickle=True"):
        load_checkpoint(lora)
    assert torch.equal(hidden(load_checkpoint(lora, allow_pickle=True).model), expected)
    (lora / "adapter_model.bin").write_bytes(b"not a pickle")
    with pytest.raises(CheckpointError, match="contains more than tensors, or is damaged"):
        load_checkpoint(lora, allow_pickle=True)
