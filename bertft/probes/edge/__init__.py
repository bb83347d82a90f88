"""Edge probing: what can be read off a frozen encoder's hidden states about spans and pairs of spans.

`WordTask` holds the targets of a task as arrays, with spans over words. Its method `over_subwords` gives the
`SubwordTask` on which probes are trained. `SubwordStates` are the hidden states of the subwords of all sentences.

`train_edge_probes` trains one probe for each `EdgeJob`, all in one pass over the hidden states an epoch.
`predict_edges` gives the probabilities that trained probes assign to the labels of any targets, and `target_nats` the
cost of the true labels. `SubwordTask.at` selects the targets of some sentences, so a probe of part of the sentences is
one call:

    (probe,) = train_edge_probes([EdgeJob(task.at(some), dev, recipe=recipe)], states)
    nats = target_nats([probe], task.at(others), states).sum()

Source: Tenney et al. 2019.
"""

from __future__ import annotations

from bertft.probes.edge.model import Input as Input
from bertft.probes.edge.prediction import predict_edges as predict_edges
from bertft.probes.edge.prediction import target_nats as target_nats
from bertft.probes.edge.recipe import RECIPES as RECIPES
from bertft.probes.edge.recipe import Recipe as Recipe
from bertft.probes.edge.recipe import recipe_of as recipe_of
from bertft.probes.edge.targets import SubwordStates as SubwordStates
from bertft.probes.edge.targets import SubwordTask as SubwordTask
from bertft.probes.edge.targets import WordTask as WordTask
from bertft.probes.edge.training import EdgeJob as EdgeJob
from bertft.probes.edge.training import EdgeProbe as EdgeProbe
from bertft.probes.edge.training import train_edge_probes as train_edge_probes
