"""A stand-in for the Hub: an HTTP server with the endpoints huggingface_hub's client calls to upload and download a model.

It checks what the real one checks (login, sizes, SHA-256 of large files, a commit that names them) and keeps a history of
commits, so that revisions can be downloaded. Everything it is asked for that it does not know is a 404 and noted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_test"


@dataclass
class Repo:
    private: bool = False
    #: (commit sha, {path: bytes}, message), oldest first
    commits: list[tuple[str, dict[str, bytes], str]] = field(default_factory=list)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        for sha, files, _ in reversed(self.commits):
            if revision in ("main", sha):
                return sha, files
        return None


class Hub:
    """`with Hub() as hub: HfApi(endpoint=hub.url, token=TOKEN)`; `hub.requests` lists (method, path)."""

    #: files with these endings go through the large-file protocol, as on the real Hub
    LARGE = (".safetensors", ".bin", ".pt")

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.unknown: list[tuple[str, str]] = []
        self.down = False
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        # another host name, as the real one's large files are: the client must not send its token there
        self.cdn = f"http://localhost:{self.server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: object = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        sent = {"Content-Length": str(len(data)), "Content-Type": "application/json", **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        if self.hub.down:
            return self.answer(500, {"error": "Internal Server Error"})
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if self.command == method and match:
                return getattr(self, name)(body, **match.groupdict())
        self.hub.unknown.append((self.command, path))
        return self.answer(404, {"error": "unknown endpoint"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().strip() or b"0", 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repo(self, id: str) -> Repo | None:
        repo = self.hub.repos.get(id)
        return None if repo is None or (repo.private and not self.logged_in()) else repo

    def no_repo(self) -> None:
        self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    # -- upload ---------------------------------------------------------------------------------------------------

    def create(self, body: bytes) -> None:
        if not self.logged_in():
            return self.answer(401, {"error": "Invalid username or password."})
        data = json.loads(body)
        id = f"{data.get('organization') or 'me'}/{data['name']}"
        if id in self.hub.repos:
            return self.answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{id}"})
        repo = self.hub.repos[id] = Repo(bool(data.get("private")) or data.get("visibility") == "private")
        repo.commits.append((hashlib.sha1(id.encode()).hexdigest(), {".gitattributes": b""}, "initial commit"))
        return self.answer(200, {"url": f"{self.hub.url}/{id}", "name": id, "id": id})

    def preupload(self, body: bytes, id: str, revision: str) -> None:
        if self.repo(id) is None or not self.logged_in():
            return self.no_repo()
        files = json.loads(body)["files"]
        modes = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith(Hub.LARGE) else "regular",
                "shouldIgnore": False,
            }
            for f in files
        ]
        return self.answer(200, {"files": modes})

    def validate_yaml(self, body: bytes) -> None:
        data = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        errors = [] if isinstance(data, dict) and "base_model" in data else [{"message": "no metadata"}]
        return self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def lfs_batch(self, body: bytes, id: str) -> None:
        if self.repo(id) is None or not self.logged_in():
            return self.no_repo()
        objects = []
        for o in json.loads(body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"},
                "verify": {"href": f"{self.hub.url}/verify"},
            }
            known = o["oid"] in self.hub.blobs
            objects.append({**o, "authenticated": True, **({} if known else {"actions": actions})})
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer(400, {"error": "SHA-256 does not match"})
        self.hub.blobs[oid] = body
        return self.answer(200)

    def lfs_verify(self, body: bytes) -> None:
        data = json.loads(body)
        held = self.hub.blobs.get(data["oid"])
        return self.answer(200 if held is not None and len(held) == data["size"] else 404)

    def commit(self, body: bytes, id: str, revision: str) -> None:
        repo = self.repo(id)
        if repo is None or not self.logged_in():
            return self.no_repo()
        head = repo.at(revision)
        if head is None:
            return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        files, message = dict(head[1]), ""
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        sha = hashlib.sha1(body + head[0].encode()).hexdigest()
        repo.commits.append((sha, files, message))
        return self.answer(200, {"success": True, "commitUrl": f"{self.hub.url}/{id}/commit/{sha}", "commitOid": sha})

    # -- download -------------------------------------------------------------------------------------------------

    def info(self, body: bytes, id: str, revision: str = "main") -> None:
        repo = self.repo(id)
        if repo is None:
            return self.no_repo()
        head = repo.at(revision)
        if head is None:
            return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name} for name in head[1]]
        return self.answer(200, {"id": id, "sha": head[0], "private": repo.private, "siblings": siblings, "tags": []})

    def tree(self, body: bytes, id: str, revision: str) -> None:
        repo = self.repo(id)
        head = repo.at(revision) if repo else None
        if head is None:
            return self.no_repo()
        entries = []
        for name, data in head[1].items():
            entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": _git_sha(data)}
            if name.endswith(Hub.LARGE):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        return self.answer(200, entries)

    def resolve(self, body: bytes, id: str, revision: str, name: str) -> None:
        repo = self.repo(id)
        if repo is None:
            return self.no_repo()
        head = repo.at(revision)
        if head is None or name not in head[1]:
            code = "RevisionNotFound" if head is None else "EntryNotFound"
            return self.answer(404, {"error": code}, {"X-Error-Code": code})
        data = head[1][name]
        headers = {"X-Repo-Commit": head[0], "Content-Type": "application/octet-stream"}
        if name.endswith(Hub.LARGE):
            oid = hashlib.sha256(data).hexdigest()
            linked = {
                "X-Linked-Etag": f'"{oid}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"{self.hub.cdn}/cdn/{oid}",
            }
            return self.answer(302, b"", {**headers, **linked})
        return self.answer(200, data, {**headers, "ETag": f'"{_git_sha(data)}"'})

    def cdn(self, body: bytes, oid: str) -> None:
        if "Authorization" in self.headers:
            return self.answer(400, {"error": "token sent to another host"})
        data = self.hub.blobs[oid]
        return self.answer(200, data, {"ETag": f'"{oid}"', "Content-Type": "application/octet-stream"})


def _git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_ID = r"(?P<id>[\w.-]+/[\w.-]+)"
ROUTES = [
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", rf"/api/models/{_ID}/preupload/(?P<revision>[\w.-]+)", "preupload"),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", r"/verify", "lfs_verify"),
    ("POST", rf"/api/models/{_ID}/commit/(?P<revision>[\w.-]+)", "commit"),
    ("GET", rf"/api/models/{_ID}", "info"),
    ("GET", rf"/api/models/{_ID}/revision/(?P<revision>[\w.-]+)", "info"),
    ("GET", rf"/api/models/{_ID}/tree/(?P<revision>[\w.-]+)", "tree"),
    ("HEAD", rf"/{_ID}/resolve/(?P<revision>[\w.-]+)/(?P<name>.+)", "resolve"),
    ("GET", rf"/{_ID}/resolve/(?P<revision>[\w.-]+)/(?P<name>.+)", "resolve"),
    ("HEAD", r"/cdn/(?P<oid>[0-9a-f]{64})", "cdn"),
    ("GET", r"/cdn/(?P<oid>[0-9a-f]{64})", "cdn"),
]
