"""A hub on localhost with the part of the Hugging Face Hub's protocol that `snapshot_download` and llama.cpp use."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Hub:
    """Models by id: each a directory whose files are served at one revision. `requests` are the requests of clients.

    Of a `gated` model nobody gets the files. `renamed` are ids by those that they had before. `cut`, called with a path
    and the number of bytes to send, says after how many of them the connection breaks. `listed` are paths that lists of
    files have besides those that are there, with the contents of their files. With a `commit`, revisions do not change
    with the files. With a `token`, clients that send another one are turned away. The next `busy` requests of files are
    answered with "try again later". A `portal` answers everything with a page of its own.
    """

    models: dict[str, Path]
    gated: frozenset[str] = frozenset()
    url: str = ""
    requests: list[str] = field(default_factory=list)
    sent: int = 0  # bytes of files
    renamed: dict[str, str] = field(default_factory=dict)
    cut: Callable[[str, int], int] = lambda _path, size: size
    listed: dict[str, bytes] = field(default_factory=dict)
    commit: str = ""
    token: str = ""
    busy: int = 0
    portal: bool = False

    def revision(self, model: str) -> str:
        """Changes with the files."""
        if self.commit:
            return self.commit
        files = sorted(file for file in self.models[model].rglob("*") if file.is_file())
        content = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
        return hashlib.sha1("\n".join([model, *content]).encode()).hexdigest()

    def find(self, path: str) -> tuple[str, str] | None:
        """The model that a path names, and the part of the path after its id."""
        for model in self.models:
            if path == model or path.startswith(model + "/"):
                return model, path[len(model) + 1 :]
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        """Information on some paths of a model, which the hub's file system requests."""
        requested = self.rfile.read(int(self.headers["Content-Length"])).decode()
        path = unquote(urlsplit(self.path).path).lstrip("/").removeprefix("api/models/")
        self.hub.requests.append(f"POST {path}")
        found = self.hub.find(path)
        if found is None or not found[1].startswith("paths-info/"):
            return self._error(404, "EntryNotFound")
        names = json.loads(requested)["paths"] if requested.startswith("{") else parse_qs(requested)["paths"]
        directory = self.hub.models[found[0]]
        return self._json([_entry(directory / name, directory) for name in names if (directory / name).is_file()], True)

    def log_message(self, *_: object) -> None:
        """Tests need no access log."""

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.hub.requests.append(f"{self.command} {path}")
        api = path.startswith("api/models/")
        if self.hub.portal:
            self.send_response(200)
            return self._send(b"<html>Please log in to this network.</html>", "text/html", body)
        right = f"Bearer {self.hub.token}"
        if self.hub.token and self.headers.get("Authorization", right) != right:
            return self._error(401, "", "Invalid credentials in Authorization header")
        for old, new in self.hub.renamed.items():
            if path.removeprefix("api/models/").startswith(old + "/") or path.endswith(f"models/{old}"):
                self.send_response(307)
                self.send_header("Location", f"/{path.replace(old, new, 1)}")
                return self._send(b"", "text/plain", body=False)
        found = self.hub.find(path.removeprefix("api/models/"))
        if found is None:
            return self._error(401, "RepoNotFound")  # the hub's answer to clients that are not logged in
        model, rest = found
        sha, directory = self.hub.revision(model), self.hub.models[model]
        kind, _, rest = rest.partition("/")
        revision, _, rest = rest.partition("/")
        if revision not in ("", "main", sha):
            return self._error(404, "RevisionNotFound")
        files = sorted(file for file in directory.rglob("*") if file.is_file())
        if api and kind in ("", "revision"):
            siblings = [{"rfilename": str(file.relative_to(directory))} for file in files]
            return self._json({"id": model, "modelId": model, "sha": sha, "siblings": siblings, "tags": []}, body)
        if api and kind == "refs":
            return self._json({"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": sha}]}, body)
        if api and kind == "tree":
            listed = [_listed(path, content) for path, content in self.hub.listed.items()]
            return self._json([*(_entry(file, directory) for file in files), *listed], body)
        if kind == "resolve" and model in self.hub.gated:
            return self._error(403, "GatedRepo")
        if kind == "resolve" and self.hub.busy:
            self.hub.busy -= 1
            return self._error(503, "")
        if kind == "resolve" and (directory / rest) in files:
            return self._file((directory / rest).name, (directory / rest).read_bytes(), sha, body)
        if kind == "resolve" and rest in self.hub.listed:
            return self._file(rest, self.hub.listed[rest], sha, body)
        return self._error(404, "EntryNotFound")

    def _file(self, name: str, data: bytes, sha: str, body: bool) -> None:
        requested = self.headers.get("Range")
        first, _, last = (requested or "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), int(last) + 1 if last else len(data)
        self.send_response(206 if requested else 200)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", sha)
        if body and (kept := self.hub.cut(name, len(data[start:end]))) < len(data[start:end]):
            self.send_header("Content-Length", str(len(data[start:end])))
            self.end_headers()
            self.wfile.write(data[start : start + kept])
            self.hub.sent += kept
            self.close_connection = True
            return
        self.hub.sent += len(data[start:end]) if body else 0
        self._send(data[start:end], "application/octet-stream", body)

    def _json(self, content: object, body: bool) -> None:
        self.send_response(200)
        self._send(json.dumps(content).encode(), "application/json", body)

    def _error(self, status: int, code: str, message: str = "") -> None:
        self.send_response(status)
        for header, text in (("X-Error-Code", code), ("X-Error-Message", message)):
            if text:
                self.send_header(header, text)
        self._send(b"", "text/plain", body=False)

    def _send(self, data: bytes, kind: str, body: bool) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def _entry(file: Path, directory: Path) -> dict[str, object]:
    return _listed(str(file.relative_to(directory)), file.read_bytes())


def _listed(path: str, content: bytes) -> dict[str, object]:
    """What the hub says of a file, and more of a large one."""
    entry: dict[str, object] = {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }
    if path.endswith(".gguf"):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


@contextmanager
def serve(models: dict[str, Path], gated: frozenset[str] = frozenset()) -> Iterator[Hub]:
    """Run a hub with these models on a free port inside the block."""
    hub = Hub(models, gated)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
