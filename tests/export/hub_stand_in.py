"""A stand-in of the Hugging Face hub on this machine: what its client calls to make, fill and read a repository."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40
TOKEN = "hf_stand_in"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each file's content by its path; large files come by another way than small ones."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.cards: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.server.calls.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, status=401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            self._json({"url": f"{self.server.address}/{name}"})
        elif path == "/api/validate-yaml":
            self.server.cards.append(json.loads(body)["content"])
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {file: "lfs" if file.endswith(".safetensors") else "regular" for file in files}
            self._json({"files": [{"path": f, "uploadMode": m, "shouldIgnore": False} for f, m in modes.items()]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            answer = [
                {**one, "actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}}} for one in objects
            ]
            self._json({"transfer": "basic", "objects": answer})
        elif "/commit/" in path:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            self._commit(name, [json.loads(line) for line in body.splitlines()])
            self._json(
                {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.address}/{name}/commit/{COMMIT}"}
            )
        else:
            self._json({"error": path}, status=404)

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.server.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.large[oid] = body
        self._json({})

    def do_HEAD(self) -> None:
        self._get(send=False)

    def do_GET(self) -> None:
        self._get(send=True)

    def _get(self, *, send: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.calls.append(f"GET {path}")
        for name, files in self.server.repositories.items():
            siblings = [{"rfilename": file} for file in files]
            if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main", f"/api/models/{name}/revision/v1"):
                self._json({"id": name, "sha": COMMIT, "siblings": siblings, "private": False})
                return
            if path.startswith(f"/api/models/{name}/tree/"):
                tree = [{"type": "file", "path": f, "size": len(c), "oid": _oid(c)} for f, c in files.items()]
                self._json(tree)
                return
            inside = path.removeprefix(f"/{name}/resolve/").partition("/")[2]
            if path.startswith(f"/{name}/resolve/") and inside in files:
                self._content(files[inside], send=send)
                return
        self._json({"error": "Repository not found"}, status=404, headers={"X-Error-Code": "RepoNotFound"})

    def _content(self, content: bytes, *, send: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{_oid(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if send:
            self.wfile.write(content)

    def _json(self, content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
