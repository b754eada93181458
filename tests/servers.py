"""Local servers for the tests of sources: plain files with ranges, a package index, and two model hubs.

They count what they serve, can stop in the middle of a file until told to go on, and can refuse.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

BLOCK_BYTES = 1 << 16


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/octet-stream"


class FileServer:
    """Serves `files` by path. Subclasses answer other paths in `respond`."""

    def __init__(self, *, ranges: bool = True) -> None:
        self.files: dict[str, bytes] = {}
        self.served_bytes = 0
        """Of bodies, all requests together."""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """Method, path with query, headers in lower case."""
        self.ranges = ranges
        self.stop_after_bytes: int | None = None
        """A GET stops once, when so many bytes were served in all, until `go_on` is set."""
        self.break_after_bytes: int | None = None
        """The connection of a GET is cut once, when so many bytes were served in all."""
        self.hides_lengths = False
        """Bodies end with the connection."""
        self.accepts_absolute = False
        """Answer as a proxy does that is asked with whole URLs."""
        self.stopped = threading.Event()
        self.go_on = threading.Event()
        self._lock = threading.Lock()

    def respond(self, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if path not in self.files:
            return Answer(404, b"not here")
        return Answer(200, self.files[path])

    def may_serve(self, count: int) -> bool:
        """Book `count` bytes; False when the client shall be kept waiting."""
        with self._lock:
            if self.stop_after_bytes is not None and self.served_bytes + count > self.stop_after_bytes:
                return False
            self.served_bytes += count
            return True

    def gets(self, part: str) -> list[dict[str, str]]:
        """Headers of the GETs whose path contains `part`."""
        return [headers for method, path, headers in self.requests if method == "GET" and part in path]

    @contextmanager
    def running(self) -> Iterator[str]:
        """The server's URL, while it runs."""

        class Handler(_Handler):
            server_state = self

        server = _QuietServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            self.go_on.set()
            server.shutdown()
            server.server_close()
            thread.join()


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed in the middle are what these servers are for."""


class _Handler(BaseHTTPRequestHandler):
    server_state: ClassVar[FileServer]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at `requests` instead."""

    def _answer(self) -> None:
        state = self.server_state
        headers = {name.lower(): value for name, value in self.headers.items()}
        state.requests.append((self.command, self.path, headers))
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.netloc and not state.accepts_absolute:
            return self.send_error(400)
        answer = state.respond(self.command, unquote(url.path), query, headers)
        body, status, extra = answer.body, answer.status, dict(answer.headers)
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", ""))
        if match and state.ranges and status == 200:
            body, status, more = _part(body, match[1], match[2])
            extra |= more
        self.send_response(status)
        self.send_header("Content-Type", answer.content_type)
        if state.hides_lengths:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        if state.ranges:
            self.send_header("Accept-Ranges", "bytes")
        for name, value in extra.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send(body)

    def _send(self, body: bytes) -> None:
        state = self.server_state
        try:
            for start in range(0, len(body), BLOCK_BYTES):
                block = body[start : start + BLOCK_BYTES]
                if not state.may_serve(len(block)):
                    state.stopped.set()
                    state.go_on.wait(30)
                    state.stop_after_bytes = None
                    state.may_serve(len(block))
                if state.break_after_bytes is not None and state.served_bytes > state.break_after_bytes:
                    state.break_after_bytes = None
                    self.close_connection = True
                    return
                self.wfile.write(block)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


def _part(body: bytes, first: str, last: str) -> tuple[bytes, int, dict[str, str]]:
    size = len(body)
    if not first:  # the last so many bytes
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last) if last else size - 1, size - 1)
    if start >= size:
        return b"", 416, {"Content-Range": f"bytes */{size}"}
    return body[start : end + 1], 206, {"Content-Range": f"bytes {start}-{end}/{size}"}


