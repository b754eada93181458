"""Metrics of several processes as one text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ekiben.telemetry.exposition import MAX_SAMPLES, Exposition

OWN = b"# HELP mine Ours\n# TYPE mine gauge\nmine 1.0\n"


def engine_text(answers: int) -> str:
    registry = CollectorRegistry()
    Counter("vllm:prompt_tokens", "Tokens of prompts", ["model_name"], registry=registry).labels("m").inc(7)
    Gauge("at_work", "Answers", registry=registry).set(answers)
    Histogram("wait", "Seconds", ["model"], buckets=(1, 2), registry=registry).labels('a"b,model=').observe(1)
    return generate_latest(registry).decode()


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = list(text_string_to_metric_families(text.decode()))
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


def test_two_texts_become_one_in_which_each_line_says_whose_it_is() -> None:
    exposition = Exposition(OWN)
    for number in (1, 2):
        exposition.add(engine_text(number), {"model": "m", "replica": f"r{number}"})
    text = exposition.render()
    lines = text.decode().splitlines()
    assert text.startswith(OWN) and text.endswith(b"\n")
    heads = [line.rsplit(" ", 1)[0] for line in lines if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads)) and "# TYPE at_work" in heads
    taken = samples(text)
    for number in (1, 2):
        whose = {"model": "m", "replica": f"r{number}"}
        assert taken["at_work", labels(**whose)] == number
        assert taken["vllm:prompt_tokens_total", labels(**whose, model_name="m")] == 7
        own = {"exported_model": 'a"b,model='}
        assert taken["wait_bucket", labels(**whose, **own, le="2.0")] == 1
        assert taken["wait_count", labels(**whose, **own)] == 1
    at_work = [line for line in lines if line.startswith("at_work")]
    assert lines.index(at_work[1]) == lines.index(at_work[0]) + 1, "a family's samples lie together"


def test_names_of_the_first_text_are_nobody_elses() -> None:
    exposition = Exposition(OWN)
    exposition.add("# TYPE mine gauge\nmine 5\n", {"model": "m"})
    assert exposition.render() == OWN


def test_a_family_of_another_type_is_left_out() -> None:
    exposition = Exposition(OWN)
    exposition.add("# TYPE a counter\na 1\n", {"model": "m"})
    exposition.add("# TYPE a gauge\na 2\n", {"model": "n"})
    assert exposition.render() == OWN + b'# TYPE a counter\na{model="m"} 1\n'


def test_nonsense_is_left_out_and_the_rest_is_taken() -> None:
    exposition = Exposition(OWN)
    exposition.add('<html>\n{} 1\nfine 3 1700000000\na{b="c" 1\n# EOF\n\x00', {"model": 'q"\\\n'})
    assert exposition.render() == OWN + b'# TYPE fine untyped\nfine{model="q\\"\\\\\\n"} 3\n'


def test_of_very_many_samples_the_first_are_taken() -> None:
    exposition = Exposition(OWN)
    exposition.add("".join(f'a{{n="{n}"}} 1\n' for n in range(MAX_SAMPLES + 5)), {"model": "m"})
    assert exposition.render().count(b"\na{") == MAX_SAMPLES
