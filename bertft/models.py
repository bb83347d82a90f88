"""Checkpoints: loading the body of one, making it ready to train, and asking how far two of them are the same model.

Everything that could give wrong numbers in silence is refused here, before a forward pass is paid for: weights that
are missing and would be drawn at random, a tokenizer that transformers would invent, code or pickles that a stranger
wrote. Files are checked by `bertft.checkpoint_files` first and read by transformers second, so that the message names
the file.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers import __version__ as transformers_version
from transformers.utils import logging as transformers_logging

from bertft.adapters import Adapter, find_adapter, merged
from bertft.checkpoint_files import (
    check_tokenizer_files,
    checked_config,
    checked_weights,
    first_line,
    has_tokenizer,
    hash_files,
    resolved,
)
from bertft.errors import CheckpointError, OptionError

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}

ALIGNMENT = 64
"""Bytes at whose multiples torch begins its tensors on the CPU."""

POOLERS = ("keep", "reset")
"""What can be done with the pooler of a model that is cut down."""

_LONGEST = 2**31 - 1  # stands for "no limit", which transformers writes as 10^30
_LAYERS = re.compile(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?")

# Config fields with no say in what a body computes in evaluation mode; any other difference counts.
_HARMLESS_FIELDS = frozenset(
    {
        *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"),
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "biaffine"),
        *("output_hidden_states", "output_attentions", "return_dict", "use_cache", "gradient_checkpointing"),
        *("initializer_range", "bos_token_id", "eos_token_id", "num_hidden_layers", "n_layer", "n_layers"),
    }
)
_HARMLESS_WORDS = ("drop", "classifier", "summary")

# Names of the norm that follows the last block, where it stands beside the blocks.
_FINAL_NORMS = frozenset({"norm", "norm_f", "ln_f", "final_norm", "final_layer_norm", "final_layernorm"})


@dataclass(frozen=True)
class Checkpoint:
    """A model body in evaluation mode with its tokenizer.

    `name` is for display: the folder's name or the hub's. `content_hash` is the sha256 over the names, sizes and bytes
    of `config.json` and the weight files, so it tells a truncated config from a whole one, and does not depend on the
    dtype or device asked for; that of an adapter covers its base too. `drawn` names the tensors that the files lack,
    which can only be the pooler's. `folder` is where the files were found, and `base` is the checkpoint that an adapter
    was merged into.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    content_hash: str
    drawn: frozenset[str] = frozenset()
    folder: Path | None = None
    base: Checkpoint | None = None


def load_checkpoint(
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    allow_pickle: bool = False,
    present: Iterable[Checkpoint] = (),
) -> Checkpoint:
    """Load the body of a local folder or hub name: no task head, no gradients, evaluation mode.

    An adapter, as `peft` saves it, is merged into a copy of the base that its config names, which takes the memory of
    the adapted weights beside that of the base; its tokenizer is the adapter's own or else the base's. A base that is
    among the checkpoints `present`, by its folder or by its content, is not read again.

    Weights are read from safetensors; `allow_pickle` admits `pytorch_model.bin` where there are none, read with
    torch's weights-only unpickler. Raises `CheckpointError` for a folder or name that holds no usable model, and
    `OptionError` for an unknown dtype or an absent device.

    >>> load_checkpoint("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    bertft.errors.CheckpointError: no/such/folder: no such folder; ...
    """
    torch_dtype = _known_dtype(dtype)
    torch_device = present_device(device)
    folder = resolved(source, allow_pickle=allow_pickle)
    name = _display_name(folder.resolve()) if Path(source).expanduser().is_dir() else str(source)
    if (adapter := find_adapter(folder, allow_pickle=allow_pickle)) is not None:
        fitting = [found for found in present if (found.model.device, found.model.dtype) == (torch_device, torch_dtype)]
        base = _base_of(adapter, fitting, device=device, dtype=dtype, allow_pickle=allow_pickle)
        tokenizer = _load_tokenizer(folder) if has_tokenizer(folder) else base.tokenizer
        model = merged(adapter, base.model)
        _check_embedding_covers(folder, model, tokenizer)
        ours, theirs = model.get_parameter, base.model.get_parameter
        still_drawn = frozenset(key for key in base.drawn if torch.equal(ours(key), theirs(key)))
        content_hash = adapter.content_hash(base.content_hash)
        return Checkpoint(name, model, tokenizer, content_hash, still_drawn, folder.resolve(), base)
    config = checked_config(folder)
    weights = checked_weights(folder, allow_pickle=allow_pickle)
    check_tokenizer_files(folder)
    tokenizer = _load_tokenizer(folder)
    model, drawn = _load_body(folder, config, torch_dtype, safetensors=weights[0].suffix == ".safetensors")
    _check_embedding_covers(folder, model, tokenizer)
    # A cache of keys and values serves generation alone, and would hold every layer of every batch in memory.
    model.config.use_cache = False
    model.train(False).requires_grad_(False).to(torch_device)
    _align(model)
    return Checkpoint(name, model, tokenizer, _content_hash(folder, weights), drawn, folder.resolve())


