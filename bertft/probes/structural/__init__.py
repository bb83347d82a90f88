"""Structural probes: distances and depths in the dependency tree, predicted from word vectors.

`Examples` holds sentences with their gold trees. `train_probes` trains one probe a layer, all of them together, and
`evaluate_probes` scores them. `evaluate_distances` and `evaluate_depths` score any predictions.

Source: Hewitt and Manning 2019.
"""

from __future__ import annotations

from bertft.probes.structural.evaluation import DepthEvaluation as DepthEvaluation
from bertft.probes.structural.evaluation import DistanceEvaluation as DistanceEvaluation
from bertft.probes.structural.evaluation import evaluate_depths as evaluate_depths
from bertft.probes.structural.evaluation import evaluate_distances as evaluate_distances
from bertft.probes.structural.examples import Examples as Examples
from bertft.probes.structural.examples import Vectors as Vectors
from bertft.probes.structural.examples import pad_trees as pad_trees
from bertft.probes.structural.prediction import evaluate_probes as evaluate_probes
from bertft.probes.structural.prediction import predict as predict
from bertft.probes.structural.punctuation import keep_masks as keep_masks
from bertft.probes.structural.training import RECIPES as RECIPES
from bertft.probes.structural.training import Probe as Probe
from bertft.probes.structural.training import Recipe as Recipe
from bertft.probes.structural.training import train_probes as train_probes
