"""Edge probing: what a frozen encoder's vectors say of spans and pairs of spans (Tenney et al. 2019).

`EdgeTask` holds the targets of a task as arrays, over `PieceStates`, the vectors of the pieces of all sentences.
`train_edge_probes` trains a probe for each `EdgeJob`, all in one pass an epoch; `predict_edges` and `target_nats` say
what trained probes make of targets, seen or unseen.  `EdgeTask.at` is the task on some sentences alone, so a probe of
part of the sentences is one call:

    (probe,) = train_edge_probes([EdgeJob(task.at(some), dev, recipe=recipe)], states)
    nats = target_nats([probe], task.at(others), states).sum()
"""

from __future__ import annotations

from bertft.probes.edge.model import Input as Input
from bertft.probes.edge.prediction import predict_edges as predict_edges
from bertft.probes.edge.prediction import target_nats as target_nats
from bertft.probes.edge.targets import EdgeTask as EdgeTask
from bertft.probes.edge.targets import PieceStates as PieceStates
from bertft.probes.edge.training import RECIPES as RECIPES
from bertft.probes.edge.training import EdgeJob as EdgeJob
from bertft.probes.edge.training import EdgeProbe as EdgeProbe
from bertft.probes.edge.training import Recipe as Recipe
from bertft.probes.edge.training import recipe_of as recipe_of
from bertft.probes.edge.training import train_edge_probes as train_edge_probes
