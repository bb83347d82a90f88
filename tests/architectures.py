"""Which architectures bertft reads: every text model type of transformers, built tiny, saved, loaded and read.

`python tests/architectures.py` writes the table to docs/architectures.md; `make architectures` does the same.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import tiny
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from bertft.activations.batches import Grouping, make_batch, plan_batches
from bertft.activations.encode import tokenise
from bertft.activations.forward import read_layers, takes
from bertft.activations.manner import manner_of
from bertft.activations.sampling import draw_tokens
from bertft.checkpoints.anatomy import n_layers
from bertft.checkpoints.checkpoint import Checkpoint, length_limit, pad_id
from bertft.checkpoints.load import load_checkpoint
from bertft.data import Example
from bertft.errors import BertftError

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"

SENTENCE = "the a small old river ran under stone bridge while two boys watched boats go by rain fell on town"
WORDS = tuple(SENTENCE.split())
VOCABULARY = 64
MOST_PARAMETERS = 3_000_000

READ, RETURNED, ONE_LENGTH, ALONE = "read", "read as returned", "read by length", "read one by one"
REFUSED, UNTRIED, DIFFERS = "refused", "not tried", "differs"
MEANINGS = {
    READ: "by hooks on its blocks; texts of similar length share a batch",
    RETURNED: "the model returns its hidden states itself, because hooks do not see them; no blocks are skipped",
    ONE_LENGTH: "its hidden states depend on padding, so only texts of one length share a batch",
    ALONE: "its hidden states depend on the other texts of a batch, so each text is read alone",
    REFUSED: "with exit status 2 and the reason",
    UNTRIED: "no small model of the type can be made from its config alone; bertft asks it like any other",
}

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "char_vocab_size", "shape_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "dim", "word_embed_proj_dim", "embed_dim"), 32),
    **dict.fromkeys(("embedding_size", "true_hidden_size", "intra_bottleneck_size", "attention_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "num_single_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers", "num_encoder_layers", "depth"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "num_key_value_heads", "num_kv_heads", "n_head_kv"), 4),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "d_ff", "d_inner", "n_inner", "hidden_dim", "ffn_hidden_size"), 48
    ),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "dense_ffn_hidden_size", "dff", "feed_forward_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("intermediate_size_mlp", "shared_intermediate_size", "dense_intermediate_size"), 16),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 8),
    **dict.fromkeys(("attention_head_size", "global_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("qk_head_dim", "index_head_dim", "kv_channels", "attention_key_size"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "hidden_size_per_layer_input", "laurel_rank"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "num_selected_experts", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 64),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "d_state", "mamba_d_head", "mamba_head_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("lru_width", "conv_dim"), 32),
    **dict.fromkeys(("image_size", "audio_size"), 8),
    **dict.fromkeys(("sliding_window", "attention_window", "attention_chunk_size", "local_attention"), 16),
    **dict.fromkeys(("attention_window_size", "window_size", "chunk_size", "mamba_chunk_size"), 16),
    "patch_size": 4,
    "pad_index": 0,
    "rotary_dim": 4,
    "time_step_rank": 4,
    "mamba_dt_rank": 4,
    "tpu_short_seq_length": VOCABULARY,
    "block_sizes": [1, 1],
}
"""Values that make a model small, by the names that configs give to the sizes."""

# Where these sizes do not go together: the hyperparameters of one type.
OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 0, "mask_token_id": 5, "position_embedding_type": "rotary"},
    "funnel": {"block_sizes": [1, 1], "block_repeats": [1, 1]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "luke": {"entity_vocab_size": VOCABULARY},
    "nemotron": {"num_key_value_heads": 4},
    "reformer": {
        "attn_layers": ["local", "local"],
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "feed_forward_size": 48,
        "local_attn_chunk_length": 8,
    },
}


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    type: str
    model: str
    verdict: str
    why: str = ""

    def __str__(self) -> str:
        return f"| {self.type} | {self.model} | {self.verdict} | {self.why} |"


def text_types() -> list[str]:
    """Return the model types that transformers registers with a body and with a head for text."""
    heads = ("CAUSAL_LM", "MASKED_LM", "TEXT_ENCODING", "SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION")
    text: set[str] = set()
    for head in (*heads, "QUESTION_ANSWERING", "SEQ_TO_SEQ_CAUSAL_LM"):
        text |= set(getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES"))
    return sorted(text & set(modeling_auto.MODEL_MAPPING_NAMES))


def tiny_config(kind: str) -> PreTrainedConfig:
    """Return the config of a small model of a type; raises whatever the class of the config raises."""
    return CONFIG_MAPPING[kind](**_small(CONFIG_MAPPING[kind](), OWN.get(kind, {})))


def _small(config: PreTrainedConfig, own: dict[str, Any]) -> dict[str, Any]:
    """Return the fields to change in a config, and in those nested in it."""
    found: dict[str, Any] = {}
    ids = itertools.count(4)  # behind the special tokens of the tokenizer
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            found[name] = _small(value, {}) | {"model_type": value.model_type}
        elif name in SIZES and value is not None:
            found[name] = SIZES[name]
        elif name == "pad_token_id":
            found[name] = 0 if value is not None else None
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            found[name] = next(ids)
    return found | own


def tiny_model(kind: str) -> PreTrainedModel:
    """Return a small model of a type with random weights; raises `ValueError` where it would not be small."""
    config = tiny_config(kind)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModel.from_config(tiny_config(kind)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def line_of(kind: str) -> Line:
    """Build, save, load and read a model of a type, and return its row of the table."""
    names = modeling_auto.MODEL_MAPPING_NAMES[kind]
    name = names if isinstance(names, str) else names[0]
    try:
        model = tiny_model(kind)
        name = type(model).__name__
        with tempfile.TemporaryDirectory() as place:
            folder = tiny.save(Path(place, kind), model, tiny.tokenizer(WORDS))
            try:
                checkpoint = load_checkpoint(folder)
                manner = manner_of(checkpoint)
            except BertftError as error:
                # Sizes that do not go together say nothing about the type.
                ours = isinstance(error.__cause__, RuntimeError | TypeError)
                return Line(kind, name, UNTRIED if ours else REFUSED, _short(error, place))
    except Exception as error:  # what the config, the model or its own checks raise
        return Line(kind, name, UNTRIED, _short(error, ""))
    try:
        check(checkpoint)
    except Exception as error:
        return Line(kind, name, DIFFERS, _short(error, ""))
    if manner.grouping is not Grouping.PADDED:
        return Line(kind, name, ONE_LENGTH if manner.grouping is Grouping.ONE_LENGTH else ALONE)
    return Line(kind, name, READ if manner.by_hooks else RETURNED)


def check(checkpoint: Checkpoint, tolerance: float = 1e-5) -> None:
    """Raise `AssertionError` unless batches give the hidden states that transformers gives one text at a time."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 15, size=8)
    examples = [Example(" ".join(rng.choice(WORDS, size)), None, "here") for size in lengths]
    texts = tokenise(examples, checkpoint.tokenizer, min(64, length_limit(checkpoint)))
    draw, manner, model = draw_tokens(texts, None, 0), manner_of(checkpoint), checkpoint.model
    layers = range(n_layers(model) + 1)
    for members in plan_batches(texts.lengths, np.arange(len(examples)), 60, manner.grouping):
        batch = make_batch(texts, draw, members, pad_id(checkpoint), model.device)
        rows = read_layers(model, batch, layers, by_hooks=manner.by_hooks).rows
        states = [_hidden_states(model, texts.ids[texts.starts[one] : texts.starts[one + 1]]) for one in members]
        for layer in layers:
            inner = torch.cat([of_text[layer][1:-1] for of_text in states])
            scale = inner.abs().max()
            assert (rows[layer] - inner).abs().max() <= tolerance * scale, f"{type(model).__name__}: layer {layer}"


