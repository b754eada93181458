"""The bare libraries, in a fresh process each time, as one would use them without any server.

A script tells when its imports are done, when the model is loaded, and when it has answered: so one run
says how long a fresh process takes, and how long one would take that had imported everything before.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.cold.measure import Contender, Shoot, Shot
from tests.bench.cold.questions import PROMPT, sign, tone

LLAMA_DEFAULT: Final = """
import xllamacpp
tell("imported")
params = xllamacpp.CommonParams()
params.model.path = weights
params.verbosity = -1
params.hostnames = [folder + "/bare.sock"]
server = xllamacpp.Server(params)
tell("loaded")
def first(chunk):
    if chunk["choices"][0]["delta"].get("content"):
        tell("answered")
        return True
    return False
server.handle_chat_completions(
    {"messages": [{"role": "user", "content": prompt}], "max_tokens": 1, "stream": True}, first
)
"""
LLAMA_ALIKE: Final = LLAMA_DEFAULT.replace(
    "params.verbosity = -1",
    """params.verbosity = -1
params.n_ctx, params.n_parallel, params.kv_unified = 4 * 4096, 4, False
params.n_batch = params.n_ubatch = 32
params.fit_params = params.warmup = False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads""",
)
EMBEDDING: Final = """
import torch
from sentence_transformers import SentenceTransformer
torch.set_num_threads(threads)
tell("imported")
model = SentenceTransformer(weights, device="cpu")
tell("loaded")
model.encode([prompt])
tell("answered")
"""
WHISPER: Final = """
from faster_whisper import WhisperModel
tell("imported")
model = WhisperModel(weights, device="cpu", compute_type="int8", cpu_threads=threads)
tell("loaded")
list(model.transcribe(folder + "/tone.wav", language="en")[0])
tell("answered")
"""
_SAMPLES: Final = """\
    with wave.open(folder + "/tone.wav") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
"""
OPENAI_WHISPER: Final = f"""
import wave
import numpy as np
import torch
import whisper
torch.set_num_threads(threads)
tell("imported")
with torch.inference_mode():
    model = whisper.load_model(weights, device="cpu")
    tell("loaded")
{_SAMPLES}
    model.transcribe(samples, language="en", fp16=False)
tell("answered")
"""
TRANSFORMERS_WHISPER: Final = f"""
import wave
import numpy as np
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
torch.set_num_threads(threads)
tell("imported")
with torch.inference_mode():
    tokenizer = WhisperTokenizer.from_pretrained(weights)
    extractor = WhisperFeatureExtractor.from_pretrained(weights)
    model = WhisperForConditionalGeneration.from_pretrained(weights, dtype="auto")
    tell("loaded")
{_SAMPLES}
    made = extractor(samples, sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
    heard = model.generate(
        made["input_features"].to(model.dtype), attention_mask=made["attention_mask"], language="en",
        task="transcribe", return_timestamps=True,
    )
    tokenizer.batch_decode(heard, skip_special_tokens=True)
tell("answered")
"""
PIPER: Final = """
from piper import PiperVoice
tell("imported")
voice = PiperVoice.load(weights)
tell("loaded")
for chunk in voice.synthesize(prompt):
    pass
tell("answered")
"""
OCR: Final = """
from rapidocr import RapidOCR
tell("imported")
engine = RapidOCR(
    params={"EngineConfig.onnxruntime.intra_op_num_threads": threads, "Global.log_level": "error"}
)
tell("loaded")
assert engine(folder + "/sign.png").txts
tell("answered")
"""
DIGITS: Final = """
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
torch.set_num_threads(threads)
tell("imported")
pipeline = StableDiffusionPipeline.from_pretrained(weights, torch_dtype=torch.float32, local_files_only=True)
tell("loaded")
pipeline("a handwritten seven", num_inference_steps=2, guidance_scale=3.0, height=32, width=32)
tell("answered")
"""
_HEAD: Final = """
import sys
weights, folder, prompt, threads = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
def tell(what):
    print("bench:" + what, flush=True)
"""
_WORDS: Final = ("imported", "loaded", "answered")


def fresh(name: str, script: str, *, weights: Path, folder: Path, threads: int) -> Contender:
    """From the start of the process to the answer. Every library is given the same number of threads."""

    @contextmanager
    def open_() -> Iterator[Shoot]:
        folder.mkdir(exist_ok=True)
        (folder / "tone.wav").write_bytes(tone())
        (folder / "sign.png").write_bytes(sign())
        yield lambda: _run(script, weights=weights, folder=folder, threads=threads)

    return Contender(name, open_)


def imported(shots: list[Shot]) -> list[Shot]:
    """The same runs, for a process that had imported everything."""
    return [
        Shot(
            shot.stages_s["loading"] + shot.stages_s["answering"],
            {name: shot.stages_s[name] for name in ("loading", "answering")},
        )
        for shot in shots
    ]


def _run(script: str, *, weights: Path, folder: Path, threads: int) -> Shot:
    (folder / "bare.sock").unlink(missing_ok=True)
    arguments = [str(weights), str(folder), PROMPT, str(threads)]
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", _HEAD + script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        times = _listen(child, started)
        child.kill()  # its farewell is nobody's concern
    return Shot(
        times["answered"],
        {
            "importing": times["imported"],
            "loading": times["loaded"] - times["imported"],
            "answering": times["answered"] - times["loaded"],
        },
    )


def _listen(child: subprocess.Popen[bytes], started: float) -> Mapping[str, float]:
    assert child.stdout is not None
    times: dict[str, float] = {}
    for word in _WORDS:
        while f"bench:{word}".encode() not in (line := child.stdout.readline()):
            assert line, f"the bare process ended before it had {word}"
        times[word] = time.perf_counter() - started
    return times
