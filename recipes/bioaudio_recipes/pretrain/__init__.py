"""Pretraining of language models on DNA: data, sequence-length warm-up, the Lightning module, validation."""