@torch.inference_mode()
def _hidden_states(model: PreTrainedModel, ids: Any) -> list[torch.Tensor]:
    more = {"use_cache": False} if takes(model, "use_cache") else {}
    outputs = model(input_ids=torch.from_numpy(ids)[None], output_hidden_states=True, **more)
    # Some types return their last hidden state before the final norm among the others, and after it by itself.
    last = getattr(outputs, "last_hidden_state", outputs.hidden_states[-1])
    return [state[0] for state in (*outputs.hidden_states[:-1], last)]


def _short(error: BaseException, place: str) -> str:
    """Return the first line of a message, without folders and addresses, as a cell of the table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = re.sub(r"0x[0-9a-f]+", "0x", lines[0].replace(place, "") if place else lines[0])
    text = re.sub(r"^/?[\w.-]+: ", "", text).replace("|", "/").replace("<", "&lt;")
    text = text.partition("; ")[0]
    return text if len(text) <= 240 else f"{text[:237]}..."


def page(lines: list[Line]) -> str:
    """Return the page of the documentation."""
    counts = {verdict: sum(line.verdict == verdict for line in lines) for verdict in MEANINGS}
    return "\n".join(
        [
            "# Architectures",
            "",
            f"The {len(lines)} text model types of transformers {transformers.__version__}, each tried with a small",
            "model of random weights that was saved, loaded and read. Where a type is read, every hidden layer equals",
            "what transformers returns for one text at a time, to 1e-5 of the largest value. Another type of model is",
            "asked how it can be read once it is loaded.",
            "",
            *(f"- **{verdict}** ({counts[verdict]}): {meaning}." for verdict, meaning in MEANINGS.items()),
            "",
            "This page is written by `make architectures`.",
            "",
            "| model type | class | verdict | reason |",
            "| --- | --- | --- | --- |",
            *map(str, lines),
            "",
        ]
    )


def lines_of(kinds: list[str]) -> Iterator[Line]:
    """Yield the rows of several types, in silence."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for kind in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield line_of(kind)


def main(kinds: list[str]) -> None:
    """Write the page, or print the rows of some types."""
    torch.set_num_threads(1)
    if kinds:
        for line in lines_of(kinds):
            print(line, flush=True)
        return
    lines = list(lines_of(text_types()))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(lines), encoding="utf-8")
    if wrong := [line for line in lines if line.verdict == DIFFERS]:
        sys.exit("other numbers than those of transformers:\n" + "\n".join(map(str, wrong)))


if __name__ == "__main__":
    main(sys.argv[1:])
