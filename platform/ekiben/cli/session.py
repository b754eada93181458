"""What one call of the command line knows: its flags, the settings, and the platform that may run.

A platform writes its address to `run/platform.json` in its home and holds the home's lock; both are
looked at here and nowhere else on the command line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ekiben.errors import ConfigError, EkibenError

if TYPE_CHECKING:
    from ekiben.cli.client import Platform
    from ekiben.settings import LoadedSettings, Settings


@dataclass
class Session:
    """Made once, before the flags are known; commands get it with `click.pass_obj`."""

    home: Path | None = None
    debug: bool = False

    def load(self, **flags: Any) -> LoadedSettings:
        """The settings under these flags. Raises ConfigError."""
        from ekiben.settings import load_settings

        return load_settings({"home": self.home} | {k: v for k, v in flags.items() if v is not None})

    @property
    def settings(self) -> Settings:
        return self.load().values

    def wants_traceback(self) -> bool:
        if self.debug:
            return True
        try:
            return self.settings.log_level == "debug"
        except ConfigError:
            return False

    def find_platform(self) -> Platform | None:
        """The platform that runs on this home and answers, if there is one."""
        from ekiben.cli.client import Platform

        settings = self.settings
        key = settings.api_key.get_secret_value() if settings.api_key else None
        url = _announced_url(settings.home)
        if url is None and is_locked(settings.home):
            # Served by BentoML instead of `ekiben up`: it has not written where, but the settings say so.
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            url = f"http://{host}:{settings.port}"
        if url is None:
            return None
        platform = Platform(url, api_key=key)
        return platform if platform.answers() else None

    def platform(self) -> Platform:
        """As `find_platform`, but raises EkibenError when there is none."""
        platform = self.find_platform()
        if platform is not None:
            return platform
        home = self.settings.home
        if is_locked(home):
            raise EkibenError(f"the platform on {home} does not answer: it is starting, stopping or stuck")
        raise EkibenError(f"no platform runs on {home}: start one with `ekiben up`")


def _announced_url(home: Path) -> str | None:
    """What a platform wrote when it was ready, unless that platform is dead."""
    try:
        announced = json.loads((home / "run" / "platform.json").read_text(encoding="utf-8"))
        pid, url = int(announced["pid"]), str(announced["url"])
        os.kill(pid, 0)
    except PermissionError:
        return url
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url


def is_locked(home: Path) -> bool:
    """Whether some process holds the home at this moment."""
    try:
        with (home / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def hold(home: Path) -> Iterator[None]:
    """Keep the home for this process, so that no platform starts on it half way through a change.

    Raises ConfigError when it is held already, or cannot be made or written to.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (home / "lock").open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the home folder {home} cannot be used: {error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EkibenError(
                f"another ekiben holds {home} and does not answer: wait until it is ready, or stop it"
            ) from None
        yield
