"""Minimum description length: the bits needed to send labels to a receiver who has the vectors.

`online` sends the labels in growing portions, each coded by a probe trained on those before. `variational` sends a
Bayesian probe and the labels given the probe. `edge_codes` applies both to edge-probing tasks.

Source: Voita and Titov 2020.
"""
