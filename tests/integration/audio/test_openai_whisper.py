"""OpenAI's Whisper: it hears what its library hears, and in batches."""

from __future__ import annotations

import io
import json
import os
import wave
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import jiwer
import msgspec
import numpy as np
import pytest
import torch
import whisper  # type: ignore[import-untyped]
from safetensors.torch import load_file
from whisper import timing

from ekiben.contract import (
    Device,
    GivenUp,
    InvalidRequest,
    TranscribedPiece,
    TranscribeRequest,
    UnsupportedParameter,
    VoiceActivity,
    testing,
)
from ekiben_whisper import alignment, hearing
from ekiben_whisper.conversion import ConvertibleFolder
from ekiben_whisper.mapped import MappedCheckpoint
from ekiben_whisper.model import build
from tests.openai_whisper import ENGINE, SMALL, drawn, load, order

RATE_HZ = 16_000


class Wanted:
    """A run that everybody waits for, until it has been asked often enough."""

    def __init__(self, looks: int = 10**9) -> None:
        self.looks = looks

    @property
    def wanted(self) -> bool:
        self.looks -= 1
        return self.looks >= 0

    def waits_for(self, index: int) -> bool:
        return True

    def tell(self, index: int, news: object) -> None:
        pass


def together(
    listener: Any, *requests: TranscribeRequest, run: Wanted | None = None
) -> list[TranscribedPiece]:
    """As the runtime's batcher does, with all of them in one batch."""
    items = [list(listener.items(request)) for request in requests]
    values = [item.value for of_one in items for item in of_one]
    results = iter(listener.compute(listener.prepare(values), run or Wanted()))
    return [
        listener.answer(request, [next(results) for _ in of_one])
        for request, of_one in zip(requests, items, strict=True)
    ]


def said(piece: TranscribedPiece) -> str:
    return plain("".join(segment.text for segment in piece.segments))


def plain(text: str) -> str:
    return " ".join("".join(sign for sign in text.lower() if sign.isalnum() or sign == " ").split())


def samples_of(path: Path) -> Any:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def write(path: Path, samples: Any) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(samples.astype(np.int16).tobytes())
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whisper")


@pytest.fixture(scope="module")
def base(weights: Callable[[str], Path], home: Path) -> Any:
    """Of the catalog's CTranslate2 weights, which are converted into `home`."""
    return load(weights("whisper-base"), home)


@pytest.fixture(scope="module")
def clip(spoken: bytes, home: Path) -> Path:
    """The sentence at the rate that models hear, so that it is the same for all of them."""
    with av.open(io.BytesIO(spoken), mode="r") as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        frames = [made for frame in container.decode(audio=0) for made in resampler.resample(frame)]
    return write(home / "spoken.wav", np.concatenate([frame.to_ndarray()[0] for frame in frames]))


@pytest.fixture(scope="module")
def heard(base: Any, clip: Path) -> TranscribedPiece:
    """The sentence alone, with the times of its words."""
    return together(base, TranscribeRequest(audio=clip, words=True))[0]


@pytest.fixture(scope="module")
def small(home: Path) -> Path:
    """A checkpoint as OpenAI has them, with random numbers."""
    return drawn(home / "small.pt", SMALL)


@pytest.fixture
def tiny(small: Path, tmp_path: Path) -> Any:
    return load(small, tmp_path)


async def test_it_does_what_an_engine_must(small: Path, tmp_path: Path) -> None:
    await testing.check_engine(ENGINE, order(small, tmp_path))


def test_a_spoken_sentence_is_understood(heard: TranscribedPiece, sentence: str) -> None:
    """With the times of its words, in a language that it finds by itself."""
    assert heard.language == "en"
    assert jiwer.wer(plain(sentence), said(heard)) == 0
    words = [word for segment in heard.segments for word in segment.words]
    assert plain("".join(word.word for word in words)) == plain(sentence)
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times) and 0 < times[-1] <= heard.duration_s
    assert msgspec.json.encode([asdict(segment) for segment in heard.segments]), "plain numbers only"


