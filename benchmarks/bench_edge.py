"""Time one epoch of edge probes for several tasks.

bertft trains all probes together. The baseline trains them one at a time and recomputes the hidden states for each.
The training losses are checked.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from bertft.probes.edge import EdgeJob, Recipe, SubwordTask, train_edge_probes

LAYERS, WIDTH = 7, 384
RECIPE = Recipe(input_dropout=0.0, dropout=0.0, max_epochs=1, validations_per_epoch=1)

TASKS = {"pos": (1, 49, 1.0, 1.3), "dep": (2, 49, 1.0, 1.3), "const": (1, 28, 0.8, 7.0), "srl": (2, 58, 0.3, 3.0)}
"""Spans per target, labels, targets per subword, and the mean span length in subwords.

The values are approximately those of the real tasks.
"""


class InMemory:
    """Hidden states of the subwords of each sentence, [(layers, n, d)], with the interface of a cache."""

    layers = tuple(range(LAYERS))
    width = WIDTH

    def __init__(self, sentences):
        self.sentences = sentences
        self.lengths = np.array([sentence.shape[1] for sentence in sentences])

    def padded(self, sentences, layers=None, *, dtype="f4"):
        chosen = list(layers or self.layers)
        found = np.zeros((len(chosen), len(sentences), self.lengths[sentences].max(), WIDTH), dtype)
        for place, sentence in enumerate(sentences):
            found[:, place, : self.lengths[sentence]] = self.sentences[sentence][chosen]
        return found


@torch.no_grad()
def encode(model, ids):
    """Return the hidden states of one padded batch, (layers, sentences, n, d)."""
    longest = max(map(len, ids))
    padded = torch.zeros((len(ids), longest), dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, own, sentence in zip(padded, mask, ids, strict=True):
        row[: len(sentence)] = torch.from_numpy(sentence)
        own[: len(sentence)] = 1
    return torch.stack(model(padded, attention_mask=mask, output_hidden_states=True).hidden_states)


def encoded(model, ids):
    """Return the hidden states of all sentences, from batches of similar length."""
    found = [None] * len(ids)
    order = np.argsort([len(sentence) for sentence in ids], kind="stable")
    for first in range(0, len(order), 32):
        part = order[first : first + 32]
        states = encode(model, [ids[i] for i in part])
        for place, i in enumerate(part):
            found[i] = states[:, place, : len(ids[i])].numpy()
    return InMemory(found)


def targets(name, lengths, sentences, rng):
    """Return random spans with one random label each."""
    spans, labels, density, mean = TASKS[name]
    sentence = np.repeat(sentences, np.maximum(1, (density * lengths[sentences]).astype(int)))
    ends = lengths[sentence]

    def drawn():
        first = (rng.random(len(ends)) * ends).astype(int)
        return np.stack([first, np.minimum(ends, first + rng.geometric(1 / mean, len(ends)))], axis=1)

    gold = np.eye(labels, dtype=bool)[rng.integers(0, labels, len(ends))]
    return SubwordTask(name, tuple(map(str, range(labels))), sentence, drawn(), drawn() if spans == 2 else None, gold)


class Published(nn.Module):
    """The probe as published.

    It gathers the subwords of every span into a padded tensor, then applies attention and the classifier.
    """

    def __init__(self, weights, spans):
        super().__init__()
        self.mix = nn.Parameter(weights["mix"].clone()) if "mix" in weights else None
        self.gamma = nn.Parameter(weights["gamma"].clone()) if "mix" in weights else None
        numbers = range(1, spans + 1)
        self.project = nn.ModuleList(self.linear(weights, f"project{number}") for number in numbers)
        self.attend = nn.ModuleList(nn.Linear(len(weights["attend1"]), 1) for _ in numbers)
        for attend, number in zip(self.attend, numbers, strict=True):
            attend.weight.data = weights[f"attend{number}"][None].clone()
        self.hidden = self.linear(weights, "hidden")
        self.norm = nn.LayerNorm(len(weights["hidden_bias"]))
        self.classify = self.linear(weights, "classify")

    @staticmethod
    def linear(weights, name):
        layer = nn.Linear(*weights[name].shape)
        layer.weight.data, layer.bias.data = weights[name].T.clone(), weights[f"{name}_bias"].clone()
        return layer

    def forward(self, states, places, spans):
        x = states[-1]
        if self.mix is not None:
            x = self.gamma * (torch.softmax(self.mix, dim=0)[:, None, None, None] * states).sum(dim=0)
        pooled = []
        for project, attend, span in zip(self.project, self.attend, spans, strict=True):
            projected = project(x)
            steps = torch.arange(int((span[:, 1] - span[:, 0]).max()))
            inside = steps < (span[:, 1] - span[:, 0])[:, None]
            own = projected[places[:, None], torch.where(inside, span[:, :1] + steps, 0)]
            weights = attend(projected)[places[:, None], torch.where(inside, span[:, :1] + steps, 0), 0]
            weights = torch.softmax(weights.masked_fill(~inside, -1e30), dim=1)
            pooled.append((weights[:, :, None] * own).sum(dim=1))
        return self.classify(self.norm(torch.tanh(self.hidden(torch.cat(pooled, dim=1)))))


def train_alone(model, ids, job, weights, lengths):
    """Train one probe for one epoch and return the mean loss of its steps.

    Each step runs its batch through the encoder first.
    """
    probe = Published(weights, len(job.train.spans))
    adam = torch.optim.Adam(probe.parameters(), lr=RECIPE.learning_rate, amsgrad=True)
    order = np.random.default_rng([0, 0]).permutation(len(lengths))
    order = order[np.isin(order, job.train.sentence)]
    losses = []
    for first in range(0, len(order), RECIPE.batch):
        batch = order[first : first + RECIPE.batch]
        states = encode(model, [ids[i] for i in batch])
        own = job.train.at(batch)
        place = np.zeros(len(lengths), dtype=int)
        place[batch] = np.arange(len(batch))
        logits = probe(states, torch.from_numpy(place[own.sentence]), [torch.from_numpy(span) for span in own.spans])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(own.gold).float())
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(probe.parameters(), RECIPE.clip)
        adam.step()
        losses.append(loss.item())
    return np.mean(losses)


@pytest.mark.long
@pytest.mark.benchmark(group="one epoch of edge probes, 4 tasks × 2 inputs, 6 blocks × 384")
def bench_training_epoch(race):
    """Time one epoch, with the hidden states computed in the run and with cached ones."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS - 1,
        num_attention_heads=12,
        intermediate_size=4 * WIDTH,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    lengths = np.clip(rng.gamma(2.0, 11.0, 258).astype(int), 3, 90)
    ids = [rng.integers(5, 1000, n) for n in lengths]
    jobs = []
    for name in TASKS:
        train, dev = targets(name, lengths, np.arange(256), rng), targets(name, lengths, np.arange(256, 258), rng)
        jobs += [EdgeJob(train, dev, source, recipe=RECIPE) for source in ("mix", "top")]
    cached = encoded(model, ids)

    # With this learning rate the parameters keep their initial values. Both sides start from them.
    untrained = [replace(job, recipe=replace(RECIPE, learning_rate=1e-30)) for job in jobs]
    first = [probe.parameters for probe in train_edge_probes(untrained, cached)]

    def ours():
        return [probe.train_losses[0] for probe in train_edge_probes(jobs, encoded(model, ids))]

    def from_cache():
        return [probe.train_losses[0] for probe in train_edge_probes(jobs, cached)]

    def one_at_a_time():
        return [train_alone(model, ids, job, weights, lengths) for job, weights in zip(jobs, first, strict=True)]

    name, variant = "one at a time, hidden states recomputed", "bertft, hidden states cached"
    race(
        ours,
        {name: one_at_a_time, variant: from_cache},
        lambda contestant, losses, truth: float(np.max(np.abs(np.array(losses) / truth - 1))),
        tolerances={"bertft": 1e-4, variant: 1e-4},
        reference=name,
        rounds=3,
        warm_up=ours,
        goals={name: ("at least", 3)},
    )
