"""Loading checkpoints and comparing two: tiny random models of every usual family, and the real small one."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bertft.arrays import ALIGNMENT
from bertft.checkpoints.anatomy import block_stack, embedding_rows, hidden_size, n_layers, parse_layers
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.compare import check_same_tokenizer, shared_depth
from bertft.checkpoints.edit import freeze, randomised, truncate, with_head
from bertft.checkpoints.load import load_checkpoint
from bertft.errors import CheckpointError, OptionError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "it", "rain", "##s", "pour", "."]
SIZE = 12
CONFIGS = {name: partial(family, SIZE) for name, family in tiny.FAMILIES.items()}
FINAL_NORM = {"modernbert": "final_norm", "gpt2": "ln_f", "llama": "norm"}


def tokenizer(words: list[str] = WORDS, *, lowercase: bool = False) -> PreTrainedTokenizerFast:
    return tiny.tokenizer(words[5:], subwords=True, lowercase=lowercase, special=tuple(WORDS[:5]))


def build(config: transformers.PreTrainedConfig, seed: int = 0, head: str = "Model") -> PreTrainedModel:
    return tiny.build(config, head, seed)


def body(family: str = "bert", seed: int = 0, **changes: object) -> PreTrainedModel:
    config = CONFIGS[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    return build(config, seed)


def save(folder: Path, model: PreTrainedModel | None = None) -> Path:
    return tiny.save(folder, model or body(), tokenizer())


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@torch.no_grad()
def hidden_layers(model: PreTrainedModel) -> tuple[torch.Tensor, ...]:
    return model(torch.tensor([[2, 5, 6, 7, 9, 3]]), output_hidden_states=True).hidden_states


@pytest.mark.equality
@pytest.mark.parametrize("family", CONFIGS)
def test_a_saved_body_comes_back(tmp_path: Path, family: str) -> None:
    saved = body(family)
    checkpoint = load_checkpoint(save(tmp_path / family, saved))
    assert checkpoint.name == family
    assert type(checkpoint.model) is type(saved)
    assert not checkpoint.model.training
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())
    assert n_layers(checkpoint.model) == len(block_stack(checkpoint.model)) == 3
    # Whatever their position in the file, the weights in memory are aligned as torch's own, so bits can be compared.
    assert not any(parameter.data_ptr() % ALIGNMENT for parameter in checkpoint.model.parameters())
    layers = hidden_layers(checkpoint.model)
    assert len(layers) == 4
    assert all(layer.shape[-1] == hidden_size(checkpoint.model) == 32 for layer in layers)
    assert all(torch.equal(*pair) for pair in zip(layers, hidden_layers(saved), strict=True))
    assert checkpoint.tokenizer("it rains.")["input_ids"] == [2, 5, 6, 7, 9, 3]


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForSequenceClassification"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_a_task_head_is_left_out_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], family: str, head: str
) -> None:
    model = build(CONFIGS[family](), head=head)
    save(tmp_path / "model", model)
    capfd.readouterr()
    generator = torch.get_rng_state()
    checkpoint = load_checkpoint(tmp_path / "model")
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), generator)
    assert type(checkpoint.model) is type(model.base_model)
    assert torch.equal(hidden_layers(checkpoint.model)[-1], hidden_layers(model.base_model)[-1])


def test_the_settings_of_transformers_are_put_back(tmp_path: Path) -> None:
    noise = transformers.utils.logging
    before = noise.get_verbosity(), noise.is_progress_bar_enabled()
    try:
        noise.set_verbosity(logging.INFO)
        noise.disable_progress_bar()
        load_checkpoint(save(tmp_path / "model"))
        assert (noise.get_verbosity(), noise.is_progress_bar_enabled()) == (logging.INFO, False)
    finally:
        noise.set_verbosity(before[0])
        if before[1]:
            noise.enable_progress_bar()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes_share_a_hash(tmp_path: Path, dtype: str) -> None:
    folder = save(tmp_path / "model")
    checkpoint = load_checkpoint(folder, dtype=dtype)
    assert {parameter.dtype for parameter in checkpoint.model.parameters()} == {getattr(torch, dtype)}
    assert checkpoint.content_hash == load_checkpoint(folder).content_hash


def test_the_hash_follows_config_and_weights_not_the_folder(tmp_path: Path) -> None:
    folder, copy = save(tmp_path / "model"), tmp_path / "copy"
    shutil.copytree(folder, copy)
    expected = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        expected.update(f"{name}\0{len(content)}\0".encode() + content)
    original = load_checkpoint(folder).content_hash
    assert original == load_checkpoint(copy).content_hash == expected.hexdigest()
    edit_config(copy, num_hidden_layers=2)
    assert load_checkpoint(copy).content_hash != original
    assert load_checkpoint(save(tmp_path / "other", body(seed=1))).content_hash != original


@pytest.mark.parametrize(
    ("place", "name"), [("mnli/seed-1/best", "mnli/seed-1"), ("mnli/seed-1/last", "mnli/seed-1/last"), ("best", "best")]
)
def test_what_tuning_wrote_is_named_by_its_run(tmp_path: Path, place: str, name: str) -> None:
    folder = tmp_path / place
    folder.parent.mkdir(parents=True, exist_ok=True)
    assert load_checkpoint(save(folder)).name == name


def test_a_smaller_config_loads_the_first_blocks(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    whole = load_checkpoint(folder)
    edit_config(folder, num_hidden_layers=2)
    truncated = load_checkpoint(folder)
    assert n_layers(truncated.model) == 2
    assert torch.equal(hidden_layers(truncated.model)[-1], hidden_layers(whole.model)[2])


def test_shards(tmp_path: Path) -> None:
    model = body()
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path / "model")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    checkpoint = load_checkpoint(tmp_path / "model")
    assert torch.equal(hidden_layers(checkpoint.model)[-1], hidden_layers(model)[-1])
    next(iter(sorted((tmp_path / "model").glob("model-*.safetensors")))).unlink()
    with pytest.raises(CheckpointError, match=r"model-00001.*missing.*index.json"):
        load_checkpoint(tmp_path / "model")


def test_the_real_model(model_dir: Path) -> None:
    checkpoint = load_checkpoint(model_dir)
    assert (n_layers(checkpoint.model), hidden_size(checkpoint.model)) == (6, 384)
    assert len(block_stack(checkpoint.model)) == 6
    assert shared_depth(checkpoint.model, load_checkpoint(model_dir).model) == 6
    check_same_tokenizer(checkpoint, checkpoint, ["It rains, it pours.", "naïve Über-wörter 雨"])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local cache and a hub that cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["bert-base-uncased", "someone/a-model"])
def test_a_hub_name_without_a_network(hub: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: not found locally.*hub is not reachable; give a local folder"):
        load_checkpoint(name)


def test_a_hub_name_in_the_cache(hub: Path) -> None:
    cached = hub / "models--someone--a-model"
    save(cached / "snapshots" / "0123abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123abc")
    checkpoint = load_checkpoint("someone/a-model")
    assert checkpoint.name == "someone/a-model"
    assert shared_depth(checkpoint.model, body()) == 3


@pytest.mark.parametrize("source", ["./rain", "no/such/folder", "/no/such", "a b", Path("rain"), "", ".."])
def test_not_a_folder(source: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"no such folder; give|no config.json"):
        load_checkpoint(source)


def test_a_file_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a file, not a model folder"):
        load_checkpoint(save(tmp_path / "model") / "model.safetensors")


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def leave_a_run_folder(folder: Path) -> None:
    (folder / "checkpoint-500").mkdir()
    (folder / "config.json").rename(folder / "checkpoint-500" / "config.json")


def leave_an_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")


def ask_for_code(folder: Path) -> None:
    edit_config(folder, auto_map={"AutoModel": "modeling.Model"})


def ask_for_tokenizer_code(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["tokenization.T", null]}}')


def name_an_unknown_type(folder: Path) -> None:
    edit_config(folder, model_type="rainformer")


def be_an_encoder_decoder(folder: Path) -> None:
    edit_config(folder, model_type="t5", is_encoder_decoder=True)


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def truncate_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50])


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def corrupt_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"dtype"', b'"dtypo"', 1))


def hold_no_tensors(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")


def leave_a_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def break_index(folder: Path) -> None:
    remove_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}}')


def drop_a_block(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.layer.1.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def change_a_shape(folder: Path) -> None:
    edit_config(folder, intermediate_size=38)


def split_heads_unevenly(folder: Path) -> None:
    edit_config(folder, num_attention_heads=5)


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def outgrow_the_embedding(folder: Path) -> None:
    tokenizer([*WORDS, "drizzle", "mist", "fog"]).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "needle"),
    [
        (remove_config, r"model: no config\.json"),
        (leave_a_run_folder, r"no config\.json.*did you mean .*checkpoint-500"),
        (leave_an_adapter, "contains both an adapter and a full model"),
        (break_config, r"config\.json: cannot be read as JSON"),
        (list_config, r"config\.json: expected a JSON object"),
        (ask_for_code, r"config\.json: needs remote code .*does not run code"),
        (ask_for_tokenizer_code, r"tokenizer_config\.json: needs remote code"),
        (name_an_unknown_type, "cannot load this rainformer"),
        (be_an_encoder_decoder, "t5 is an encoder-decoder"),
        (remove_weights, r"no weights \(model\.safetensors\)"),
        (truncate_weights, r"model\.safetensors: truncated or corrupted"),
        (truncate_header, r"model\.safetensors: truncated or corrupted"),
        (empty_weights, r"model\.safetensors: truncated or corrupted"),
        (corrupt_header, r"model\.safetensors: truncated or corrupted"),
        (hold_no_tensors, r"model\.safetensors: contains no tensors"),
        (leave_a_pointer, r"model\.safetensors: a Git LFS pointer.*git lfs pull"),
        (break_index, r"index\.json: has no valid weight_map"),
        (drop_a_block, r"lack 16 tensors of BertModel \(such as encoder\.layer\.1\.attention.*at random"),
        (change_a_shape, r"encoder\.layer\.0\..* has shape \[37(, 32)?\] in the weights, but \[38(, 32)?\]"),
        (split_heads_unevenly, r"cannot load this bert: .*multiple of the number of attention heads"),
        (remove_tokenizer, "no tokenizer .*save_pretrained"),
        (break_tokenizer, "the tokenizer cannot be loaded"),
        (outgrow_the_embedding, "'fog' the id 12, but the model has 12 embeddings"),
    ],
)
def test_a_damaged_folder(tmp_path: Path, damage: Callable[[Path], None], needle: str) -> None:
    folder = save(tmp_path / "model")
    load_checkpoint(folder)  # whole before
    damage(folder)
    with pytest.raises(CheckpointError, match=needle) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_pickles_only_where_allowed(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: a pickle.*allow_pickle=True"):
        load_checkpoint(folder)
    assert shared_depth(load_checkpoint(folder, allow_pickle=True).model, body()) == 3


class Payload:
    """An object whose unpickling would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_an_allowed_pickle_still_runs_no_code(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"payload": Payload(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot load this bert"):
        load_checkpoint(folder, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        ({"dtype": "int8"}, "unknown dtype 'int8'.*float32"),
        ({"device": "rain"}, "unknown device 'rain'; use auto, cpu"),
    ],
)
def test_unknown_options(tmp_path: Path, options: dict[str, str], needle: str) -> None:
    with pytest.raises(OptionError, match=needle):
        load_checkpoint(save(tmp_path / "model"), **options)


@torch.no_grad()
def tune(model: PreTrainedModel, block: int) -> PreTrainedModel:
    """Change one bias of one block."""
    next(p for name, p in block_stack(model)[block].named_parameters()).flatten()[0] += 1
    return model


@pytest.mark.equality
@pytest.mark.parametrize("family", CONFIGS)
def test_shared_depth_is_the_first_block_that_differs(family: str) -> None:
    assert shared_depth(body(family), body(family)) == 3
    for block in range(3):
        base, tuned = body(family), tune(body(family), block)
        assert shared_depth(base, tuned) == shared_depth(tuned, base) == block
        same = [torch.equal(*pair) for pair in zip(hidden_layers(base), hidden_layers(tuned), strict=True)]
        assert same == [layer <= block for layer in range(4)]


@pytest.mark.parametrize("family", CONFIGS)
def test_other_embeddings_share_nothing(family: str) -> None:
    tuned = body(family)
    with torch.no_grad():
        tuned.get_input_embeddings().weight[5, 0] += 1
    assert shared_depth(body(family), tuned) == -1


@pytest.mark.parametrize(("family", "norm"), FINAL_NORM.items())
def test_another_final_norm_changes_the_last_layer_alone(family: str, norm: str) -> None:
    base, tuned = body(family), body(family)
    with torch.no_grad():
        tuned.get_submodule(norm).weight[0] += 1
    assert shared_depth(base, tuned) == 2
    same = [torch.equal(*pair) for pair in zip(hidden_layers(base), hidden_layers(tuned), strict=True)]
    assert same == [True, True, True, False]


def test_a_pooler_is_no_hidden_layer() -> None:
    tuned = body()
    with torch.no_grad():
        tuned.pooler.dense.bias += 1
    assert shared_depth(body(), tuned) == 3


@pytest.mark.parametrize(("family", "field"), [("bert", "num_hidden_layers"), ("gpt2", "n_layer")])
def test_a_truncated_copy_shares_all_but_its_last_layer(tmp_path: Path, family: str, field: str) -> None:
    whole, folder = body(family), save(tmp_path / "model", body(family))
    edit_config(folder, **{field: 2})
    short = load_checkpoint(folder).model
    # Layer 2 is the last of one and not of the other, which no check of weights can tell to be harmless.
    assert shared_depth(whole, short) == shared_depth(short, whole) == 1
    assert torch.equal(hidden_layers(whole)[1], hidden_layers(short)[1])


@pytest.mark.parametrize(
    ("changes", "depth"),
    [
        ({"hidden_act": "relu"}, -1),
        ({"layer_norm_eps": 1e-3}, -1),
        ({"num_attention_heads": 4}, -1),
        ({"is_decoder": True}, -1),
        ({"hidden_dropout_prob": 0.3, "classifier_dropout": 0.2, "num_labels": 5, "architectures": ["X"]}, 3),
    ],
)
def test_configs_that_change_the_computation(changes: dict[str, object], depth: int) -> None:
    assert shared_depth(body(), body(**changes)) == depth


def test_other_dtypes_and_classes_share_nothing() -> None:
    assert shared_depth(body(), body().double()) == -1
    assert shared_depth(body(), body("roberta")) == -1


def test_blocks_that_share_weights() -> None:
    config = transformers.AlbertConfig(**tiny.shape(SIZE), embedding_size=16)
    model = build(config)
    with pytest.raises(CheckpointError, match="AlbertModel: expected one list of its 3 transformer blocks, found none"):
        block_stack(model)
    assert n_layers(model) == shared_depth(model, build(config)) == 3
    assert shared_depth(model, build(config, seed=1)) == -1


def test_blocks_split_into_parts() -> None:
    model = build(transformers.XLMConfig(vocab_size=12, emb_dim=32, n_layers=3, n_heads=2))
    with pytest.raises(CheckpointError, match=r"XLMModel: .* found 4 lists \(attentions"):
        block_stack(model)


def test_a_model_without_blocks() -> None:
    model = build(transformers.ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8))
    with pytest.raises(CheckpointError, match="ResNetModel: its config has no num_hidden_layers"):
        n_layers(model)


