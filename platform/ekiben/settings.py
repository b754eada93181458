"""All settings, typed, and where each value came from. The only reader of environment variables.

Layers, later ones win: defaults, `$EKIBEN_HOME/ekiben.yaml`, `EKIBEN_*` variables, flags.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from ekiben.contract.model import KeepAlive
from ekiben.errors import ConfigError

PREFIX = "EKIBEN_"
CONFIG_FILE = "ekiben.yaml"
TRUE = ("1", "on", "t", "true", "y", "yes")
FALSE = ("0", "off", "f", "false", "n", "no")
"""As pydantic reads them."""


class Settings(BaseModel):
    """Every field is a key of `ekiben.yaml`, a variable `EKIBEN_<FIELD>`, and where useful a flag."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    home: Path = Field(Path("~/.ekiben"), description="database, weights, sockets and logs live here")
    host: str = Field("127.0.0.1", description="address to listen on; others than loopback need a key")
    port: int = Field(3000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    api_key: SecretStr | None = Field(None, description="key that every request must carry")
    no_auth: bool = Field(False, description="listen on any address without a key")
    keep_alive: KeepAlive = Field(
        None, description="idle time until a model is unloaded: 5m, 0 = at once, never; auto: by policy"
    )
    policy: str = Field(
        "adaptive", min_length=1, description="the plugin that says who is unloaded when: adaptive, classic"
    )
    wait_s: float = Field(600.0, gt=0, description="how long a request is held for a cold model, in seconds")
    heartbeat_s: float = Field(
        2.0, gt=0, description="pause between comments to a waiting stream, in seconds"
    )
    start_timeout_s: float = Field(
        900.0, gt=0, description="a replica that is not ready after so many seconds is given up"
    )
    drain_s: float = Field(30.0, ge=0, description="how long running requests may go on when stopping")
    max_waiting: int = Field(1024, ge=1, description="requests that may wait for one model")
    w_max_s: float = Field(
        3.0, gt=0, description="no model waits longer for memory because another one is busy, in seconds"
    )
    hang_s: float = Field(
        30.0, gt=0, description="a replica that gives no sign of life for so many seconds is ended"
    )
    max_body_bytes: int = Field(512 * 2**20, ge=1024, description="largest request body")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda:\d+(\+cuda:\d+)*|rocm:\d+(\+rocm:\d+)*)$",
        description="where replicas run: cpu, cuda:0, cuda:0+cuda:1; auto: on GPUs, if engines can",
    )
    memory: str = Field(
        "auto",
        description="what replicas may hold: auto, 80%, 12GiB, or by device: cpu=12GiB,cuda:0=90%",
    )
    threads: int = Field(0, ge=0, description="CPU threads of one replica; 0: all that the process may use")
    zygote: str = Field(
        "auto",
        pattern="^(auto|off)$",
        description="auto: fork replicas from a warm process per engine; off: start each afresh",
    )
    orphan_s: float = Field(
        60.0,
        ge=0,
        description="how long ready replicas of a killed platform wait for the next one; 0: they end with it",
    )
    prewarm: str = Field(
        "auto",
        pattern="^(auto|off)$",
        description="auto: start models ahead where their history says that it pays; off: by schedule only",
    )
    responses_days: float = Field(
        30.0, ge=0, le=36500, description="how many days responses are kept; 0: until they are deleted"
    )
    picture_url_s: float = Field(
        3600.0, gt=0, description="how long pictures that were asked for as URLs are kept, in seconds"
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="how clients reach the platform, for URLs in answers; without it, as each request did",
    )
    fetch_urls: bool = Field(
        False, description="fetch the pictures that requests name by http(s) URLs, from public hosts only"
    )
    max_file_bytes: int = Field(512 * 2**20, ge=1024, description="largest file that may be uploaded")
    max_files_bytes: int = Field(
        16 * 2**30, ge=1024, description="what uploaded files and answers of batches may take together"
    )
    batch_concurrency: int = Field(
        4, ge=1, le=64, description="requests of one batch that may be under way at a time"
    )
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error"
    )


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The values, and for each field the layer it came from: `default`, a file, a variable or `flag`."""

    values: Settings
    origins: Mapping[str, str]


def load_settings(
    flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> LoadedSettings:
    """Merge the layers. Raises ConfigError that names the layer and the field. Creates nothing."""
    env = os.environ if environment is None else environment
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    from_env = {
        name: env[PREFIX + name.upper()]
        for name in Settings.model_fields
        if env.get(PREFIX + name.upper(), "") != ""
    }
    home = _home(given.get("home") or from_env.get("home"))
    path = home / CONFIG_FILE
    layers: list[tuple[str, Mapping[str, Any]]] = [
        (str(path), _read_yaml(path)),
        ("environment", from_env),
        ("flag", given),
    ]
    merged: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for layer, values in layers:
        for name, value in values.items():
            merged[name] = value
            origins[name] = f"${PREFIX}{name.upper()}" if layer == "environment" else layer
    merged["home"] = home
    try:
        return LoadedSettings(Settings.model_validate(merged), origins)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ConfigError(f"setting {name!r} (from {origins.get(name, path)}): {first['msg']}") from None


def _home(given: str | Path | None) -> Path:
    path = Path(given or Settings.model_fields["home"].default)
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ConfigError(f"the home {str(path)!r} cannot be told: write an absolute path") from None


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise ConfigError(f"{where}: {error.problem or 'not valid YAML'}") from None
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold settings as `name: value` lines")
    if "home" in values:
        raise ConfigError(f"{path}: home is where this file lies; set it with EKIBEN_HOME or --home")
    if unknown := set(map(str, values)) - set(Settings.model_fields):
        raise ConfigError(f"{path}: no such setting: {', '.join(sorted(unknown))}")
    return values


def process_environment() -> dict[str, str]:
    """A copy of the variables, for a child process or a source plugin."""
    return dict(os.environ)


def export(variables: Mapping[str, str]) -> None:
    """Set variables of this process, for libraries that read them at import and for its children."""
    os.environ.update(variables)


@dataclass(frozen=True, slots=True)
class StandaloneSettings:
    """What a Bento that is served alone, without the platform, is told by its environment."""

    model: str | None
    """Catalog name, path of a spec, or path of weights: `EKIBEN_MODEL`."""
    order: Path | None
    """Set by the fleet: `EKIBEN_ORDER`."""
    home: Path
    device: str
    threads: int
    fetch_urls: bool
    """Whether URLs of requests are fetched: `EKIBEN_FETCH_URLS`."""
    supervisor_pid: int | None
    """The supervising process of `bentoml serve`, for its workers: `EKIBEN_SUPERVISOR_PID`."""
    supervisor_hears: bool
    """Whether it ends when a worker signals that it failed: `EKIBEN_SUPERVISOR_HEARS`."""


def load_standalone_settings(environment: Mapping[str, str] | None = None) -> StandaloneSettings:
    """Raises ConfigError."""
    env = os.environ if environment is None else environment
    threads = env.get(PREFIX + "THREADS", "0")
    if not (threads.isascii() and threads.isdigit()):
        raise ConfigError(f"EKIBEN_THREADS must be a number of threads, not {threads!r}")
    fetch_urls = env.get(PREFIX + "FETCH_URLS", "").lower()
    if fetch_urls not in ("", *TRUE, *FALSE):
        raise ConfigError(f"EKIBEN_FETCH_URLS must be true or false, not {fetch_urls!r}")
    order = env.get(PREFIX + "ORDER")
    supervisor = env.get(PREFIX + "SUPERVISOR_PID", "")
    return StandaloneSettings(
        model=env.get(PREFIX + "MODEL") or None,
        order=Path(order) if order else None,
        home=_home(env.get(PREFIX + "HOME")),
        device=device if (device := env.get(PREFIX + "DEVICE")) and device != "auto" else "cpu",
        threads=int(threads),
        fetch_urls=fetch_urls in TRUE,
        supervisor_pid=int(supervisor) if supervisor.isdigit() else None,
        supervisor_hears=env.get(PREFIX + "SUPERVISOR_HEARS") == "1",
    )
