"""Probes: what of a sentence's annotation can be read off its vectors.  They take arrays and records, never models."""

from __future__ import annotations

from bertft.probes.structural.evaluation import DepthEvaluation as DepthEvaluation
from bertft.probes.structural.evaluation import DistanceEvaluation as DistanceEvaluation
from bertft.probes.structural.evaluation import evaluate_depths as evaluate_depths
from bertft.probes.structural.evaluation import evaluate_distances as evaluate_distances
from bertft.probes.structural.punctuation import keep_masks as keep_masks