def randomised(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """A model of the same config whose weights are all drawn anew, as before pre-training, with the same tokenizer.

    It is the floor of a probe: what words and their order alone give away. torch's own generators are left as they
    were. `content_hash` is the sha256 over the config and the drawn weights. Raises `OptionError` for a negative seed.

    Source: Chrupała and Alishahi 2019.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise OptionError(f"seed is {seed!r}; give a whole number that is at least 0")
    given = checkpoint.model
    # The CPU draws, in float32, so that a seed means the same weights on every device and in every dtype (and on
    # another kind of processor the same but for the last bits: torch computes logarithms and cosines by its vectors).
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), quiet_transformers():
        torch.default_generator.manual_seed(seed)
        model = type(given)(copy.deepcopy(given.config))
    digest = hashlib.sha256(json.dumps(_computation(model, n_layers(model)), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().numpy().data)
    model.train(False).requires_grad_(False).to(device=given.device, dtype=given.dtype)
    return Checkpoint(f"{checkpoint.name}-random-{seed}", model, checkpoint.tokenizer, digest.hexdigest())


def n_layers(model: PreTrainedModel) -> int:
    """The number of transformer blocks; hidden layers are counted 0 (embeddings) to this number."""
    return int(_body_setting(model, "num_hidden_layers"))


def hidden_size(model: PreTrainedModel) -> int:
    """The width of the hidden states."""
    return int(_body_setting(model, "hidden_size"))


def parse_layers(layers: str | int | Iterable[int], depth: int) -> tuple[int, ...]:
    """The hidden layers meant, increasing, of a model of `depth` blocks; raises `OptionError` for one it has not.

    >>> parse_layers("0,3-5,-1", depth=12)
    (0, 3, 4, 5, 12)
    """
    known = f"this model has layers 0 to {depth} (or -{depth + 1} to -1, counted from the last)"
    if layers == "all":
        return tuple(range(depth + 1))
    chosen: set[int] = set()
    parts = layers.split(",") if isinstance(layers, str) else layers if isinstance(layers, Iterable) else [layers]
    for part in parts:
        match = _LAYERS.fullmatch(str(part))
        if match is None:
            raise OptionError(f"{part!r} is not a layer; {known}; write all, a number, or a list such as 0,3-5,-1")
        ends = [int(end) for end in match.groups() if end is not None]
        if not all(-depth - 1 <= end <= depth for end in ends):
            raise OptionError(f"there is no layer {str(part).strip()}; {known}")
        first, last = (ends[0] % (depth + 1), ends[-1] % (depth + 1))
        if first > last:
            raise OptionError(
                f"the range of layers {str(part).strip()} runs from {first} to {last}; write the lower end first"
            )
        chosen.update(range(first, last + 1))
    if not chosen:
        raise OptionError(f"no layer was asked for; {known}")
    return tuple(sorted(chosen))


def length_limit(checkpoint: Checkpoint) -> int:
    """The most tokens the model and its tokenizer take, special ones included."""
    limit = getattr(checkpoint.model.config, "max_position_embeddings", None) or _LONGEST
    for name, module in checkpoint.model.named_modules():
        # RoBERTa and its kin count positions from the padding token's number + 1.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limit -= module.padding_idx + 1
    return int(min(limit, checkpoint.tokenizer.model_max_length, _LONGEST))


def pad_id(checkpoint: Checkpoint) -> int:
    """The number that fills up shorter sentences of a batch: the model's own, the tokenizer's, or else 0."""
    found = checkpoint.model.config.pad_token_id
    return int((checkpoint.tokenizer.pad_token_id or 0) if found is None else found)


def find_body(model: torch.nn.Module) -> PreTrainedModel:
    """The transformer inside a model with a head, an adapter or a wrapper around it; a bare one is its own.

    Raises `CheckpointError` where there is none, or several.

    >>> from transformers import BertConfig, BertForMaskedLM
    >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=5)
    >>> type(find_body(BertForMaskedLM(config))).__name__
    'BertModel'
    """
    known = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    inner = [one for one in known if not any(isinstance(part, PreTrainedModel) for part in list(one.modules())[1:])]
    if len(inner) != 1:
        names = f" ({', '.join(type(one).__name__ for one in inner)})" if inner else ""
        raise CheckpointError(f"{type(model).__name__}: expected one transformer inside, found {len(inner)}{names}")
    return inner[0]


def with_head(checkpoint: Checkpoint, head: Any, **settings: Any) -> PreTrainedModel:
    """A new model with the checkpoint's body and a head drawn from torch's generator, all of it ready to train.

    head: an auto class such as `AutoModelForSequenceClassification`.  settings: fields of the config, such as
    `id2label`.  A pooler that the checkpoint's files lack is drawn with the head. The checkpoint stays as it is.
    Raises `CheckpointError` where transformers has no such head for this body.

    >>> from transformers import AutoModelForQuestionAnswering
    >>> with_head(load_checkpoint("bert-base-cased"), AutoModelForQuestionAnswering)  # doctest: +SKIP
    """
    given = checkpoint.model
    config = copy.deepcopy(given.config)
    for name, value in settings.items():
        setattr(config, name, value)
    try:
        with torch.device("cpu"), quiet_transformers():
            model = head.from_config(config, dtype=given.dtype)
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint.name}: {head.__name__} has no head for a {config.model_type} ({first_line(error)}); "
            "give an encoder of another family"
        ) from error
    body = find_body(model)
    if type(body) is not type(given):
        raise CheckpointError(
            f"{checkpoint.name}: {type(model).__name__} is built on a {type(body).__name__}, and the checkpoint is a "
            f"{type(given).__name__}; give an encoder of another family"
        )
    weights = {name: tensor for name, tensor in given.state_dict().items() if name not in checkpoint.drawn}
    # Heads that have no use for a pooler are built without one.
    body.load_state_dict({name: weights[name] for name in weights.keys() & body.state_dict().keys()}, strict=False)
    model.name_or_path = given.name_or_path
    assert isinstance(model, PreTrainedModel)
    model.to(given.device)  # type: ignore[arg-type]
    return model


def freeze(model: PreTrainedModel, last: int) -> None:
    """Keep the embeddings and blocks 0 to `last` as they are in training: no gradients, and no dropout either.

    `last` = -1 freezes nothing. A task head, a pooler and a final norm stay free. Frozen modules return to evaluation
    mode by themselves whenever they are run, since trainers put the whole model into training mode at every step.
    Raises `OptionError` for a block the model has not, `CheckpointError` where its blocks cannot be told apart.

    >>> from transformers import BertConfig, BertModel
    >>> model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, vocab_size=5))
    >>> freeze(model, 1)
    >>> [block.attention.self.query.weight.requires_grad for block in model.encoder.layer]
    [False, False, True]

    Source: Merchant et al. 2020, section 5.2.
    """
    if last == -1:
        return
    body = find_body(model)
    path, blocks = _find_stack(body)
    if not 0 <= last < len(blocks):
        raise OptionError(
            f"cannot freeze up to block {last}: this model has blocks 0 to {len(blocks) - 1}; "
            "give one of them, or -1 to freeze nothing"
        )
    for module in [*_before_blocks(body, path), *blocks[: last + 1]]:
        # Of a module the attribute requires_grad means nothing; the method sets it for each parameter.
        module.requires_grad_(False)
        module.register_forward_pre_hook(_evaluate)


def truncate(model: PreTrainedModel, blocks: int, *, pooler: str = "keep") -> None:
    """Cut the model down to its first `blocks` blocks, its config with it, so that it saves and loads as such.

    A pooler was trained on the last block and now reads another one: `keep` leaves its weights, `reset` draws them
    anew from torch's generator. Raises `OptionError` where there are not so many blocks, or no pooler to reset,
    `CheckpointError` where its blocks cannot be told apart.

    >>> from transformers import BertConfig, BertModel
    >>> model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, vocab_size=5))
    >>> truncate(model, 2)
    >>> len(model.encoder.layer), model.config.num_hidden_layers
    (2, 2)

    Source: Merchant et al. 2020, section 5.2.
    """
    body = find_body(model)
    stack = block_stack(body)
    depth = len(stack)
    if not 1 <= blocks <= depth:
        raise OptionError(f"cannot keep {blocks} blocks: this model has {depth}; give a number from 1 to {depth}")
    if pooler not in POOLERS:
        raise OptionError(f"unknown treatment of the pooler {pooler!r}; choose one of {', '.join(POOLERS)}")
    old = getattr(body, "pooler", None)
    if pooler == "reset":
        if old is None:
            raise OptionError(f"{type(model).__name__} has no pooler to reset; leave it at keep")
        with torch.device("cpu"):
            new = type(old)(body.config)
        new.apply(body._init_weights)
        body.pooler = new.to(device=body.device, dtype=body.dtype)
    del stack[blocks:]
    # A model with a head and its body usually share one config object, but need not.
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    for config in {id(config): config for config in configs}.values():
        text = config.get_text_config()
        for name, value in vars(text).items():
            if isinstance(value, list) and name.endswith("layer_types") and len(value) == depth:
                setattr(text, name, value[:blocks])
        if hasattr(text, "num_hidden_layers"):
            text.num_hidden_layers = blocks


def block_stack(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The transformer blocks in order; raises `CheckpointError` where a model does not keep them in one list.

    >>> from transformers import GPT2Config, GPT2Model
    >>> len(block_stack(GPT2Model(GPT2Config(n_embd=8, n_layer=3, n_head=2, vocab_size=5))))
    3
    """
    return _find_stack(model)[1]


