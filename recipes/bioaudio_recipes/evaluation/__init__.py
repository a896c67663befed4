"""How well a language model predicts held-out bases, by window length, beside counting models."""
