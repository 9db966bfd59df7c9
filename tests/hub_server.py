# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A model hub on the loopback interface: what `huggingface_hub` asks of `HF_ENDPOINT` to read a model repository, and
to create one and upload files without the xet protocol."""

import base64
import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants, hf_api


class HubServer:
    """
    Serves every folder `root/<namespace>/<name>` as the model repository `<namespace>/<name>`.

    A repository has one commit, named by the SHA-1 of its contents, and one branch, `main`. The server runs in a
    thread while its `with` block does, and every response closes its connection, so that nothing answers afterwards:

        with HubServer(tmp_path / "hub") as server:
            environment = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}

    All may read. Who has the token of an account may also create repositories in its namespace and commit to them;
    `HF_HUB_DISABLE_XET=1` must be in the environment for that.

    Args:
        root (`Path`):
            The folder of namespaces. Files may be added or changed while the server runs.
        accounts (`dict[str, str]`, *optional*, defaults to none):
            The namespace that each token may write to.

    Attributes:
        endpoint (`str`):
            The value for `HF_ENDPOINT`.
        requests (`list[tuple[str, str]]`):
            Method and decoded path, without the query, of every request so far.
        bytes_left (`int`, *optional*):
            Bytes of files that are still sent; then connections break. The default sends all.
    """

    def __init__(self, root: Path, accounts: dict[str, str] | None = None):
        self.root, self.accounts = Path(root), accounts or {}
        self.requests: list[tuple[str, str]] = []
        self.bytes_left: int | None = None
        self.uploads: dict[str, bytes] = {}  # large files by their SHA-256, until a commit names them
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_HubRequestHandler, self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def take_the_hubs_place(self, monkeypatch, cache: Path) -> None:
        """In this process, serve what is asked of the Hub, with `cache` as the folder of downloads."""
        ask(self.endpoint, monkeypatch, cache)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *exception_info) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def ask(endpoint: str, monkeypatch, cache: Path) -> None:
    """In this process, ask an endpoint instead of the Hub, with `cache` as the folder of downloads."""
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    settings = {"ENDPOINT": endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(cache)}
    for name, value in (settings | {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}).items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)


class _HubError(Exception):
    """A refusal; the `X-Error-Code` of a 404 tells `huggingface_hub` which exception to raise."""

    def __init__(self, code: str | None, message: str, commit: str | None = None, status: int = 404):
        super().__init__(message)
        self.status = status
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in headers.items() if value is not None}


class _Repository:
    """One model repository: its files, their hashes, and the commit that they make."""

    def __init__(self, root: Path, repo_id: str):
        self.repo_id = repo_id
        self.folder = root / repo_id
        if not self.folder.is_dir() or root.resolve() not in self.folder.resolve().parents:
            raise _HubError("RepoNotFound", f"No repository {repo_id}")
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        self.files = {path.relative_to(self.folder).as_posix(): path for path in paths}
        self.hashes = {name: _sha1(path, path.stat().st_mtime_ns) for name, path in self.files.items()}
        self.commit = hashlib.sha1(json.dumps(self.hashes).encode()).hexdigest()

    def check_revision(self, revision: str) -> None:
        if revision not in ("main", self.commit):
            raise _HubError("RevisionNotFound", f"No revision {revision} in {self.repo_id}")

    def file(self, name: str) -> Path:
        if name not in self.files:
            raise _HubError("EntryNotFound", f"No file {name} in {self.repo_id}", self.commit)
        return self.files[name]

    def info(self) -> dict:
        return {
            "id": self.repo_id,
            "sha": self.commit,
            "private": False,
            "gated": False,
            "tags": [],
            "siblings": [{"rfilename": name} for name in self.files],
        }

    def tree(self, folder: str, recursive: bool) -> list[dict]:
        prefix = f"{folder}/" if folder else ""
        entries = {}
        for name, path in self.files.items():
            if not name.startswith(prefix):
                continue
            parts = name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                parent = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(parent.encode()).hexdigest()
                entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": oid}
            if recursive or len(parts) == 1:
                entries[name] = {"type": "file", "path": name, "size": path.stat().st_size, "oid": self.hashes[name]}
        if folder and not entries:
            raise _HubError("EntryNotFound", f"No folder {folder} in {self.repo_id}", self.commit)
        return list(entries.values())

    def upload_modes(self, files: list[dict]) -> dict:
        """How each file has to be sent: in the commit, or before it as a large file."""
        modes = {file["path"]: "lfs" if file["path"].endswith(".safetensors") else "regular" for file in files}
        return {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]}

    def write(self, operations: list[dict], uploads: dict[str, bytes]) -> None:
        """A commit; its operations add files."""
        for operation in operations:
            match operation:
                case {"key": "header"}:
                    continue
                case {"key": "file", "value": {"path": name, "content": content, "encoding": "base64"}}:
                    content = base64.b64decode(content)
                case {"key": "lfsFile", "value": {"path": name, "algo": "sha256", "oid": oid}} if oid in uploads:
                    content = uploads[oid]
                case _:
                    raise _HubError(None, f"Not an operation for {self.repo_id}: {operation}", status=400)
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@functools.cache
def _sha1(path: Path, modified_ns: int) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


class _HubRequestHandler(BaseHTTPRequestHandler):
    def __init__(self, hub: HubServer, *args):
        self.hub = hub
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self._answer(self._read)

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_POST(self) -> None:
        self._answer(self._write)

    def do_PUT(self) -> None:
        self._answer(self._store)

    def log_message(self, *args) -> None:
        pass

    def _answer(self, method: Callable[[list[str]], None]) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append((self.command, unquote(url.path)))
        # A revision and the folder of a tree arrive as ONE quoted segment each: split first, then unquote.
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        try:
            method(parts)
        except _HubError as error:
            self._send_json({"error": str(error)}, error.status, error.headers)

    def _read(self, parts: list[str]) -> None:
        recursive = "recursive=true" in urlsplit(self.path).query.lower()
        match parts:
            case ["api", "models", namespace, name, *rest]:
                repository = _Repository(self.hub.root, f"{namespace}/{name}")
                self._send_json(self._metadata(repository, rest, recursive))
            case [namespace, name, "resolve", revision, *file_parts]:
                repository = _Repository(self.hub.root, f"{namespace}/{name}")
                repository.check_revision(revision)
                self._send_file(repository, "/".join(file_parts))
            case _:
                raise _HubError("RepoNotFound", f"No repository at {'/'.join(parts)}")

    def _write(self, parts: list[str]) -> None:
        lines = [json.loads(line) for line in self._body().splitlines()]
        match parts:
            case ["api", "validate-yaml"]:
                self._send_json({"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                self._create(lines[0]["organization"] or self._account(), lines[0]["name"])
            case ["api", "models", namespace, name, "preupload", "main"]:
                self._send_json(self._writable(namespace, name).upload_modes(lines[0]["files"]))
            case [namespace, name, "info", "lfs", "objects", "batch"]:
                self._writable(namespace, name.removesuffix(".git"))
                self._send_json({"objects": [self._upload_action(large_file) for large_file in lines[0]["objects"]]})
            case ["api", "models", namespace, name, "commit", "main"]:
                self._writable(namespace, name).write(lines, self.hub.uploads)
                commit = _Repository(self.hub.root, f"{namespace}/{name}").commit
                url = f"{self.hub.endpoint}/{namespace}/{name}/commit/{commit}"
                self._send_json({"commitUrl": url, "commitOid": commit})
            case _:
                raise _HubError(None, f"Nothing is written to {'/'.join(parts)}")

    def _store(self, parts: list[str]) -> None:
        """A large file, to the address that was given for it: no token comes with it."""
        content = self._body()
        if parts != ["uploads", hashlib.sha256(content).hexdigest()]:
            raise _HubError(None, f"The content of {'/'.join(parts)} has another hash", status=400)
        self.hub.uploads[parts[1]] = content
        self._send(200, b"", "application/octet-stream", {})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _account(self) -> str:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.hub.accounts:
            raise _HubError(None, "Invalid user token", status=401)
        return self.hub.accounts[token]

    def _check_may_write(self, namespace: str) -> None:
        if self._account() != namespace:
            raise _HubError(None, f"Your token does not let you write to {namespace}", status=403)

    def _writable(self, namespace: str, name: str) -> _Repository:
        self._check_may_write(namespace)
        return _Repository(self.hub.root, f"{namespace}/{name}")

    def _create(self, namespace: str, name: str) -> None:
        self._check_may_write(namespace)
        folder = self.hub.root / namespace / name
        status = 409 if folder.exists() else 200
        folder.mkdir(parents=True, exist_ok=True)
        self._send_json({"url": f"{self.hub.endpoint}/{namespace}/{name}"}, status)

    def _upload_action(self, large_file: dict) -> dict:
        return {**large_file, "actions": {"upload": {"href": f"{self.hub.endpoint}/uploads/{large_file['oid']}"}}}

    @staticmethod
    def _metadata(repository: _Repository, rest: list[str], recursive: bool) -> dict | list[dict]:
        match rest:
            case [] | ["revision", _]:
                repository.check_revision(rest[1] if rest else "main")
                return repository.info()
            case ["tree", revision, *folder_parts]:
                repository.check_revision(revision)
                return repository.tree("/".join(folder_parts), recursive)
        raise _HubError("EntryNotFound", f"No {'/'.join(rest)} of {repository.repo_id}")

    def _send_json(self, value: dict | list[dict], status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers or {})

    def _send_file(self, repository: _Repository, name: str) -> None:
        content = repository.file(name).read_bytes()
        headers = {
            "ETag": f'"{repository.hashes[name]}"',
            "X-Repo-Commit": repository.commit,
            "Accept-Ranges": "bytes",
        }
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if byte_range is None:
            self._send(200, content, "application/octet-stream", headers)
            return
        start, size = int(byte_range[1]), len(content)
        if start >= size:
            self._send(416, b"", "application/octet-stream", headers | {"Content-Range": f"bytes */{size}"})
            return
        end = min(int(byte_range[2] or size - 1), size - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        self._send(206, content[start : end + 1], "application/octet-stream", headers)

    def _send(self, status: int, body: bytes, content_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.bytes_left is not None and content_type == "application/octet-stream":
            body = body[: self.hub.bytes_left]
            self.hub.bytes_left -= len(body)
        self.wfile.write(body)
