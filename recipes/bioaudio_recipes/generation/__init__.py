"""Sampling from networks over waveforms: clips on disk with their exact likelihoods."""