def with_tokenizer(name: str, pieces: PreTrainedTokenizerFast) -> Checkpoint:
    return Checkpoint(name, body(), pieces, "")


def test_one_tokenizer_for_both() -> None:
    texts = ["it rains.", "It pours."]
    base = with_tokenizer("base", tokenizer())
    check_same_tokenizer(base, with_tokenizer("tuned", tokenizer()), texts)
    swapped = [*WORDS[:-2], ".", "pour"]
    for words, needle in [
        (swapped, r"base \(10 tokens\) and tuned \(10 tokens\) differ: token '\.' is 9 in one and 8 in the other"),
        (WORDS[:-1], r"tuned \(9 tokens\) differ: token '\.' is 9 in one and absent in the other; compare"),
    ]:
        with pytest.raises(CheckpointError, match=needle):
            check_same_tokenizer(base, with_tokenizer("tuned", tokenizer(words)), texts)
    with pytest.raises(CheckpointError, match=r"encode 'It pours\.' differently: .*\[UNK\].* and '\[CLS\] it"):
        check_same_tokenizer(base, with_tokenizer("tuned", tokenizer(lowercase=True)), texts)


def test_templates_of_pairs_count() -> None:
    other = tokenizer()
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    with pytest.raises(CheckpointError, match="encode 'it' differently"):
        check_same_tokenizer(with_tokenizer("base", tokenizer()), with_tokenizer("tuned", other), ["it"])


