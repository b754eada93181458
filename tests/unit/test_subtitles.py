"""The two subtitle formats, to the byte."""

from __future__ import annotations

from ekiben.contract.abilities import TranscriptSegment
from ekiben.runtime.audio.subtitles import srt, vtt

SEGMENTS = [
    TranscriptSegment(text=" Hello there.", start_s=0.0, end_s=1.5),
    TranscriptSegment(text=" R&D <b>\nis --> here", start_s=3661.0005, end_s=3725.9996),
]


def test_srt() -> None:
    assert srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n"
        "2\n01:01:01,000 --> 01:02:06,000\nR&D <b> is -> here\n\n"
    )


def test_vtt() -> None:
    assert vtt(SEGMENTS) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nHello there.\n\n"
        "01:01:01.000 --> 01:02:06.000\nR&amp;D &lt;b> is -> here\n\n"
    )


def test_a_transcript_without_words() -> None:
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n\n"
