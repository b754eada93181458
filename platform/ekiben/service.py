"""The platform as a BentoML service: `bentoml serve .` at the root is `ekiben up`.

BentoML brings the server and the packaging; the application is the gateway's, as the command line
serves it. The settings come from `EKIBEN_*` variables and `ekiben.yaml`; host and port are BentoML's.
"""

from __future__ import annotations

import logging
from typing import Any

import bentoml
from bentoml import Service

from ekiben.app import App
from ekiben.errors import EkibenError
from ekiben.runtime.process.parent import follow_supervisor, mark_supervisor, tell_supervisor_of_failure
from ekiben.settings import load_settings

logger = logging.getLogger(__name__)


class PlatformService(Service[Any]):  # type: ignore[misc]  # BentoML exports it lazily
    """Serves the gateway itself instead of BentoML's own application."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.inner.prepare = _DeploymentHook()

    def to_asgi(self, is_main: bool = True) -> Any:
        return _Application()


class _DeploymentHook:
    """BentoML calls this once, in the process that supervises the worker, before it starts it."""

    __bentoml_deployment_hook__ = True

    def __call__(self) -> None:
        mark_supervisor()


class _Application:
    """Starts the platform with the server's lifespan, then hands every request to the gateway."""

    def __init__(self) -> None:
        self._app: App | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        assert self._app is not None and self._app.gateway is not None
        await self._app.gateway(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        follow_supervisor()
        try:
            app = App(load_settings())
            await app.start()
        except EkibenError as error:
            logger.error("%s", error.message)
            tell_supervisor_of_failure()
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        self._app = app
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await app.stop()
        await send({"type": "lifespan.shutdown.complete"})


@bentoml.service(
    name="ekiben",
    service_class=PlatformService,
    workers=1,
    traffic={"timeout": 3600},
)
class Platform:
    """One worker, since it owns the fleet."""
