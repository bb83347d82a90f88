"""Accumulators and pair statistics: what the measures are functions of."""