def shared_depth(base: PreTrainedModel, tuned: PreTrainedModel) -> int:
    """The last hidden layer up to which two models are the same, weights and computation: -1 for none.

    0 says that all before the blocks is equal, k that the first k blocks are too. Weights and buffers are compared
    bit for bit, and configs field by field; where it cannot be told whether a difference matters, it does.

    >>> from transformers import GPT2Config, GPT2Model
    >>> model = GPT2Model(GPT2Config(n_embd=8, n_layer=3, n_head=2, vocab_size=5))
    >>> shared_depth(model, model)
    3
    """
    if type(base) is not type(tuned):
        return -1
    last = min(n_layers(base), n_layers(tuned))
    if _computation(base, last) != _computation(tuned, last):
        return -1
    base_parts, tuned_parts = _parts(base), _parts(tuned)
    if not _equal(base_parts.before, tuned_parts.before):
        return -1
    depth = 0
    while depth < last and _equal(base_parts.block(depth), tuned_parts.block(depth)):
        depth += 1
    # The last hidden layer has been through the final norm, which only the last block of a model meets.
    if depth == last and (n_layers(base) != n_layers(tuned) or not _equal(base_parts.after, tuned_parts.after)):
        depth -= 1
    return depth


def check_same_tokenizer(base: Checkpoint, tuned: Checkpoint, sample_texts: Iterable[str]) -> None:
    """Raise `CheckpointError` unless both tokenizers have one vocabulary and encode the sample texts alike."""
    advice = (
        "compare checkpoints of one vocabulary, or, if the tuned model was trained with the base's tokenizer, "
        "copy the base's tokenizer files into its folder"
    )
    ours, theirs = base.tokenizer.get_vocab(), tuned.tokenizer.get_vocab()
    if ours != theirs:
        token = min(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
        raise CheckpointError(
            f"the tokenizers of {base.name} ({len(ours)} tokens) and {tuned.name} ({len(theirs)} tokens) differ: "
            f"token {token!r} is {ours.get(token, 'absent')} in one and {theirs.get(token, 'absent')} in the other; "
            f"{advice}"
        )
    for text in sample_texts:
        # A pair has a template of its own, which a lone text does not show.
        for texts in ((text,), (text, text)):
            pieces = [checkpoint.tokenizer(*texts, verbose=False) for checkpoint in (base, tuned)]
            if pieces[0].data != pieces[1].data:
                first, second = (
                    " ".join(checkpoint.tokenizer.convert_ids_to_tokens(encoding["input_ids"]))[:80]
                    for checkpoint, encoding in zip((base, tuned), pieces, strict=True)
                )
                raise CheckpointError(
                    f"the tokenizers of {base.name} and {tuned.name} encode {text[:60]!r} differently: "
                    f"{first!r} and {second!r}; {advice}"
                )


def _check_embedding_covers(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    rows = embedding.num_embeddings
    token, index = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if index >= rows:
        raise CheckpointError(
            f"{folder}: the tokenizer gives {token!r} number {index}, but the model embeds {rows} tokens; "
            "the tokenizer belongs to another model, or the embeddings were not resized"
        )


def _display_name(folder: Path) -> str:
    """The folder's name; of `runs/mnli/seed-1/best`, as tuning writes it, what tells it from others: mnli/seed-1."""
    if folder.name in ("best", "last") and folder.parent.name.startswith("seed-"):
        return "/".join(folder.parts[-3:-1]) + ("/last" if folder.name == "last" else "")
    return folder.name


def _base_of(
    adapter: Adapter, present: Iterable[Checkpoint], *, device: str, dtype: str, allow_pickle: bool
) -> Checkpoint:
    """The base that an adapter names, one of those present where it is the same."""
    try:
        folder = resolved(adapter.base, allow_pickle=allow_pickle)
    except CheckpointError as error:
        raise CheckpointError(
            f"{adapter.folder}: the base of this adapter was not found ({error}); "
            "set base_model_name_or_path in its adapter_config.json to where the base lies"
        ) from error
    if find_adapter(folder, allow_pickle=allow_pickle) is not None:
        raise CheckpointError(
            f"{adapter.folder}: its base {adapter.base} is an adapter too; merge that one into its own base "
            "(merge_and_unload), save the whole model, and name it as base_model_name_or_path"
        )
    known = [*present, *(found.base for found in present if found.base is not None)]
    for found in known:
        if found.folder == folder.resolve():
            return found
    if known:
        content_hash = _content_hash(folder, checked_weights(folder, allow_pickle=allow_pickle))
        for found in known:
            if found.content_hash == content_hash:
                return found
    return load_checkpoint(adapter.base, device=device, dtype=dtype, allow_pickle=allow_pickle)


def _content_hash(folder: Path, weights: list[Path]) -> str:
    return hash_files([folder / "config.json", *weights])


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        with quiet_transformers():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers and tokenizers raise a zoo of types for files they cannot read
        raise CheckpointError(
            f"{folder}: the tokenizer cannot be loaded ({first_line(error)}); "
            "save it again with tokenizer.save_pretrained"
        ) from error
    return tokenizer


def _load_body(
    folder: Path, config: Mapping[str, Any], dtype: torch.dtype, *, safetensors: bool
) -> tuple[PreTrainedModel, frozenset[str]]:
    """The body, and the names of the pooler's tensors where the weights lack them."""
    try:
        # A missing pooler is drawn at random: unused here, but it must not move the caller's generator.
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            model, report = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=safetensors,
                weights_only=True,
                ignore_mismatched_sizes=True,  # refused below, with names
                dtype=dtype,
                output_loading_info=True,
            )
    except Exception as error:  # as above: the message is what a person needs, and the cause stays attached
        # torch's own advice on a pickle it refuses is to load it with code and all.
        reason = first_line(error) if safetensors else "the pickle holds more than tensors, or is damaged"
        raise CheckpointError(
            f"{folder}: transformers {transformers_version} cannot load this {config.get('model_type', 'model')}: "
            f"{reason}"
        ) from error
    drawn = frozenset(key for key in report["missing_keys"] if "pooler" in key.split("."))
    missing = sorted(set(report["missing_keys"]) - drawn)
    if missing:
        raise CheckpointError(
            f"{folder}: the weights lack {len(missing)} tensors of {type(model).__name__}, {missing[0]} for one, which "
            "would be drawn at random; the config and the weights are of different models, or the file is incomplete"
        )
    for name, found, wanted in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"{folder}: {name} has shape {list(found)} in the weights and {list(wanted)} by the config; "
            "the two are of different models: save the model again with save_pretrained"
        )
    assert isinstance(model, PreTrainedModel)
    return model, drawn


