"""Description length: how many bits it takes to send labels to somebody who has the vectors (Voita and Titov 2020).

`online` sends them in growing portions, each coded by a probe trained on those before; `variational` sends a Bayesian
probe with the labels. `edge_codes` says which probes the online code trains.
"""
