"""Accumulators and statistics over pairs of rows, from which the measures are computed."""
