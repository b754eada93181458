"""Transcripts as SubRip (`srt`) and WebVTT (`vtt`)."""

from __future__ import annotations

from collections.abc import Iterable

from ekiben.contract.abilities import TranscriptSegment


def srt(segments: Iterable[TranscriptSegment]) -> str:
    """Numbered cues with a comma before the milliseconds."""
    return "".join(
        f"{number}\n{_time(s.start_s, ',')} --> {_time(s.end_s, ',')}\n{_cue(s.text)}\n\n"
        for number, s in enumerate(segments, start=1)
    )


def vtt(segments: Iterable[TranscriptSegment]) -> str:
    """Cues after the header; `&` and `<` would begin markup."""
    return "WEBVTT\n\n" + "".join(
        f"{_time(s.start_s, '.')} --> {_time(s.end_s, '.')}\n"
        f"{_cue(s.text).replace('&', '&amp;').replace('<', '&lt;')}\n\n"
        for s in segments
    )


def _cue(text: str) -> str:
    """One line, in which nothing looks like the line with the times."""
    return " ".join(text.split()).replace("-->", "->")


def _time(seconds: float, mark: str) -> str:
    milliseconds = round(max(seconds, 0.0) * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"
