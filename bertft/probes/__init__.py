"""Probes: small models that predict the annotation of a sentence from its hidden states.

Probes take arrays and records, never models. `structural` predicts dependency trees, `edge` labels of spans and pairs
of spans, and `mdl` the bits that these labels take.
"""

from __future__ import annotations

from bertft.probes.structural.evaluation import DepthEvaluation as DepthEvaluation
from bertft.probes.structural.evaluation import DistanceEvaluation as DistanceEvaluation
from bertft.probes.structural.evaluation import evaluate_depths as evaluate_depths
from bertft.probes.structural.evaluation import evaluate_distances as evaluate_distances
from bertft.probes.structural.punctuation import keep_masks as keep_masks
