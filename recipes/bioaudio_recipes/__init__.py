"""Whole runs: pretraining, fine-tuning, evaluation, reports and the `bioaudio` command."""
