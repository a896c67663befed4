"""The seven model sizes of the Mamba paper's DNA experiments (arXiv 2312.00752, section 4.3, Figure 5).

With a vocabulary padded to 16 and a tied head they have exactly 262,720; 684,192; 1,401,472; 3,527,232;
7,012,608; 19,291,008 and 40,694,272 parameters.
"""

from __future__ import annotations

from bioaudio_mamba.config import MambaConfig


def mamba_dna_250k() -> MambaConfig:
    """8 layers of width 64: 262,720 parameters."""
    return MambaConfig(n_layer=8, d_model=64)


def mamba_dna_700k() -> MambaConfig:
    """10 layers of width 96: 684,192 parameters."""
    return MambaConfig(n_layer=10, d_model=96)


def mamba_dna_1_4m() -> MambaConfig:
    """12 layers of width 128: 1,401,472 parameters."""
    return MambaConfig(n_layer=12, d_model=128)


def mamba_dna_3_5m() -> MambaConfig:
    """14 layers of width 192: 3,527,232 parameters."""
    return MambaConfig(n_layer=14, d_model=192)


def mamba_dna_7m() -> MambaConfig:
    """16 layers of width 256: 7,012,608 parameters."""
    return MambaConfig(n_layer=16, d_model=256)


def mamba_dna_19m() -> MambaConfig:
    """20 layers of width 384: 19,291,008 parameters."""
    return MambaConfig(n_layer=20, d_model=384)


def mamba_dna_40m() -> MambaConfig:
    """24 layers of width 512: 40,694,272 parameters."""
    return MambaConfig(n_layer=24, d_model=512)
