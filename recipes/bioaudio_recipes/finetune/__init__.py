"""Fine-tuning a classifier of DNA: species from genomes (Mamba paper, E.3), or labelled sequences."""
