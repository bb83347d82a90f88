"""The settings of an adapter that reach peft: those named here, each checked for its type and range.

An `adapter_config.json` comes from anywhere, and peft acts on all of it: it imports modules that the file names, builds
tensors of any size, and matches regular expressions that may take years. Therefore only the fields in `_CHECKS` are
passed on. A field that has only to do with training is dropped. Any other field must have the default of peft.

A regular expression is matched here, with the library `regex`, whose matching can be ended by a time limit; the
standard library's cannot, and no rule about the form of a pattern separates slow ones from those in use. peft gets the
names that matched.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import regex

SECONDS = 2.0
"""How long the regular expressions of one adapter may take in total."""

TYPES = frozenset({"LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA", "LN_TUNING"})
"""The types of adapter that change weights and can be merged; each is compared in the tests with a merge by peft."""

_MOST = 10_000
"""Of entries in a list, and of characters in a name or pattern."""

_TRAINING = re.compile(
    r"\w*dropout|rank_dropout_scale|task_type|peft_type|peft_version|auto_mapping|revision|inference_mode|"
    r"base_model_name_or_path|runtime_config|loftq_config|eva_config|init_ia3_weights|"
    r"target_r|tinit|tfinal|deltaT|beta[12]|orth_reg_weight|total_step|d_initial"
)
"""Fields without an effect on an adapter whose weights are loaded."""

_DRAWN = (True, False, None, "gaussian", "eva", "orthogonal", "lycoris")
"""Initial values of the adapter's own weights, all of which are then loaded."""

_CHANGES_BASE = ("olora", "pissa")
"""Initial values that change the weights of the base, from which they are computed again in the same way."""


class SettingError(ValueError):
    """A setting that is not passed on to peft; the message names it, without the folder."""


@dataclasses.dataclass
class Limits:
    """What the settings of an adapter are checked against.

    `size` is the largest allowed rank, block or number of frequencies; `modules` are the names of all modules of the
    model; `until` is when matching has to end.
    """

    size: int
    modules: tuple[str, ...]
    until: float = dataclasses.field(default_factory=lambda: time.monotonic() + SECONDS)


