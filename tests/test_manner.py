"""Models that cannot be read like BERT: read another way with the same numbers, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from architectures import check

from bertft import cli
from bertft.activations.batches import Batch, Grouping, plan_batches
from bertft.activations.forward import read_layers
from bertft.activations.manner import Manner, manner_of, resumes
from bertft.activations.vectors import word_vectors
from bertft.checkpoints.checkpoint import Checkpoint
from bertft.checkpoints.compare import shared_depth
from bertft.errors import CheckpointError
from bertft.experiments.comparison import Pair
from bertft.experiments.score import score

SENTENCE = "the a small old river ran under stone bridge while two boys watched boats go by rain fell on town"
WORDS = tuple(SENTENCE.split())
SIZE = 24
SHAPE = tiny.shape(SIZE, max_position_embeddings=64)

MODELS: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "albert": lambda: transformers.AlbertConfig(**SHAPE, embedding_size=16),
    "fnet": lambda: transformers.FNetConfig(
        vocab_size=SIZE, hidden_size=32, num_hidden_layers=2, intermediate_size=37, max_position_embeddings=64
    ),
    "longformer": lambda: transformers.LongformerConfig(**SHAPE, attention_window=8, pad_token_id=1),
    "squeezebert": lambda: transformers.SqueezeBertConfig(
        **tiny.shape(SIZE, num_attention_heads=4, intermediate_size=36), embedding_size=32
    ),
    "xlm": lambda: transformers.XLMConfig(
        vocab_size=SIZE, emb_dim=32, n_layers=2, n_heads=2, pad_index=0, pad_token_id=0
    ),
    "xlnet": lambda: transformers.XLNetConfig(vocab_size=SIZE, d_model=32, n_layer=2, n_head=4, d_inner=48),
    "ibert": lambda: transformers.IBertConfig(**SHAPE, pad_token_id=0),
    "funnel": lambda: transformers.FunnelConfig(
        vocab_size=SIZE, block_sizes=[1, 1], num_decoder_layers=1, d_model=32, n_head=4, d_head=8, d_inner=48
    ),
    "xmod": lambda: transformers.XmodConfig(**SHAPE, languages=["en_XX"]),
    "clip": lambda: transformers.CLIPConfig(
        text_config=tiny.shape(SIZE, max_position_embeddings=32),
        vision_config={**tiny.shape(SIZE), "image_size": 8, "patch_size": 4},
    ),
}


def built(name: str, seed: int = 0) -> Any:
    config = MODELS[name]() if name in MODELS else tiny.FAMILIES[name](SIZE)
    model = tiny.build(config, seed=seed)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def checkpoint(model: Any, name: str = "given") -> Checkpoint:
    return Checkpoint(name, model, tiny.tokenizer(WORDS), name)


def saved(folder: Path, model: Any) -> Path:
    return tiny.save(folder, model, tiny.tokenizer(WORDS))


def text_file(folder: Path, count: int = 30) -> Path:
    rng = np.random.default_rng(3)
    path = folder / "text.txt"
    path.write_text("\n".join(" ".join(rng.choice(WORDS, rng.integers(3, 15))) for _ in range(count)) + "\n")
    return path


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_usual_models_are_read_by_hooks_in_padded_batches(name: str) -> None:
    model = built(name)
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    generator = torch.get_rng_state()
    assert manner_of(checkpoint(model)) == Manner(by_hooks=True, grouping=Grouping.PADDED)
    # The model does not notice that it was asked.
    assert torch.equal(torch.get_rng_state(), generator)
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    assert not list(manner_of(checkpoint(model)).notes("given"))


@pytest.mark.parametrize(
    ("name", "manner"),
    [
        ("albert", Manner(by_hooks=False)),
        ("longformer", Manner(by_hooks=False)),
        ("squeezebert", Manner(by_hooks=False)),
        ("xlm", Manner(by_hooks=False)),
        ("xlnet", Manner(by_hooks=False)),
        ("ibert", Manner()),
        ("fnet", Manner(grouping=Grouping.ONE_LENGTH)),
    ],
)
def test_other_models_give_the_hidden_states_of_one_text_at_a_time(name: str, manner: Manner) -> None:
    given = checkpoint(built(name))
    assert manner_of(given) == manner
    check(given)


@pytest.mark.parametrize("name", ["squeezebert", "albert", "xlnet", "longformer"])
def test_hooks_that_do_not_see_every_block_once_are_an_error(name: str) -> None:
    rows = torch.arange(10)
    ids = torch.arange(4, 14).reshape(2, 5)
    batch = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), rows, rows.numpy())
    with pytest.raises(CheckpointError, match=r"Model.*(once each, in order|one list of its|expected \(batch, token)"):
        read_layers(built(name), batch, [0, 1, 2])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("funnel", r"FunnelModel cannot be read layer by layer: .*; use a model of another architecture"),
        (
            "xmod",
            r"XmodModel cannot run on 2 texts of 11 tokens \(ValueError: Input language.*set default_language in the",
        ),
        ("clip", r"CLIPModel cannot run on 2 texts .*it also takes pixel_values"),
    ],
)
def test_models_that_cannot_be_read_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    with pytest.raises(CheckpointError, match=why):
        manner_of(checkpoint(built(name)))
    folders = [str(saved(tmp_path / part, built(name, seed))) for seed, part in enumerate(("base", "tuned"))]
    capsys.readouterr()
    assert cli.main(["score", *folders, "--text", str(text_file(tmp_path))]) == 2
    said = capsys.readouterr().err
    assert said.startswith("bertft: ")
    assert "base" in said
    assert said.count("\n") == 1
    assert "unexpected" not in said


class Mixing(torch.nn.Module):
    """Adds the mean over the batch to the input of a block."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + hidden.mean(dim=0, keepdim=True)


