"""What engines of transcription share: untrusted files to samples, and samples to windows.

Needs PyAV and NumPy, which the engines that use it require; they are imported when a file is decoded.
"""

from ekiben.contract.audio.decoding import SAMPLE_RATE_HZ, decode
from ekiben.contract.audio.windows import WINDOW_S, Speech, Window, windows

__all__ = ["SAMPLE_RATE_HZ", "WINDOW_S", "Speech", "Window", "decode", "windows"]