def test_it_hears_what_the_library_hears(heard: TranscribedPiece, clip: Path, home: Path) -> None:
    """From the same numbers, opened by the library itself."""
    (converted,) = home.glob("*.safetensors")
    dims = asdict(MappedCheckpoint(converted).dimensions)
    torch.save({"dims": dims, "model_state_dict": load_file(converted)}, home / "base.pt")
    model = whisper.load_model(str(home / "base.pt"), device="cpu")
    heads = json.loads(MappedCheckpoint(converted)._opened("numpy").metadata()["alignment_heads"])
    mask = torch.zeros(dims["n_text_layer"], dims["n_text_head"], dtype=torch.bool)
    for layer, head in heads:
        mask[layer, head] = True
    model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    samples = samples_of(clip).astype(np.float32) / 32768
    library = whisper.transcribe(model, samples, fp16=False, language="en", word_timestamps=True)
    assert [segment.text for segment in heard.segments] == [one["text"] for one in library["segments"]]
    for mine, theirs in zip(heard.segments, library["segments"], strict=True):
        assert list(mine.tokens) == theirs["tokens"]
        assert (mine.start_s, mine.end_s) == pytest.approx((theirs["start"], theirs["end"]), abs=1e-6)
        assert mine.avg_logprob == pytest.approx(theirs["avg_logprob"], abs=1e-3)
        assert mine.temperature == theirs["temperature"] == 0
        assert [word.word for word in mine.words] == [word["word"] for word in theirs["words"]]
        times = [time for word in theirs["words"] for time in (word["start"], word["end"])]
        assert [time for word in mine.words for time in (word.start_s, word.end_s)] == pytest.approx(times)


def test_requests_in_one_batch_are_answered_as_alone(
    base: Any, heard: TranscribedPiece, clip: Path, sentence: str, tmp_path: Path
) -> None:
    speech = samples_of(clip)
    later = write(tmp_path / "later.wav", np.concatenate([np.zeros(3 * RATE_HZ), speech]))
    first, second = together(
        base,
        TranscribeRequest(audio=clip, words=True),
        TranscribeRequest(audio=later, language="en"),
    )
    assert said(first) == said(heard)
    assert [(one.start_s, one.end_s) for one in first.segments] == [
        (one.start_s, one.end_s) for one in heard.segments
    ]
    assert said(second) == plain(sentence)
    assert second.segments[-1].end_s > 3 + speech.size / RATE_HZ / 2
    assert not any(one.words for one in second.segments)


def test_a_long_recording_is_heard_to_its_end(tiny: Any, tmp_path: Path) -> None:
    """Window by window, in the times of the recording."""
    torch.manual_seed(1)
    (piece,) = together(tiny, TranscribeRequest(audio=noise(tmp_path, seed=4, seconds=65), language="en"))
    times = [time for one in piece.segments for time in (one.start_s, one.end_s)]
    assert times == sorted(times) and 30 < times[-1] <= piece.duration_s == 65


