"""`ekiben run` with models that speak, hear, read, draw, see and embed: real ones, on a real platform."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.command_line import CommandLine, assert_fails
from tests.running import Platform
from tests.tiny_encoders import classifier_folder
from tests.tiny_recognisers import vit_folder, yolos_folder

SENTENCE = "Please mind the gap between the train and the platform."


@pytest.fixture(scope="module")
def run(
    weights: Callable[[str], Path], weights_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandLine]:
    for name in ("piper-en-us-joe", "whisper-base", "pp-ocr-v6", "all-minilm-l6-v2"):
        weights(name)
    platform = Platform(tmp_path_factory.mktemp("home") / "h", weights_home / "weights").start()
    yield CommandLine(platform.home)
    assert platform.stop() == 0


def plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum() or c == " ").strip()


def test_what_one_model_says_another_one_hears(run: CommandLine, tmp_path: Path) -> None:
    speech = tmp_path / "late.wav"
    done = run("run", "piper-en-us-joe", SENTENCE, "-o", str(speech))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"wrote {speech} (")
    assert speech.read_bytes()[:4] == b"RIFF"
    assert list(tmp_path.iterdir()) == [speech]
    heard = run("run", "whisper-base", str(speech))
    assert plain(heard.stdout) == plain(SENTENCE), heard.stderr
    whole = run.json("run", "whisper-base", str(speech))
    assert whole["segments"] and whole["language"] == "english"


def test_speech_in_other_formats_and_mistakes(run: CommandLine, tmp_path: Path) -> None:
    assert run("run", "piper-en-us-joe", "Hi.", "-o", str(tmp_path / "hi.flac")).returncode == 0
    assert (tmp_path / "hi.flac").read_bytes()[:4] == b"fLaC"
    done = run("run", "piper-en-us-joe", "Hi.", "-o", str(tmp_path / "hi.txt"))
    assert done.returncode == 2 and "wav, mp3" in done.stderr
    assert_fails(run("run", "piper-en-us-joe", "Hi.", "-o", str(tmp_path / "no" / "hi.wav")), "cannot write")
    wrong = run("run", "piper-en-us-joe", "Hi.", "--voice", "nobody", "-o", str(tmp_path / "x.wav"))
    assert_fails(wrong, "nobody")
    assert not (tmp_path / "x.wav").exists()


def test_a_picture_is_read(run: CommandLine, tmp_path: Path) -> None:
    picture = tmp_path / "sign – 9.png"
    image = Image.new("RGB", (900, 120), "white")
    ImageDraw.Draw(image).text((20, 30), "PLATFORM NINE", fill="black", font=ImageFont.load_default(60))
    image.save(picture)
    done = run("run", "pp-ocr-v6", str(picture))
    assert plain(done.stdout).replace(" ", "") == "platformnine", done.stderr
    assert run.json("run", "pp-ocr-v6", str(picture))["lines"][0]["score"] > 0.5
    with picture.open("rb") as file, run.started("run", "pp-ocr-v6", "-", stdin=file) as process:
        output, _ = process.communicate(timeout=60)
        assert plain(output.decode()).replace(" ", "") == "platformnine"


def test_a_picture_is_drawn(run: CommandLine, tmp_path: Path) -> None:
    for name, kind in (("seven.png", "PNG"), ("seven.jpg", "JPEG"), ("seven.webp", "WEBP")):
        done = run("run", "digits-diffusion", "a handwritten seven", "-o", str(tmp_path / name))
        assert done.stdout.startswith(f"wrote {tmp_path / name} ("), done.stderr
        with Image.open(tmp_path / name) as picture:
            assert (picture.format, picture.size) == (kind, (32, 32))
    piped = run.started("run", "digits-diffusion", "a handwritten seven")
    with piped as process:
        output, _ = process.communicate(timeout=60)
        assert output.startswith(b"\x89PNG")
    wrong = run("run", "digits-diffusion", "a handwritten seven", "-o", str(tmp_path / "seven.gif"))
    assert wrong.returncode == 2 and "png, jpeg" in wrong.stderr


def test_a_picture_is_recognised(run: CommandLine, tmp_path: Path) -> None:
    picture = tmp_path / "grey.png"
    Image.new("RGB", (48, 40), "grey").save(picture)
    for name, make in (("sees", vit_folder), ("finds", yolos_folder)):
        added = run("model", "add", str(make(tmp_path / name)), "--name", name)
        assert added.returncode == 0, added.stderr
    title, first, *_ = run("run", "sees", str(picture)).stdout.splitlines()
    assert title.split() == ["LABEL", "SCORE"]
    assert first.split()[0] in {"train", "platform", "lunch", "ticket"}
    assert len(run.json("run", "sees", str(picture))["labels"]) == 4
    found = run.json("run", "finds", str(picture))
    assert (found["width"], found["height"]) == (48, 40)
    labels = [line.split()[0] for line in run("run", "finds", str(picture)).stdout.splitlines()]
    assert labels == (["LABEL", *(one["label"] for one in found["objects"])] if found["objects"] else ["no"])


def test_a_text_is_judged(run: CommandLine, tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "judge", labels=("OK", "violence"))
    added = run("model", "add", str(folder), "--name", "judge")
    assert added.returncode == 0, added.stderr
    table = run("run", "judge", "a lunch box").stdout.splitlines()
    assert table[0].split() == ["CATEGORY", "SCORE", "FLAGGED"]
    assert table[1].split()[0] == "violence"


def test_broken_files_are_told(run: CommandLine, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"neither picture nor sound")
    assert_fails(run("run", "pp-ocr-v6", str(broken)), "picture")
    assert_fails(run("run", "whisper-base", str(broken)), "audio")
    assert_fails(run("run", "whisper-base", str(tmp_path / "nothing.wav")), "nothing.wav")
    assert_fails(run("run", "whisper-base", str(tmp_path)), "directory")


def test_a_vector_in_short_and_whole(run: CommandLine) -> None:
    short = run("run", "all-minilm-l6-v2", "a lunch box")
    assert short.stdout.startswith("384 dimensions, length 1.000, from 5 tokens: ["), short.stderr
    whole = json.loads(run("run", "all-minilm-l6-v2", "a lunch box", "--json").stdout)
    assert len(whole["data"][0]["embedding"]) == 384
