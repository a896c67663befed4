"""Raw sound: audio files to one memory-mapped file of samples, codes, and windows out of it."""

from bioaudio_data.audio.convert import convert_audio
from bioaudio_data.audio.layouts import Layout, layout
from bioaudio_data.audio.quantiser import Quantiser
from bioaudio_data.audio.splits import SplitConfig
from bioaudio_data.audio.store import WaveformStore
from bioaudio_data.audio.tags import TagConfig
from bioaudio_data.audio.windows import AudioBatch, AudioWindows

__all__ = [
    "AudioBatch",
    "AudioWindows",
    "Layout",
    "Quantiser",
    "SplitConfig",
    "TagConfig",
    "WaveformStore",
    "convert_audio",
    "layout",
]
