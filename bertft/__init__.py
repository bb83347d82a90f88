"""bertft: what did fine-tuning do to this model's representations?

    from bertft import rsa, score

Names are imported when first used, so that `import bertft` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "rsa": "similarity",
    "cka": "similarity",
    "cca": "similarity",
    "svcca": "similarity",
    "pwcca": "similarity",
    "procrustes": "similarity",
    "mutual_knn": "similarity",
    "compare": "similarity",
    "explain": "similarity",
    "PairMoments": "similarity",
    "score": "experiments.score",
    "RSACallback": "experiments.callback",
    "tune": "experiments.tune",
    "diff": "experiments.diff",
    "Scores": "experiments.results",
    "ablate": "experiments.ablate",
    "pretrain": "experiments.pretrain",
}
"""Public name, the module it lives in."""

__all__ = [
    "PairMoments",
    "RSACallback",
    "Scores",
    "ablate",
    "cca",
    "cka",
    "compare",
    "diff",
    "explain",
    "mutual_knn",
    "pretrain",
    "procrustes",
    "pwcca",
    "rsa",
    "score",
    "svcca",
    "tune",
]

if TYPE_CHECKING:
    from bertft.experiments.ablate import ablate
    from bertft.experiments.callback import RSACallback
    from bertft.experiments.diff import diff
    from bertft.experiments.pretrain import pretrain
    from bertft.experiments.results import Scores
    from bertft.experiments.score import score
    from bertft.experiments.tune import tune
    from bertft.similarity.functions import cca, cka, compare, mutual_knn, procrustes, pwcca, rsa, svcca
    from bertft.similarity.pair_moments import PairMoments
    from bertft.similarity.plan import explain


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bertft' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"bertft.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