def test_a_model_that_mixes_the_texts_of_a_batch_reads_them_alone() -> None:
    model = built("bert")
    model.embeddings.dropout = torch.nn.Sequential(model.embeddings.dropout, Mixing())
    given = checkpoint(model)
    assert manner_of(given).grouping is Grouping.ALONE
    check(given)
    assert "each text is read alone" in next(iter(manner_of(given).notes("given")))


def test_a_model_that_draws_numbers_is_refused() -> None:
    model = built("bert")
    model.embeddings.dropout = torch.nn.Sequential(Drawing())
    with pytest.raises(CheckpointError, match="given: two runs of BertModel on the same text give different hidden"):
        manner_of(checkpoint(model))


class Drawing(torch.nn.Module):
    """Adds noise, in evaluation mode too."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + torch.randn_like(hidden)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rounding_is_not_taken_for_padding(dtype: torch.dtype) -> None:
    assert manner_of(checkpoint(built("bert").to(dtype))) == Manner()
    assert manner_of(checkpoint(built("fnet").to(torch.float64))).grouping is Grouping.ONE_LENGTH


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_models_of_few_positions_are_asked_with_short_texts(limit: int) -> None:
    given = checkpoint(tiny.bert(SIZE, length=limit))
    assert manner_of(given).by_hooks


@pytest.mark.parametrize("grouping", Grouping)
def test_batches_of_one_length_and_of_one_text(grouping: Grouping) -> None:
    lengths = np.random.default_rng(0).integers(3, 20, size=200)
    chosen = np.flatnonzero(lengths % 5 > 0)
    batches = plan_batches(lengths, chosen, 64, grouping)
    assert sorted(np.concatenate(batches).tolist()) == chosen.tolist()
    if grouping is Grouping.PADDED:
        assert any(len(set(lengths[batch])) > 1 for batch in batches)
    else:
        assert all(len(set(lengths[batch])) == 1 for batch in batches)
        assert all(len(batch) == 1 for batch in batches) == (grouping is Grouping.ALONE)
    assert all(len(batch) * lengths[batch].max() <= 64 for batch in batches)


def independent(folders: list[Path], texts: list[str]) -> list[float]:
    """The RSA of each layer, from the hidden states of one text at a time, in float64."""
    from bertft.checkpoints.load import load_checkpoint

    layers: list[list[Any]] = []
    for folder in folders:
        given = load_checkpoint(folder)
        states: list[Any] = []
        for text in texts:
            ids = given.tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                hidden = given.model(input_ids=ids, output_hidden_states=True).hidden_states
            states.append([one[0, 1:-1].double().numpy() for one in hidden])
        layers.append([np.concatenate(of_layer) for of_layer in zip(*states, strict=True)])
    values = []
    for pair in zip(*layers, strict=True):
        units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in pair]
        above = np.triu_indices(len(units[0]), 1)
        values.append(float(np.corrcoef(*((rows @ rows.T)[above] for rows in units))[0, 1]))
    return values


@pytest.mark.parametrize("name", ["fnet", "xlnet", "albert", "squeezebert"])
def test_scores_do_not_depend_on_the_batches(tmp_path: Path, name: str) -> None:
    folders = [saved(tmp_path / part, built(name, seed)) for seed, part in enumerate(("base", "tuned"))]
    text = text_file(tmp_path)
    expected = independent(folders, text.read_text().splitlines())
    for batch_tokens in (1, 64, 2048):
        scores = score(*folders, text, tokens="all", batch_tokens=batch_tokens)
        assert [row["value"] for row in scores.rows] == pytest.approx(expected, abs=2e-6)
        notes = [note for note in scores.run["notes"] if "depend on padding" in note]
        assert len(notes) == (2 if name == "fnet" else 0)


def test_cached_vectors_do_not_depend_on_the_batches(tmp_path: Path) -> None:
    given = checkpoint(built("fnet"))
    sentences = [WORDS[: 3 + number % 9] for number in range(12)]
    said: list[str] = []
    found = [
        word_vectors(given, sentences, dtype="float32", cache=tmp_path / str(size), batch_tokens=size, say=said.append)
        for size in (1, 1000)
    ]
    for layer in found[0].layers:
        np.testing.assert_allclose(found[0].layer(layer), found[1].layer(layer), atol=1e-5)
    assert sum("depend on padding" in line for line in said) == 2


def test_models_that_hooks_do_not_see_share_all_layers_or_none(tmp_path: Path) -> None:
    base, same, tuned = (checkpoint(built("squeezebert"), name) for name in ("base", "same", "tuned"))
    with torch.no_grad():
        next(iter(tuned.model.encoder.layers[-1].parameters())).flatten()[0] += 1
    assert shared_depth(base.model, tuned.model) == 2
    assert (Pair.of(base, same).shared, Pair.of(base, tuned).shared) == (3, -1)


def encoder(seed: int = 0) -> Any:
    config = transformers.T5Config(
        vocab_size=SIZE, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, pad_token_id=0
    )
    return tiny.build(config, "EncoderModel", seed)


def test_blocks_that_depend_on_the_first_are_not_skipped(tmp_path: Path) -> None:
    assert all(resumes(checkpoint(built("bert")), layer) for layer in range(3))
    assert [resumes(checkpoint(encoder()), layer) for layer in range(3)] == [True, False, False]
    base, tuned = encoder(), encoder()
    with torch.no_grad():
        for parameter in tuned.encoder.block[2].parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    folders = [saved(tmp_path / "base", base), saved(tmp_path / "tuned", tuned)]
    text = text_file(tmp_path)
    values = [row["value"] for row in score(*folders, text, tokens="all").rows]
    assert values[:3] == [1, 1, 1]
    assert values[3] == pytest.approx(independent(folders, text.read_text().splitlines())[3], abs=2e-6)
    assert values[3] < 0.99999


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (
            RuntimeError("mat1 and mat2\nmore"),
            CheckpointError,
            r"BertModel cannot run .*\(RuntimeError: mat1 and mat2\)",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "out of memory"),
        (RuntimeError("[enforce fail] can't allocate memory"), RuntimeError, "can't allocate"),
        (MemoryError(), MemoryError, "^$"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_what_a_model_raises_is_told_in_one_line(raised: BaseException, expected: Any, said: str) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise raised

    model = built("bert")
    model.encoder.layer[1].forward = fails
    with pytest.raises(expected, match=said) as caught:
        manner_of(checkpoint(model))
    assert "\n" not in str(caught.value)
