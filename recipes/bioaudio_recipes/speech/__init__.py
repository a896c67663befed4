"""Scores of generated speech: a classifier of the store's own labels, and the metrics that stand on it."""