def peft_settings(given: Mapping[str, Any], known: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Return the keyword arguments for the config of an adapter; raise `SettingError` for one that is not passed on.

    `given` is the content of `adapter_config.json`, and `known` the fields of the class of the config in the installed
    peft, each with its default.

    >>> peft_settings({"r": 4, "lora_dropout": 0.1}, {"r": 8, "lora_dropout": 0.0}, Limits(1024, ("query",)))
    {'r': 4, 'inference_mode': True}
    >>> peft_settings({"megatron_core": "os"}, {"megatron_core": "megatron.core"}, Limits(1024, ("query",)))
    Traceback (most recent call last):
    ...
    bertft.checkpoints.adapter_config.SettingError: megatron_core is 'os', which bertft does not pass on to peft
    """
    passed: dict[str, Any] = {}
    ada = given.get("peft_type") == "ADALORA"
    for name, value in given.items():
        if name in ("init_lora_weights", "init_weights"):
            if (init := _checked_init(name, value)) is not None:
                passed[name] = init
        elif _TRAINING.fullmatch(name) or (name in known and _same(value, known[name])):
            continue
        elif name == "rank_pattern" and ada:
            passed[name] = _rank_masks(value, limits)
        elif name in _CHECKS and name in known:
            passed[name] = _CHECKS[name](name, value, limits)
        elif name in known or not (value is None or value is False or value in ([], {}, "")):
            raise SettingError(f"{name[:60]} is {value!r:.60}, which bertft does not pass on to peft")
    if ada:  # needed by the config, used only in training
        passed["total_step"] = 1
    return {**passed, "inference_mode": True}


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _checked_init(name: str, value: Any) -> str | None:
    if any(value is drawn or (isinstance(value, str) and value == drawn) for drawn in _DRAWN):
        return None
    if name == "init_lora_weights" and isinstance(value, str) and value.lower() in _CHANGES_BASE:
        return value.lower()
    raise SettingError(
        f"{name} is {value!r:.60}, which may change the base in a way that cannot be repeated; convert the adapter "
        "where it was trained (path_initial_model_for_weight_conversion), or merge it there (merge_and_unload)"
    )


def _wanted(name: str, value: Any, wanted: str) -> SettingError:
    return SettingError(f"{name} is {value!r:.60}; expected {wanted}")


def _flag(name: str, value: Any, limits: Limits) -> bool:
    if not isinstance(value, bool):
        raise _wanted(name, value, "true or false")
    return value


def _number(name: str, value: Any, limits: Limits) -> float:
    # A whole number is compared first: one of 400 digits is no float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e9 <= value <= 1e9:
        raise _wanted(name, value, "a number from -1e9 to 1e9")
    return value


def _whole(lowest: int, highest: int | None = None) -> Callable[[str, Any, Limits], int]:
    """Return a check for whole numbers; without `highest`, those up to the largest allowed size."""

    def check(name: str, value: Any, limits: Limits) -> int:
        most = limits.size if highest is None else highest
        if type(value) is not int or not lowest <= value <= most:
            raise _wanted(name, value, f"a whole number from {lowest} to {most}")
        return value

    return check


def _bias(name: str, value: Any, limits: Limits) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"none|all|[a-z0-9]{1,20}_only", value):
        raise _wanted(name, value, "none, all or an …_only")
    return value


def _names(name: str, value: Any, limits: Limits) -> list[str] | None:
    """Check plain names of modules. peft puts them into regular expressions, so there is no other character."""
    found = [value] if isinstance(value, str) else value
    if value is None:
        return None
    if not isinstance(found, list) or len(found) > _MOST:
        raise _wanted(name, value, f"a list of at most {_MOST} names of modules")
    for one in found:
        if not isinstance(one, str) or len(one) > _MOST or not re.fullmatch(r"\w+([.-]\w+)*", one):
            raise _wanted(name, one, "the name of a module")
    return list(found)


def _layers(name: str, value: Any, limits: Limits) -> list[int] | int | None:
    found = value if isinstance(value, list) else [value]
    if value is None:
        return None
    if len(found) > _MOST or not all(type(one) is int and 0 <= one < 10**6 for one in found):
        raise _wanted(name, value, "the numbers of layers")
    return list(found) if isinstance(value, list) else int(value)


def _modules(name: str, value: Any, limits: Limits) -> list[str] | str | None:
    """Check the modules to adapt: names, `all-linear`, or a regular expression, for which its matches are returned."""
    if not isinstance(value, str):
        return _names(name, value, limits)
    if value.lower() == "all-linear":
        return "all-linear"
    matches = _matching(name, [value], limits)[value]
    if not matches and name == "target_modules":
        raise SettingError(f"target_modules is {value!r:.60}, which matches no module of the base")
    return _alternatives(matches) or None


def _by_module(check: Callable[[str, Any, Limits], Any]) -> Callable[[str, Any, Limits], dict[str, Any]]:
    """Return a check for values by module, where the keys are regular expressions for the end of a module's name."""

    def checked(name: str, value: Any, limits: Limits) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > _MOST:
            raise _wanted(name, value, "an object with a value for each module")
        values = {key: check(f"{name}[{key[:60]!r}]", each, limits) for key, each in value.items()}
        # As in peft, the first pattern that matches counts.
        matches = _matching(name, values, limits, before=r"(.*\.)?(", after=")$")
        return {f"^({_alternatives(matches[key])})": each for key, each in values.items() if matches[key]}

    return checked


def _rank_masks(value: Any, limits: Limits) -> dict[str, list[bool]]:
    """Check which ranks AdaLoRA kept, by the name of a tensor."""
    if not isinstance(value, dict) or len(value) > 10 * _MOST:
        raise _wanted("rank_pattern", value, "an object with a list for each module")
    for name, kept in value.items():
        if not isinstance(kept, list) or len(kept) > limits.size or not all(isinstance(one, bool) for one in kept):
            raise _wanted(f"rank_pattern[{name[:60]!r}]", kept, "a list of true and false")
    return dict(value)


def _matching(
    name: str, patterns: Iterable[str], limits: Limits, before: str = "", after: str = ""
) -> dict[str, list[str]]:
    """Return the modules whose names each pattern matches, and no earlier one; `SettingError` where it takes long."""
    left = list(limits.modules)
    found: dict[str, list[str]] = {}
    for pattern in patterns:
        matches = []
        try:
            # The two libraries agree but for what a brace without a number means.
            if len(pattern) > _MOST or re.search(r"\{\D", pattern):
                raise regex.error("too long, or a brace without a number")
            # Without the surroundings first: a pattern must be whole in itself.
            regex.compile(pattern)
            compiled = regex.compile(f"{before}{pattern}{after}")
            for module in left:
                if compiled.fullmatch(module, timeout=max(1e-6, limits.until - time.monotonic())):
                    matches.append(module)
        except TimeoutError:
            raise SettingError(
                f"{name} has the regular expression {pattern!r:.60}, which takes more than {SECONDS:.0f} s to match "
                "the names of the modules; write the names of the modules as a list"
            ) from None
        except (regex.error, RecursionError, OverflowError, MemoryError) as error:
            raise SettingError(f"{name} has {pattern!r:.60}, which is no regular expression ({error})") from None
        found[pattern] = matches
        taken = set(matches)
        left = [module for module in left if module not in taken]
    return found


def _alternatives(names: Iterable[str]) -> str:
    """Return a regular expression, matched in linear time, for a list of names."""
    return "|".join(re.escape(name) for name in names)


_COUNT, _SIZE = _whole(0), _whole(1)
_SEED = _whole(0, 2**63 - 1)
_CHECKS: dict[str, Callable[[str, Any, Limits], Any]] = {
    **dict.fromkeys(("target_modules", "exclude_modules", "feedforward_modules"), _modules),
    **dict.fromkeys(("modules_to_save", "layers_pattern"), _names),
    "layers_to_transform": _layers,
    "rank_pattern": _by_module(_SIZE),
    "alpha_pattern": _by_module(_number),
    "bias": _bias,
    **dict.fromkeys(("r", "init_r", "n_frequency"), _SIZE),
    **dict.fromkeys(
        (
            *("oft_block_size", "num_cayley_neumann_terms", "boft_block_size", "boft_block_num"),
            "boft_n_butterfly_factor",
        ),
        _COUNT,
    ),
    "decompose_factor": _whole(-1),
    **dict.fromkeys(("lora_alpha", "alpha", "scaling", "eps"), _number),
    **dict.fromkeys(("projection_prng_key", "random_loc_seed"), _SEED),
    **dict.fromkeys(
        (
            *("fan_in_fan_out", "use_rslora", "use_dora", "lora_bias", "use_effective_conv2d", "decompose_both"),
            *("coft", "block_share", "use_cayley_neumann", "apply_GS", "save_projection"),
        ),
        _flag,
    ),
}
"""The fields that are passed on, with the check of each, which returns what peft gets."""


def largest_size(shapes: Iterable[tuple[int, ...]]) -> int:
    """Return the largest rank that the weights of an adapter can have: their largest dimension, and at least 1024.

    >>> largest_size([(4, 4096), (4096, 4)])
    4096
    """
    return max([1024, *(dimension for shape in shapes for dimension in shape)])
