# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A model hub on the loopback interface: what `huggingface_hub` asks of `HF_ENDPOINT` to read a model repository."""

import functools
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class HubServer:
    """
    Serves every folder `root/<namespace>/<name>` as the model repository `<namespace>/<name>`, read-only.

    A repository has one commit, named by the SHA-1 of its contents, and one branch, `main`. The server runs in a
    thread while its `with` block does, and every response closes its connection, so that nothing answers afterwards:

        with HubServer(tmp_path / "hub") as server:
            environment = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}

    Args:
        root (`Path`):
            The folder of namespaces. Files may be added or changed while the server runs.

    Attributes:
        endpoint (`str`):
            The value for `HF_ENDPOINT`.
        requests (`list[tuple[str, str]]`):
            Method and decoded path, without the query, of every request so far.
    """

    def __init__(self, root: Path):
        self.requests: list[tuple[str, str]] = []
        handler = functools.partial(_HubRequestHandler, Path(root), self.requests)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *exception_info) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _HubError(Exception):
    """A 404 whose `X-Error-Code` tells `huggingface_hub` which exception to raise."""

    def __init__(self, code: str, message: str, commit: str | None = None):
        super().__init__(message)
        self.headers = {"X-Error-Code": code, "X-Error-Message": message}
        if commit is not None:
            self.headers["X-Repo-Commit"] = commit


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


@functools.cache
def _sha1(path: Path, modified_ns: int) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


class _HubRequestHandler(BaseHTTPRequestHandler):
    def __init__(self, root: Path, requests: list[tuple[str, str]], *args):
        self.root = root
        self.requests = requests
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *args) -> None:
        pass

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.requests.append((self.command, unquote(url.path)))
        # A revision and the folder of a tree arrive as ONE quoted segment each: split first, then unquote.
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        try:
            match parts:
                case ["api", "models", namespace, name, *rest]:
                    repository = _Repository(self.root, f"{namespace}/{name}")
                    self._send_json(self._metadata(repository, rest, recursive="recursive=true" in url.query.lower()))
                case [namespace, name, "resolve", revision, *file_parts]:
                    repository = _Repository(self.root, f"{namespace}/{name}")
                    repository.check_revision(revision)
                    self._send_file(repository, "/".join(file_parts))
                case _:
                    raise _HubError("RepoNotFound", f"No repository at {url.path}")
        except _HubError as error:
            self._send(404, json.dumps({"error": str(error)}).encode(), "application/json", error.headers)

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

    def _send_json(self, value: dict | list[dict]) -> None:
        self._send(200, json.dumps(value).encode(), "application/json", {})

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
        if self.command != "HEAD":
            self.wfile.write(body)
