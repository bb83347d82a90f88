"""The names of tensors: what the same tensor is called in two files, and where a name says it lies in the model.

DistributedDataParallel, FSDP and torch.compile put names of their own into those of the tensors they wrap, and some
classes of transformers keep their body under another name than others do: LlamaForQuestionAnswering says `transformer`
where LlamaModel looks for `model`. transformers would draw such weights at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names that torch puts before the names of tensors where a model is wrapped: for several GPUs, or compiled."""

_EMBEDDINGS = frozenset({"wte", "wpe", "shared", "word_emb", "tok_embeddings"})
"""Names of embeddings that do not say so."""


def bare(name: str) -> str:
    """Return the name of a tensor without the names of wrappers.

    >>> bare("_orig_mod.module.encoder._orig_mod.layer.0.weight")
    'encoder.layer.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def path_of_body(names: Iterable[str], missing: Sequence[str]) -> str | None:
    """Return what stands before the names of all missing tensors, once wrappers are taken out of the names.

    Of several paths the shortest is returned, and None where some tensor is absent under each.

    >>> path_of_body(["module.transformer.a.weight", "module.transformer.b.weight"], ["a.weight", "b.weight"])
    'transformer.'
    >>> path_of_body(["transformer.a.weight"], ["a.weight", "b.weight"]) is None
    True
    """
    found = {bare(name) for name in names}
    first = missing[0]
    paths = {name[: len(name) - len(first)] for name in found if name == first or name.endswith(f".{first}")}
    fitting = [path for path in paths if all(path + name in found for name in missing)]
    return min(fitting, key=len, default=None)


class Place(NamedTuple):
    """Where a tensor lies in a model.

    part: "embeddings", "block", or "other" for what is in neither, such as a pooler or a final norm.
    layer: the hidden layer that the block computes, from 1; 0 for embeddings, None for others.
    kind: the module inside the part, such as `attention.self.query`; weight and bias are of one kind.
    stack: the list of blocks that a block is in, such as `encoder.layer`; empty for other parts.
    """

    part: str
    layer: int | None
    kind: str
    stack: str = ""


def place_of(name: str) -> Place:
    """Return the place of a tensor, given its name in the body of a model.

    >>> place_of("encoder.layer.3.attention.self.query.weight")
    Place(part='block', layer=4, kind='attention.self.query', stack='encoder.layer')
    >>> place_of("embeddings.word_embeddings.weight")
    Place(part='embeddings', layer=0, kind='word_embeddings', stack='')
    >>> place_of("pooler.dense.bias")
    Place(part='other', layer=None, kind='pooler.dense', stack='')
    """
    parts = name.split(".")
    module = parts[:-1] or parts
    if (number := _place_of_number(parts)) is not None:
        inside = ".".join(module[number + 1 :]) or parts[-1]
        return Place("block", int(parts[number]) + 1, inside, ".".join(parts[:number]))
    if any(part.startswith("embed") or "embedding" in part or part in _EMBEDDINGS for part in parts):
        kind = ".".join(part for part in module if part != "embeddings") or parts[-1]
        return Place("embeddings", 0, kind)
    return Place("other", None, ".".join(module))


def bodies(ours: Iterable[str], theirs: Iterable[str]) -> tuple[str, str]:
    """Return what stands before the names of the body's tensors in two sets of names of one architecture.

    The lists of blocks tell: they have one name, after what a head or wrapper puts before it. Where there are none, or
    they have nothing in common, both paths are empty.

    >>> bodies(["bert.encoder.layer.0.a", "bert.pooler.b"], ["encoder.layer.0.a", "pooler.b"])
    ('bert.', '')
    """
    first, second = (_stack(names) for names in (ours, theirs))
    same = 0
    while same < min(len(first), len(second)) and first[-1 - same] == second[-1 - same]:
        same += 1
    if not same:
        return "", ""
    return "".join(f"{part}." for part in first[:-same]), "".join(f"{part}." for part in second[:-same])


def _stack(names: Iterable[str]) -> list[str]:
    """Return the parts of the name of the list of blocks with most tensors; none where there is no such list."""
    split = [name.split(".") for name in names]
    stacks = Counter(tuple(parts[:number]) for parts in split if (number := _place_of_number(parts)))
    return list(stacks.most_common(1)[0][0]) if stacks else []


def _place_of_number(parts: Sequence[str]) -> int | None:
    """Return the place of the first part that is a number, which is that of a block."""
    return next((place for place, part in enumerate(parts) if part.isdecimal()), None)