def test_layers_are_numbers_ranges_and_counted_from_the_end() -> None:
    assert parse_layers("all", 3) == (0, 1, 2, 3)
    assert parse_layers("0, 2-3,-1", 12) == (0, 2, 3, 12)
    assert parse_layers("-3--1", 12) == (10, 11, 12)
    assert parse_layers(range(5, 0, -2), 12) == (1, 3, 5)
    assert parse_layers(-13, 12) == (0,)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (13, r"there is no layer 13; this model has layers 0 to 12 \(or -13 to -1"),
        ("3-14", "there is no layer 3-14; this model has layers 0 to 12"),
        ("-14", "there is no layer -14"),
        ("top", "'top' is not a layer; this model has layers 0 to 12.*such as 0,3-5,-1"),
        ([1.5], "1.5 is not a layer"),
        ("5-3", "the range of layers 5-3 runs from 5 to 3"),
        ([], "no layers given"),
    ],
)
def test_layers_that_are_none(layers: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_layers(layers, 12)


@pytest.mark.parametrize("family", CONFIGS)
def test_random_weights_are_drawn_from_the_seed_alone(family: str) -> None:
    given = Checkpoint("tiny", body(family), tokenizer(), "0f")
    state = torch.get_rng_state()
    first, again, other = (randomised(given, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert type(first.model) is type(given.model)
    assert shared_depth(first.model, again.model) == n_layers(given.model)
    assert shared_depth(first.model, other.model) == shared_depth(first.model, given.model) == -1
    assert first.content_hash == again.content_hash
    assert len({checkpoint.content_hash for checkpoint in (given, first, other)}) == 3
    assert [checkpoint.name for checkpoint in (first, other)] == ["tiny-random-1", "tiny-random-2"]
    assert first.tokenizer is given.tokenizer
    assert not first.model.training
    assert not any(parameter.requires_grad for parameter in first.model.parameters())


def test_every_random_matrix_differs_from_the_trained_one(model_dir: Path) -> None:
    trained = load_checkpoint(model_dir, dtype="float64")
    drawn = randomised(trained, 0).model
    assert drawn.dtype == torch.float64
    for (name, ours), theirs in zip(drawn.named_parameters(), trained.model.parameters(), strict=True):
        if name.startswith("pooler."):
            continue
        assert not torch.equal(ours, theirs), name
        if ours.ndim == 2 and "LayerNorm" not in name:
            assert ours.std().item() == pytest.approx(0.02, rel=0.05), name


def test_a_random_model_of_another_shape_has_another_hash() -> None:
    small, large = (Checkpoint("tiny", body("bert", intermediate_size=size), tokenizer(), "0f") for size in (37, 38))
    assert randomised(small, 0).content_hash != randomised(large, 0).content_hash


@pytest.mark.parametrize("seed", [-1, 1.0, True, 2**63])
def test_a_seed_that_is_none(seed: Any) -> None:
    with pytest.raises(OptionError, match="give a whole number"):
        randomised(Checkpoint("tiny", body(), tokenizer(), "0f"), seed)


ENCODERS = ("bert", "roberta", "distilbert", "electra", "modernbert")


def classifier(family: str) -> PreTrainedModel:
    """A model with a head, and with so much dropout that it shows."""
    config = CONFIGS[family]()
    for name in ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.5)
    return build(config, head="ForSequenceClassification")


@pytest.mark.parametrize("family", ENCODERS)
def test_frozen_blocks_learn_nothing_and_drop_nothing(family: str) -> None:
    model = classifier(family)
    freeze(model, 1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.train()
    tokens = torch.tensor([[2, 5, 6, 7, 9, 3]])
    torch.manual_seed(0)
    first, second = (model(tokens, labels=torch.tensor([1]), output_hidden_states=True) for _ in range(2))
    shared = [torch.equal(*layers) for layers in zip(first.hidden_states, second.hidden_states, strict=True)]
    assert shared == [True, True, True, False]
    assert not first.hidden_states[2].requires_grad  # no gradient is computed below
    first.loss.backward()
    free = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    blocks = {name for name in before if any(f".{i}." in name for i in range(3))}
    assert {name for name in free & blocks if ".2." not in name} == set()
    assert {name for name in blocks if ".2." in name} <= free
    assert not any("embeddings" in name for name in free)
    assert any("classifier" in name for name in free)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0, weight_decay=0.1).step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved
    assert moved <= free


def test_all_blocks_and_none_can_be_frozen() -> None:
    model = classifier("bert")
    freeze(model, -1)
    assert all(parameter.requires_grad for parameter in model.parameters())
    freeze(model, 2)
    free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert free == {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("last", [-2, 3, 12])
def test_a_block_that_cannot_be_frozen(last: int) -> None:
    with pytest.raises(OptionError, match=f"up to block {last}: this model has blocks 0 to 2"):
        freeze(body(), last)


@pytest.mark.equality
@pytest.mark.parametrize("family", ENCODERS)
def test_a_truncated_model_computes_what_its_first_blocks_did(tmp_path: Path, family: str) -> None:
    model = classifier(family)
    with torch.no_grad():
        before = model(torch.tensor([[2, 5, 6, 7, 9, 3]]), output_hidden_states=True).hidden_states
    truncate(model, 2)
    assert len(block_stack(model.base_model)) == n_layers(model) == 2
    folder = save(tmp_path / "cut", model)
    loaded = load_checkpoint(folder).model
    assert n_layers(loaded) == 2
    after = hidden_layers(loaded)
    assert len(after) == 3
    # The last hidden layer has been through the final norm, where there is one.
    last = 2 if family in FINAL_NORM else 3
    assert all(torch.equal(*layers) for layers in zip(before[:last], after[:last], strict=True))
    # Layer 2 is the last of one model and not of the other, so it is not taken to be the same.
    assert shared_depth(load_checkpoint(save(tmp_path / "whole", classifier(family))).model, loaded) == 1


def test_the_pooler_of_a_truncated_model_is_kept_or_drawn_anew() -> None:
    model, kept, drawn, again = (body() for _ in range(4))
    truncate(kept, 1)
    assert torch.equal(kept.pooler.dense.weight, model.pooler.dense.weight)
    for other in (drawn, again):
        torch.manual_seed(3)
        truncate(other, 1, pooler="reset")
    assert not torch.equal(drawn.pooler.dense.weight, model.pooler.dense.weight)
    assert torch.equal(drawn.pooler.dense.weight, again.pooler.dense.weight)
    assert drawn.pooler.dense.weight.std().item() == pytest.approx(model.config.initializer_range, rel=0.2)


@pytest.mark.parametrize(
    ("family", "blocks", "pooler", "said"),
    [
        ("bert", 0, "keep", "cannot keep 0 blocks: this model has 3; give a number from 1 to 3"),
        ("bert", 4, "keep", "cannot keep 4 blocks"),
        ("bert", 2, "drop", "unknown pooler option 'drop'; choose one of keep, reset"),
        ("distilbert", 2, "reset", "DistilBertModel has no pooler to reset"),
    ],
)
def test_a_model_that_cannot_be_cut_so(family: str, blocks: int, pooler: str, said: str) -> None:
    model = body(family)
    with pytest.raises(OptionError, match=said):
        truncate(model, blocks, pooler=pooler)
    assert len(block_stack(model)) == n_layers(model) == 3


@pytest.mark.parametrize("change", [lambda model: freeze(model, 0), lambda model: truncate(model, 1)])
def test_blocks_that_share_their_weights_are_told(change: Callable[[PreTrainedModel], None]) -> None:
    config = transformers.AlbertConfig(**tiny.shape(SIZE), embedding_size=16)
    with pytest.raises(CheckpointError, match="AlbertModel: expected one list of its 3 transformer blocks"):
        change(transformers.AlbertModel(config))


@pytest.mark.parametrize("family", ENCODERS)
def test_a_head_is_put_on_a_body(tmp_path: Path, family: str) -> None:
    checkpoint = load_checkpoint(save(tmp_path / family, body(family)))
    labels = {0: "no", 1: "yes", 2: "who knows"}
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(with_head(checkpoint, transformers.AutoModelForSequenceClassification, id2label=labels))
    for model in made:
        assert model.config.id2label == labels
        weights = {name: weight for name, weight in model.base_model.state_dict().items() if "pooler" not in name}
        given = checkpoint.model.state_dict()
        assert all(torch.equal(weight, given[name]) for name, weight in weights.items())
        assert all(parameter.requires_grad for parameter in model.parameters())
    heads = [torch.cat([p.flatten() for n, p in m.named_parameters() if "classifier" in n]) for m in made]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())


def test_a_pooler_that_the_files_lack_is_drawn_with_the_head(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    weights = {name: w for name, w in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    poolers = []
    for outside in (5, 6):
        torch.manual_seed(outside)  # of no account to the pooler of the body
        checkpoint = load_checkpoint(folder)
        torch.manual_seed(0)
        model = with_head(checkpoint, transformers.AutoModelForSequenceClassification)
        poolers.append(model.base_model.pooler.dense.weight)
    assert checkpoint.drawn == {"pooler.dense.weight", "pooler.dense.bias"}
    assert torch.equal(*poolers)


def test_a_body_without_such_a_head_is_told(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save(tmp_path / "llama", body("llama")))
    with pytest.raises(CheckpointError, match="AutoModelForMultipleChoice has no head for a llama"):
        with_head(checkpoint, transformers.AutoModelForMultipleChoice)


# ----------------------------------------------------------------------------------- models saved in less usual ways


T5_SHAPE = {
    "vocab_size": SIZE,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_heads": 4,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("family", ["T5", "MT5", "UMT5", "LongT5"])
def test_an_encoder_of_an_encoder_decoder_saved_alone(tmp_path: Path, family: str, flag: bool) -> None:
    config = getattr(transformers, f"{family}Config")(**T5_SHAPE)
    model = build(config, head="EncoderModel")
    folder = save(tmp_path / family, model)
    edit_config(folder, is_encoder_decoder=flag)  # both are found in published files
    checkpoint = load_checkpoint(folder)
    assert type(checkpoint.model) is type(model)
    assert (n_layers(checkpoint.model), len(block_stack(checkpoint.model))) == (3, 3)
    assert torch.equal(hidden_layers(checkpoint.model)[-1], hidden_layers(model)[-1])


@pytest.mark.parametrize(
    ("family", "head"), [("T5", "Model"), ("T5", "ForTokenClassification"), ("Bart", "ForCausalLM")]
)
def test_other_parts_of_an_encoder_decoder_are_told(tmp_path: Path, family: str, head: str) -> None:
    small = {"vocab_size": SIZE, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "decoder_attention_heads": 2}
    small |= {"encoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 32}
    config = transformers.T5Config(**T5_SHAPE) if family == "T5" else transformers.BartConfig(**small)
    folder = save(tmp_path / "model", build(config, head=head))
    for flag in (True, False):
        edit_config(folder, is_encoder_decoder=flag)
        with pytest.raises(CheckpointError, match=rf"{family.lower()} is an encoder-decoder type, which is not read"):
            load_checkpoint(folder)


@pytest.mark.parametrize("kind", ["ByT5Tokenizer", "CanineTokenizer"])
def test_tokenizers_without_a_vocabulary_are_read(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    tiny.bert(400 if kind == "ByT5Tokenizer" else 1_114_112, length=16).save_pretrained(folder)
    getattr(transformers, kind)().save_pretrained(folder)
    remove = [path for path in folder.iterdir() if "token" in path.name and path.name != "tokenizer_config.json"]
    assert not [path for path in remove if path.name == "tokenizer.json"]
    tokens = load_checkpoint(folder).tokenizer("it rains", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 8
    assert len(set(tokens)) == 7


@pytest.mark.parametrize(
    "kind", ["BertTokenizer", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "NoTokenizer", 3, None]
)
def test_other_tokenizers_need_their_vocabulary(tmp_path: Path, kind: object) -> None:
    folder = save(tmp_path / "model")
    remove_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    with pytest.raises(CheckpointError, match=r"no tokenizer .*save_pretrained"):
        load_checkpoint(folder)


LAST = "encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "inside"])
@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification"])
def test_names_that_carry_the_prefix_of_a_wrapper_are_read(tmp_path: Path, head: str, prefix: str) -> None:
    folder = save(tmp_path / "model", build(CONFIGS["bert"](), head=head))
    whole = load_checkpoint(folder).model.state_dict()
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if prefix == "inside":  # one module was compiled
        tensors = {name.replace("encoder.", "encoder._orig_mod."): tensor for name, tensor in tensors.items()}
        prefix = "_orig_mod."
    else:
        tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    found = load_checkpoint(folder)
    read = found.model.state_dict()
    assert read.keys() == whole.keys()
    assert {name for name in whole if not torch.equal(whole[name], read[name]) and name not in found.drawn} == set()
    path.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert torch.equal(load_checkpoint(folder, allow_pickle=True).model.get_parameter(LAST), whole[LAST])
    tensors.pop(sorted(name for name in tensors if "layer.1.output" in name)[0])
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="the weights lack"):
        load_checkpoint(folder)


@pytest.mark.parametrize("kind", [transformers.LlamaConfig, transformers.Qwen2Config])
def test_bodies_are_found_under_the_name_that_their_head_gives_them(
    kind: type[transformers.PreTrainedConfig], tmp_path: Path
) -> None:
    model = build(kind(**tiny.shape(SIZE, num_key_value_heads=2)), head="ForQuestionAnswering")
    found = load_checkpoint(save(tmp_path / "model", model)).model
    body = model.transformer.state_dict()
    read = found.state_dict()
    assert read.keys() == body.keys()
    assert all(torch.equal(read[name], body[name]) for name in body)


def test_quantised_and_missing_embeddings_do_not_stop_loading(tmp_path: Path) -> None:
    ibert = build(transformers.IBertConfig(**tiny.shape(SIZE), pad_token_id=0))
    assert embedding_rows(load_checkpoint(save(tmp_path / "ibert", ibert)).model) == SIZE
    clip = build(
        transformers.CLIPConfig(
            text_config=tiny.shape(SIZE, max_position_embeddings=16),
            vision_config={**tiny.shape(SIZE), "image_size": 8, "patch_size": 4},
        )
    )
    assert embedding_rows(load_checkpoint(save(tmp_path / "clip", clip)).model) == SIZE
    outgrow_the_embedding(tmp_path / "ibert")
    with pytest.raises(CheckpointError, match="'fog' the id 12, but the model has 12 embeddings"):
        load_checkpoint(tmp_path / "ibert")


# --------------------------------------------------------------------------------- configs with an entry for each block


BY_BLOCK: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "gpt-neo": lambda: transformers.GPTNeoConfig(
        vocab_size=SIZE, hidden_size=32, num_layers=4, num_heads=2, attention_types=[[["global", "local"], 2]]
    ),
    "longformer": lambda: transformers.LongformerConfig(
        **tiny.shape(SIZE, num_hidden_layers=4), attention_window=[8, 8, 16, 16], pad_token_id=1
    ),
    # A list as long as the model is deep, which is not about blocks.
    "deberta-v2": lambda: transformers.DebertaV2Config(
        **tiny.shape(SIZE, num_hidden_layers=2), relative_attention=True, pos_att_type=["p2c", "c2p"]
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **tiny.shape(SIZE, num_hidden_layers=4), num_key_value_heads=2, head_dim=8, sliding_window=16
    ),
}


@pytest.mark.equality
@pytest.mark.parametrize("name", BY_BLOCK)
def test_settings_of_blocks_are_cut_with_them(tmp_path: Path, name: str) -> None:
    kind = type(BY_BLOCK[name]()).__name__.replace("Config", "Model")
    model: PreTrainedModel = getattr(transformers, kind)(BY_BLOCK[name]()).eval()
    with torch.no_grad():
        before = model(torch.tensor([[2, 5, 6, 7, 9, 3]]), output_hidden_states=True).hidden_states
    blocks = n_layers(model) - 1
    truncate(model, blocks)
    loaded = load_checkpoint(save(tmp_path / "cut", model)).model
    assert n_layers(loaded) == len(block_stack(loaded)) == blocks
    after = hidden_layers(loaded)
    assert len(after) == blocks + 1
    assert all(torch.equal(*layers) for layers in zip(before[:blocks], after[:blocks], strict=True))
    if name == "deberta-v2":
        assert loaded.config.pos_att_type == ["p2c", "c2p"]


@pytest.mark.parametrize("name", ["funnel", "refuses"])
def test_a_model_whose_config_cannot_be_cut_stays_whole(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config = transformers.FunnelConfig(
        vocab_size=SIZE, block_sizes=[1, 1], num_decoder_layers=1, d_model=32, n_head=4, d_head=8, d_inner=48
    )
    model = build(config) if name == "funnel" else body()
    if name == "refuses":
        monkeypatch.setattr(transformers.BertConfig, "from_dict", lambda *_, **__: transformers.BertConfig())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"its config cannot be made to describe 1 blocks .*nothing was changed"):
        truncate(model, 1)
    assert n_layers(model) == (2 if name == "funnel" else 3)
    assert before.keys() == model.state_dict().keys()
