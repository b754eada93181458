"""Every error that a user can meet, drawn as one tree.

    EkibenError
    ├── RequestError        4xx, the caller can mend it
    │   ├── InvalidRequest            400
    │   │   ├── UnsupportedParameter  400
    │   │   └── TooManyTokens         400
    │   ├── AuthenticationFailed      401
    │   ├── PermissionDenied          403
    │   ├── NotFound                  404
    │   │   └── ModelNotFound         404
    │   ├── MethodNotAllowed          405
    │   ├── RequestTimeout            408
    │   ├── Conflict                  409
    │   ├── RequestTooLarge           413
    │   ├── UnsupportedMediaType      415
    │   └── RequestCancelled          499
    ├── CapacityError       429/503 with Retry-After, time mends it
    │   ├── QueueFull                 429
    │   ├── ModelNotReady             503
    │   ├── ShuttingDown              503
    │   └── StorageFull               507
    ├── EngineError         502 to 504, the operator mends it
    │   ├── EngineNotInstalled        502
    │   ├── LoadFailed                502
    │   ├── InsufficientMemory        503
    │   ├── FetchFailed               502
    │   ├── ReplicaDied               502
    │   └── EngineTimeout             504
    └── ConfigError         exit code 2 on the command line
        └── DatabaseFailed            503 while the platform runs

Status, type and code live on the class; `envelope` is the one place that renders the OpenAI body.
Messages are lower case, name what happened and what to do, and end without a full stop.
"""

from __future__ import annotations

import copy
import math
import re
from typing import Any, ClassVar, Final

MAX_RETRY_AFTER_S = 120
"""The official SDKs do not retry at all when a server asks them to wait longer than this."""


LOG_ENDS: Final = "; its log ends with: "
"""Between what happened and what the log says of it."""
_FOLDERS: Final = re.compile(r"(?<![\w:/.~-])~?/(?:[^\s/'\":,;]+/)+")
"""The folders of an absolute path, and of no URL, model or media type."""


class EkibenError(Exception):
    """Root of the tree. `message` is for the caller, `param` names the offending field."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    retryable: ClassVar[bool | None] = None
    """What `x-should-retry` says to the SDKs; None leaves it to the status."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.error_code = code if code is not None else self.code

    def headers(self) -> dict[str, str]:
        """Response headers that belong to the error, lower case."""
        if self.retryable is None:
            return {}
        return {"x-should-retry": "true" if self.retryable else "false"}


class RequestError(EkibenError):
    status = 400
    type = "invalid_request_error"


class InvalidRequest(RequestError):
    """The body, a field or a file is not what the route takes."""


class UnsupportedParameter(InvalidRequest):
    """A field that the API knows and the engine cannot honour: said, never dropped."""

    code = "unsupported_parameter"


class TooManyTokens(InvalidRequest):
    """All inputs together are more than one request may have. Type and code are OpenAI's."""

    type = "max_tokens_per_request"
    code = "max_tokens_per_request"


class AuthenticationFailed(RequestError):
    status = 401
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {"www-authenticate": "Bearer"}


class PermissionDenied(RequestError):
    status = 403
    code = "permission_denied"


class NotFound(RequestError):
    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    def headers(self) -> dict[str, str]:
        return {"allow": self.allow}


class RequestTimeout(RequestError):
    """The client did not send its request in time."""

    status = 408
    code = "request_timeout"


class Conflict(RequestError):
    status = 409
    code = "conflict"


class RequestTooLarge(RequestError):
    status = 413
    code = "request_too_large"


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"


class RequestCancelled(RequestError):
    """Ended by its id, by somebody else than the client that waits. No standard has a status for it; this is
    the usual one, and no client tries again by itself."""

    status = 499
    code = "request_cancelled"
    retryable = False


class CapacityError(EkibenError):
    """Nothing is wrong but the time: `retry_after_s` says when to come back, `detail` how far it is."""

    status = 503
    type = "service_unavailable_error"

    def __init__(
        self, message: str, *, retry_after_s: float = 1.0, detail: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.detail = detail

    def headers(self) -> dict[str, str]:
        return super().headers() | retry_after_header(self.retry_after_s)


class QueueFull(CapacityError):
    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class ModelNotReady(CapacityError):
    """The wait for a model outlived the request's budget; the load itself goes on."""

    code = "model_not_ready"


class ShuttingDown(CapacityError):
    code = "shutting_down"


class StorageFull(CapacityError):
    """There is no room for a file: on the disk, or within what files may take in all."""

    status = 507
    code = "storage_full"
    retryable = False

    def headers(self) -> dict[str, str]:
        return EkibenError.headers(self)


class EngineError(EkibenError):
    """The engine, or what it needs, failed. With `retry_after_s` set, the platform will try again then."""

    status = 502
    type = "server_error"
    code = "engine_error"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        if self.retry_after_s is None:
            return super().headers()
        return super().headers() | retry_after_header(self.retry_after_s)


class EngineNotInstalled(EngineError):
    code = "engine_not_installed"
    retryable = False


class LoadFailed(EngineError):
    code = "model_load_failed"


class InsufficientMemory(EngineError):
    """The model cannot fit beside what has to stay: nobody was evicted, and waiting does not help."""

    status = 503
    code = "insufficient_memory"
    retryable = False


class FetchFailed(EngineError):
    code = "weights_unavailable"


class ReplicaDied(EngineError):
    code = "replica_died"


class EngineTimeout(EngineError):
    status = 504
    code = "engine_timeout"


class ConfigError(EkibenError):
    """A setting, a spec or the home folder is wrong: the command line says it and exits with 2."""

    code = "configuration_error"


class DatabaseFailed(ConfigError):
    """What must be written down, or read, cannot be: nothing has changed, and models are served as before."""

    status = 503
    type = "service_unavailable_error"
    code = "database_failed"


def retry_after_header(seconds: float) -> dict[str, str]:
    """`retry-after` in whole seconds, at least 1 and never more than the SDKs are willing to wait."""
    return {"retry-after": str(min(MAX_RETRY_AFTER_S, max(1, math.ceil(seconds))))}


def for_clients(error: EkibenError) -> EkibenError:
    """What clients of a model are told of it: no lines of a log, and no folders of this machine.

    Whoever runs the platform reads all of it in its API, in its log and on the command line.
    """
    if not isinstance(error, EngineError):
        return error
    happened, _, log = error.message.partition(LOG_ENDS)
    if log:
        happened += "; its log says more, see `ekiben logs`"
    shown = copy.copy(error)
    shown.message = _FOLDERS.sub("", happened)
    return shown


def envelope(error: EkibenError) -> dict[str, Any]:
    """The OpenAI error body: all four keys, always; `detail` of a capacity error rides beside them."""
    body: dict[str, Any] = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.error_code,
    }
    if isinstance(error, CapacityError) and error.detail is not None:
        body |= error.detail
    return {"error": body}
