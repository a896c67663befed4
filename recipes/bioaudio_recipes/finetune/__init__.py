"""Fine-tuning a classifier of DNA: species from genomes (Mamba paper, section 4.3 and E.3), or labelled sequences."""
