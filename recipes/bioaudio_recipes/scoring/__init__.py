"""Log-likelihood of every base of whole contigs, and the track files it is written to."""