def test_only_windows_that_are_no_good_are_heard_again(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the second is good at once, and the others at the third temperature."""
    torch.manual_seed(1)
    asked: list[tuple[float, int]] = []
    run = hearing._Decoding.run

    def watched(task: Any, encoded: Any) -> Any:
        asked.append((task.options.temperature, len(encoded)))
        found = run(task, encoded)
        good = [task.options.temperature >= 0.4 or (len(found) == 3 and place == 1) for place in range(3)]
        fields = {"compression_ratio": 1.0, "no_speech_prob": 0.0}
        return [
            type(one)(**vars(one) | fields | {"avg_logprob": -0.5 if is_good else -1.5})
            for one, is_good in zip(found, good, strict=False)
        ]

    monkeypatch.setattr(hearing._Decoding, "run", watched)
    clips = [noise(tmp_path, seed=seed) for seed in range(3)]
    pieces = together(tiny, *(TranscribeRequest(audio=clip, language="en") for clip in clips))
    assert asked[:3] == [(0.0, 3), (0.2, 2), (0.4, 2)]
    first = [piece.segments[0].temperature for piece in pieces]
    assert first == [0.4, 0.0, 0.4]


def noise(folder: Path, *, seed: int, seconds: float = 2.0) -> Path:
    samples = np.random.default_rng(seed).normal(scale=3000, size=int(seconds * RATE_HZ))
    return write(folder / f"noise-{seed}.wav", samples)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_several_readings_prompts_and_languages_in_one_batch(small: Path, tmp_path: Path) -> None:
    """Each is what it is alone. Prompts of one length go together, and are plain text whatever is in them."""
    listener = load(small, tmp_path, beam_size=3)
    requests = [
        TranscribeRequest(audio=noise(tmp_path, seed=1), language="de", prompt="one"),
        TranscribeRequest(audio=noise(tmp_path, seed=2), language="fr", prompt="two", translate=True),
    ]
    groups = {item.group for request in requests for item in listener.items(request)}
    assert len(groups) == 1
    hearing_once = pytest.MonkeyPatch()
    hearing_once.setattr("ekiben_whisper.listener.SCHEDULE", (0.0,))
    try:
        both = together(listener, *requests)
        alone = [together(listener, request)[0] for request in requests]
    finally:
        hearing_once.undo()
    assert both == alone and both[0].language == "de" and both[0] != both[1]
    control = TranscribeRequest(audio=requests[0].audio, prompt="<|endoftext|>")
    assert len(next(listener.items(control)).value.recording.prompt) > 1


def test_a_prompt_changes_what_is_heard_as_in_the_library(tiny: Any, tmp_path: Path) -> None:
    """Though scores are computed for the last of its tokens only."""
    recording = noise(tmp_path, seed=5)
    prompt, start = tiny._prompt("one two"), tiny._tokenizer("de", translate=False).sot_sequence
    item = next(tiny.items(TranscribeRequest(audio=recording)))
    (stretch,) = tiny.prepare([item.value]).stretches
    window = whisper.pad_or_trim(stretch.spectrogram, 3000)[None]
    encoded = hearing.encode(tiny._model, [window[0]], run=Wanted())
    for given in (prompt, prompt[:0]):
        task = hearing.Task(language="de", start=start, prompt=given)
        (mine,) = hearing.hear(tiny._model, encoded, [task], temperatures=[0.0], beam_size=1, run=Wanted())
        options = whisper.DecodingOptions(language="de", prompt=given, fp16=False)
        (theirs,) = whisper.decode(tiny._model, window, options)
        assert mine.tokens == theirs.tokens
        assert mine.avg_logprob == pytest.approx(theirs.avg_logprob, rel=1e-4)
        assert mine.no_speech_prob == pytest.approx(theirs.no_speech_prob, rel=1e-4)


def test_what_it_cannot_do_is_refused(tiny: Any, tmp_path: Path) -> None:
    clip = noise(tmp_path, seed=1)
    for request, param in (
        (TranscribeRequest(audio=clip, language="xx"), "language"),
        (TranscribeRequest(audio=clip, voice_activity=VoiceActivity()), "chunking_strategy"),
    ):
        with pytest.raises((InvalidRequest, UnsupportedParameter)) as refused:
            list(tiny.items(request))
        assert refused.value.param == param


def test_what_nobody_waits_for_is_broken_off(tiny: Any, tmp_path: Path) -> None:
    run = Wanted(looks=5)
    with pytest.raises(GivenUp):
        together(tiny, TranscribeRequest(audio=noise(tmp_path, seed=2)), run=run)
    assert run.looks == -1, "it was not asked again"


def test_an_english_model_refuses_to_translate(tmp_path: Path) -> None:
    listener = load(drawn(tmp_path / "small.en.pt", SMALL | {"n_vocab": 51864}), tmp_path)
    clip = noise(tmp_path, seed=1)
    for asked in ({"translate": True}, {"language": "de"}):
        with pytest.raises((UnsupportedParameter, InvalidRequest)):
            list(listener.items(TranscribeRequest(audio=clip, **asked)))
    assert together(listener, TranscribeRequest(audio=clip))[0].language == "en"


def test_a_conversion_is_made_once_and_again_where_it_is_broken(
    base: Any, weights: Callable[[str], Path], home: Path
) -> None:
    """`base` has made it."""
    folder = ConvertibleFolder(weights("whisper-base"))
    (kept,) = home.glob("*.safetensors")
    before = kept.stat()
    assert folder.converted(home).path == kept
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    os.truncate(kept, before.st_size - 1000)
    assert folder.converted(home).path == kept
    assert kept.stat().st_size == before.st_size and kept.stat().st_ino != before.st_ino
    assert not [path for path in home.iterdir() if path.is_dir()], "nothing is left of the making"


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (9, 40), (40, 9)])
def test_the_best_path_is_the_librarys(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which the library has a compiled form; here it is run as it is written."""
    monkeypatch.setattr(timing, "backtrace", timing.backtrace.py_func)
    generator = np.random.default_rng(shape[0])
    for costs in (generator.normal(size=shape), generator.integers(0, 2, size=shape).astype(float)):
        theirs = timing.dtw_cpu.py_func(costs)
        assert np.array_equal(alignment.best_path(torch.from_numpy(costs)), theirs)


def test_on_a_gpu_norms_and_positions_stay_in_float32() -> None:
    from ekiben_whisper.model import dtype

    names = whisper.model.Whisper(whisper.model.ModelDimensions(**SMALL)).state_dict()
    precise = {name for name in names if dtype(name, Device("cuda")) is torch.float32}
    assert precise == {name for name in names if "ln" in name or "positional" in name}
    assert all(dtype(name, Device()) is torch.float32 for name in names)


def test_a_model_of_a_known_name_has_the_librarys_heads(base: Any, home: Path) -> None:
    """Though its file does not say them."""
    (converted,) = home.glob("*.safetensors")
    checkpoint = MappedCheckpoint(converted)
    heads = checkpoint.heads
    checkpoint.heads, checkpoint.path = None, converted.with_name("base.safetensors")
    converted.rename(checkpoint.path)
    try:
        found = build(checkpoint, device=Device()).alignment_heads.to_dense().nonzero().tolist()
    finally:
        checkpoint.path.rename(converted)
    assert [tuple(pair) for pair in found] == sorted(heads or [])
