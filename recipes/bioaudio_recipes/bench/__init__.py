"""Benchmarks behind `bioaudio bench`: our operations and their peers, timed in turn, in one process."""
