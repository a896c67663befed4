"""Scans and causal convolutions: one op a folder, each with a reference, a fast CPU path and Triton."""