def _align(model: PreTrainedModel) -> None:
    """Copy weights that lie in a mapped file into memory of torch's own, which begins at a multiple of 64 bytes.

    Where a tensor lies in a file depends on the length of the names before it, and libraries choose their code by where
    an operand begins: the same weights from two files would give hidden states that differ in their last bits.
    """
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep its progress bars and its report on unused head weights off stderr, and put its settings back."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _known_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise OptionError(f"unknown dtype {name!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def present_device(name: str) -> torch.device:
    """The device of a name, `auto` being a GPU where there is one; raises `OptionError` for one that is absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise OptionError(f"device {name!r} is not available ({first_line(error)}); try 'cpu'") from error
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device {name!r} is not one bertft computes on; expected cpu, cuda or cuda:N")
    return device


@dataclass(frozen=True)
class _Parts:
    """The tensors of a model by when they act: before the blocks, in each, and after the last. Poolers are left out."""

    before: Mapping[str, torch.Tensor]
    blocks: tuple[Mapping[str, torch.Tensor], ...]
    after: Mapping[str, torch.Tensor]

    def block(self, index: int) -> Mapping[str, torch.Tensor]:
        # A model without a stack has all its weights in `before`, and its blocks differ in nothing more.
        return self.blocks[index] if self.blocks else {}


def _parts(model: PreTrainedModel) -> _Parts:
    outside = {name: tensor for name, tensor in _tensors(model).items() if not name.startswith("pooler.")}
    try:
        path, stack = _find_stack(model)
    except CheckpointError:
        return _Parts(outside, (), {})
    final_norms = tuple(f"{path.rpartition('.')[0]}.{norm}.".removeprefix(".") for norm in _FINAL_NORMS)
    before: dict[str, torch.Tensor] = {}
    after: dict[str, torch.Tensor] = {}
    for name, tensor in outside.items():
        if name.startswith(final_norms):
            after[name] = tensor
        elif not name.startswith(f"{path}."):
            before[name] = tensor
    return _Parts(before, tuple(_tensors(block) for block in stack), after)


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _equal(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(_equal_tensors(ours[name], theirs[name]) for name in ours)


def _equal_tensors(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.dtype == theirs.dtype and ours.device == theirs.device and torch.equal(ours, theirs)


def _computation(model: PreTrainedModel, blocks: int) -> dict[str, Any]:
    """The config fields that could change what the first blocks of the body compute."""
    fields = {
        # A list of this name tells of each block what kind it is.
        name: value[:blocks] if name.endswith("layer_types") and isinstance(value, list) else value
        for name, value in model.config.to_dict().items()
        if name not in _HARMLESS_FIELDS and not any(word in name for word in _HARMLESS_WORDS)
    }
    return {**fields, "attention": model.config._attn_implementation}


def _find_stack(model: PreTrainedModel) -> tuple[str, torch.nn.ModuleList]:
    """The one list of as many modules as the model has blocks, with its path, nearest the top."""
    count = n_layers(model)
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    ]
    depth = min((name.count(".") for name, _ in lists), default=0)
    nearest = [(name, module) for name, module in lists if name.count(".") == depth]
    if len(nearest) != 1:
        found = f"{len(nearest)} lists ({', '.join(name for name, _ in nearest)})" if nearest else "none"
        raise CheckpointError(
            f"{type(model).__name__}: expected one list of its {count} transformer blocks, found {found}; "
            "models that share weights between blocks or split them into parts keep no such list"
        )
    return nearest[0]


def _before_blocks(body: PreTrainedModel, path: str) -> Iterator[torch.nn.Module]:
    """What acts before the first block: all that stands beside the way down to the list of blocks at `path`."""
    module: torch.nn.Module = body
    for step in path.split("."):
        for name, child in module.named_children():
            if name not in {step, "pooler", *_FINAL_NORMS}:
                yield child
        module = module.get_submodule(step)


def _evaluate(module: torch.nn.Module, _inputs: object) -> None:
    module.train(False)


def _body_setting(model: PreTrainedModel, name: str) -> Any:
    config = model.config.get_text_config()
    if not hasattr(config, name):
        raise CheckpointError(f"{type(model).__name__}: its config has no {name}; bertft needs a transformer of blocks")
    return getattr(config, name)