class PackageIndex(FileServer):
    """The simple API of a package index, without metadata files: what a plain mirror offers."""

    def __init__(self, *, ranges: bool = True) -> None:
        super().__init__(ranges=ranges)
        self.wrong_hashes = False
        self.refuses_files_to: str | None = None
        """Part of a User-Agent that gets 403 for files."""

    def add(self, package: str, version: str, members: dict[str, bytes]) -> bytes:
        """Publish a wheel with these files; returns it."""
        name = package.replace("-", "_")
        wheel = wheel_of(name, version, members)
        self.files[f"/files/{name}-{version}-py3-none-any.whl"] = wheel
        return wheel

    def respond(self, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if path.startswith("/simple/"):
            name = path.split("/")[2].replace("-", "_")
            links = [self._link(file) for file in self.files if file.startswith(f"/files/{name}-")]
            page = "<!DOCTYPE html><html><body>" + "".join(links) + "</body></html>"
            return Answer(200 if links else 404, page.encode(), content_type="text/html")
        if self.refuses_files_to and self.refuses_files_to in headers.get("user-agent", ""):
            return Answer(403, b"no")
        return super().respond(method, path, query, headers)

    def _link(self, path: str) -> str:
        sha256 = "0" * 64 if self.wrong_hashes else hashlib.sha256(self.files[path]).hexdigest()
        return f'<a href="{path}#sha256={sha256}">{path.rpartition("/")[2]}</a>'


def wheel_of(name: str, version: str, members: dict[str, bytes], *, requires: Sequence[str] = ()) -> bytes:
    """A wheel as small tools make them; `members` may have names that no honest wheel has."""
    info = f"{name}-{version}.dist-info"
    head = "".join(
        [
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            *(f"Requires-Dist: {text}\n" for text in requires),
        ]
    )
    files = {
        **members,
        f"{info}/METADATA": head.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


class HuggingFaceHub(FileServer):
    """The parts of the hub's API that a download needs: info, tree, resolve."""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, repo: str, files: dict[str, bytes], *, ranges: bool = True) -> None:
        super().__init__(ranges=ranges)
        self.repo = repo
        self.content = files
        self.token: str | None = None
        """With one set, the repository is gated: others get 403, and nobody 401."""
        self.damaged: set[str] = set()

    def respond(self, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        refusal = self._refusal(path, headers)
        if refusal is not None:
            return refusal
        if match := re.fullmatch(rf"/api/models/{self.repo}/(revision|tree)/([^/]+)", path):
            if match[2] not in ("main", "v1", self.commit):
                return _hub_error(404, "RevisionNotFound", f"Invalid rev id: {match[2]}")
            return _json(self._info() if match[1] == "revision" else self._tree())
        if match := re.fullmatch(rf"/{self.repo}/resolve/([^/]+)/(.+)", path):
            return self._resolve(match[2])
        return _hub_error(404, "EntryNotFound", "nothing here")

    def _refusal(self, path: str, headers: dict[str, str]) -> Answer | None:
        if self.repo not in path:
            return _hub_error(401, "RepoNotFound", "Repository not found")
        if self.token is None or headers.get("authorization") == f"Bearer {self.token}":
            return None
        status = 403 if "authorization" in headers else 401
        return _hub_error(status, "GatedRepo", f"Access to model {self.repo} is restricted")

    def _info(self) -> dict[str, Any]:
        return {
            "_id": "1",
            "id": self.repo,
            "modelId": self.repo,
            "sha": self.commit,
            "private": False,
            "siblings": [{"rfilename": path} for path in self.content],
        }

    def _tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": _git_sha1(content)}
            | ({"lfs": _lfs(content)} if _is_large(path) else {})
            for path, content in self.content.items()
        ]

    def _resolve(self, path: str) -> Answer:
        content = self.content.get(path)
        if content is None:
            return _hub_error(404, "EntryNotFound", path)
        etag = hashlib.sha256(content).hexdigest() if _is_large(path) else _git_sha1(content)
        if path in self.damaged:
            content = bytes(len(content))
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit, "X-Linked-Size": str(len(content))}
        return Answer(200, content, headers)


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".gguf", ".pt"))


def _lfs(content: bytes) -> dict[str, Any]:
    return {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _json(value: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), content_type="application/json")


def _hub_error(status: int, code: str, message: str) -> Answer:
    answer = _json({"error": message}, status)
    answer.headers = {"X-Error-Code": code, "X-Error-Message": message}
    return answer


class ModelScopeHub(FileServer):
    """The parts of ModelScope's API that a download needs: the listing of files, and a file."""

    def __init__(self, repo: str, files: dict[str, bytes]) -> None:
        super().__init__()
        self.repo = repo
        self.content = files
        self.token: str | None = None
        self.damaged: set[str] = set()

    def respond(self, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if not path.startswith(f"/api/v1/models/{self.repo}/"):
            return _json({"Code": 10010205001, "Message": "record not found", "Success": False}, 404)
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            return _json({"Code": 10010203001, "Message": "login required", "Success": False}, 401)
        if query.get("Revision") not in ("master", "v1"):
            return _json({"Code": 10010205002, "Message": "revision not found", "Success": False}, 404)
        if path.endswith("/repo/files"):
            return _json({"Code": 200, "Data": {"Files": self._listing()}, "Success": True})
        content = self.content.get(query.get("FilePath", ""))
        if content is None:
            return _json({"Code": 10010205003, "Message": "file not found", "Success": False}, 404)
        return Answer(200, bytes(len(content)) if query["FilePath"] in self.damaged else content)

    def _listing(self) -> list[dict[str, Any]]:
        return [
            {
                "Path": path,
                "Name": path.rpartition("/")[2],
                "Type": "blob",
                "Size": len(content),
                "Sha256": hashlib.sha256(content).hexdigest(),
            }
            for path, content in self.content.items()
        ]
