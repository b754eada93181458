"""Settings: which layer wins, where a value came from, and what is said of a wrong one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ekiben.errors import ConfigError
from ekiben.settings import PREFIX, Settings, load_settings, load_standalone_settings, process_environment


def load(home: Path, *, file: str | None = None, env: dict[str, str] | None = None, **flags: Any) -> Any:
    if file is not None:
        home.mkdir(exist_ok=True)
        (home / "ekiben.yaml").write_text(file)
    return load_settings(flags, {"EKIBEN_HOME": str(home), **(env or {})})


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    loaded = load_settings({}, {"EKIBEN_HOME": str(tmp_path)})
    assert loaded.values == Settings.model_validate({"home": tmp_path})
    assert {origin for name, origin in loaded.origins.items() if name != "home"} == {"default"}
    assert loaded.origins["home"] == "$EKIBEN_HOME"
    assert loaded.values.host == "127.0.0.1"
    assert loaded.values.keep_alive is None


def test_later_layers_win_and_are_named(tmp_path: Path) -> None:
    file = "port: 1\nhost: a\ndrain_s: 1\n"
    loaded = load(tmp_path, file=file, env={"EKIBEN_PORT": "2", "EKIBEN_HOST": "b"}, port=3, host=None)
    assert (loaded.values.port, loaded.values.host, loaded.values.drain_s) == (3, "b", 1.0)
    assert (loaded.origins["port"], loaded.origins["host"]) == ("flag", "$EKIBEN_HOST")
    assert loaded.origins["drain_s"] == str(tmp_path / "ekiben.yaml")


def test_every_field_can_be_set_by_its_variable(tmp_path: Path) -> None:
    given = {
        "host": "::1",
        "port": "0",
        "api_key": "secret",
        "no_auth": "true",
        "keep_alive": "never",
        "wait_s": "1.5",
        "heartbeat_s": "2",
        "start_timeout_s": "3",
        "drain_s": "0",
        "max_waiting": "4",
        "w_max_s": "1.5",
        "hang_s": "20",
        "max_body_bytes": "2048",
        "device": "cuda:1",
        "memory": "cpu=12GiB,cuda:0=90%",
        "threads": "5",
        "zygote": "off",
        "policy": "classic",
        "orphan_s": "0",
        "prewarm": "off",
        "max_file_bytes": "4096",
        "max_files_bytes": "8192",
        "batch_concurrency": "2",
        "responses_days": "1.5",
        "picture_url_s": "60",
        "public_url": "https://ai.example.com",
        "fetch_urls": "true",
        "log_level": "debug",
    }
    assert set(given) == set(Settings.model_fields) - {"home"}
    loaded = load(tmp_path, env={PREFIX + name.upper(): value for name, value in given.items()})
    assert all(loaded.origins[name] == f"${PREFIX}{name.upper()}" for name in given)
    values = loaded.values
    assert values.api_key is not None
    assert values.api_key.get_secret_value() == "secret"
    assert math.isinf(values.keep_alive)
    assert values.no_auth is True
    assert values.fetch_urls is True
    assert (values.device, values.threads, values.wait_s) == ("cuda:1", 5, 1.5)


def test_an_empty_variable_counts_as_none(tmp_path: Path) -> None:
    loaded = load(tmp_path, file="port: 7", env={"EKIBEN_PORT": "", "EKIBEN_API_KEY": ""})
    assert (loaded.values.port, loaded.values.api_key) == (7, None)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"EKIBEN_PORT": "x"}, r"setting 'port' \(from \$EKIBEN_PORT\): Input should be a valid integer"),
        ({"EKIBEN_PORT": "70000"}, r"setting 'port' \(from \$EKIBEN_PORT\): .* less than or equal to 65535"),
        ({"EKIBEN_KEEP_ALIVE": "soon"}, r"setting 'keep_alive' .*: .*'soon' is not a duration"),
        ({"EKIBEN_KEEP_ALIVE": "-1"}, r"setting 'keep_alive'"),
        ({"EKIBEN_WAIT_S": "nan"}, r"setting 'wait_s'"),
        ({"EKIBEN_DEVICE": "tpu"}, r"setting 'device'"),
        ({"EKIBEN_LOG_LEVEL": "loud"}, r"setting 'log_level'"),
        ({"EKIBEN_NO_AUTH": "perhaps"}, r"setting 'no_auth'"),
    ],
)
def test_a_wrong_value_is_told_with_its_layer(tmp_path: Path, env: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load(tmp_path, env=env)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("port: x", r"setting 'port' \(from .*ekiben\.yaml\): Input should be a valid integer"),
        ("prot: 1", r"ekiben\.yaml: no such setting: prot"),
        ("1: x", r"ekiben\.yaml: no such setting: 1"),
        ("home: /x", r"ekiben\.yaml: home is where this file lies"),
        ("- a", r"ekiben\.yaml must hold settings as `name: value` lines"),
        ("port: 1\nhost: [", r"ekiben\.yaml:2:8: expected the node content, but found '<stream end>'$"),
        ("port: !!python/object/apply:os.getcwd []", r"ekiben\.yaml:1:7: could not determine a constructor"),
        ("[" * 1500, r"ekiben\.yaml cannot be read"),
        (f"port: {'9' * 5000}", r"ekiben\.yaml cannot be read"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, file: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load(tmp_path, file=file)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "ekiben.yaml").write_bytes(b"port: \xff")
    with pytest.raises(ConfigError, match=r"ekiben\.yaml cannot be read"):
        load(tmp_path)
    (tmp_path / "ekiben.yaml").unlink()
    (tmp_path / "ekiben.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"ekiben\.yaml cannot be read"):
        load(tmp_path)


def test_an_empty_file_and_no_file_are_fine_and_nothing_is_made(tmp_path: Path) -> None:
    assert load(tmp_path, file="").values.port == 3000
    assert load_settings({"home": tmp_path / "none"}, {}).values.port == 3000
    assert not (tmp_path / "none").exists()


def test_the_home_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({"home": "x"}, {}).values.home == tmp_path / "x"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings({}, {}).values.home == tmp_path / ".ekiben"
    with pytest.raises(ConfigError, match="'~nobody-at-all/x' cannot be told: write an absolute path"):
        load_settings({}, {"EKIBEN_HOME": "~nobody-at-all/x"})


def test_the_key_is_shown_nowhere(tmp_path: Path) -> None:
    loaded = load(tmp_path, env={"EKIBEN_API_KEY": "hush"})
    assert "hush" not in repr(loaded)
    assert "hush" not in loaded.values.model_dump_json()
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, env={"EKIBEN_API_KEY": "hush", "EKIBEN_PORT": "x"})
    assert "hush" not in caught.value.message


def test_the_environment_is_handed_out_as_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EKIBEN_TEST_ONLY", "1")
    copy = process_environment()
    copy["EKIBEN_TEST_ONLY"] = "2"
    assert process_environment()["EKIBEN_TEST_ONLY"] == "1"


def test_a_bento_alone_reads_its_own_variables(tmp_path: Path) -> None:
    env = {
        "EKIBEN_MODEL": "m",
        "EKIBEN_ORDER": "/o",
        "EKIBEN_HOME": str(tmp_path),
        "EKIBEN_DEVICE": "cuda:0",
        "EKIBEN_THREADS": "3",
    }
    alone = load_standalone_settings(env)
    assert (alone.model, alone.order, alone.home) == ("m", Path("/o"), tmp_path)
    assert (alone.device, alone.threads) == ("cuda:0", 3)
    assert load_standalone_settings({"EKIBEN_DEVICE": "auto"}).device == "cpu"  # it looks for no GPUs
    nothing = load_standalone_settings({"EKIBEN_MODEL": ""})
    assert (nothing.model, nothing.order, nothing.device, nothing.threads) == (None, None, "cpu", 0)


@pytest.mark.parametrize("threads", ["x", "-1", "1.5", "²"])
def test_a_wrong_number_of_threads_is_told(threads: str) -> None:
    with pytest.raises(ConfigError, match="EKIBEN_THREADS must be a number of threads, not"):
        load_standalone_settings({"EKIBEN_THREADS": threads})


@pytest.mark.parametrize(("said", "meant"), [("", False), ("true", True), ("1", True), ("off", False)])
def test_urls_are_fetched_only_when_that_is_said(said: str, meant: bool, tmp_path: Path) -> None:
    assert load(tmp_path, env={"EKIBEN_FETCH_URLS": said}).values.fetch_urls is meant
    assert load_standalone_settings({"EKIBEN_FETCH_URLS": said}).fetch_urls is meant
    with pytest.raises(ConfigError, match="EKIBEN_FETCH_URLS"):
        load_standalone_settings({"EKIBEN_FETCH_URLS": "perhaps"})
