"""Genomes: FASTA and .2bit files to one memory-mapped file each, and windows out of it."""

from bioaudio_data.genome.convert import SoftMask, convert_genome
from bioaudio_data.genome.fasta import Ambiguous
from bioaudio_data.genome.store import GenomeStore

__all__ = ["Ambiguous", "GenomeStore", "SoftMask", "convert_genome"]
