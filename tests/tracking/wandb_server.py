"""Just enough of a wandb server for `wandb sync` to read an offline run and send it: answers, and keeps what was sent."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Received:
    """What a server was sent: GraphQL calls by operation name, and streamed files by name (lines in order)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, list[str]] = {}
        self.uploads: dict[str, bytes] = {}
        self.exit_codes: list[int] = []
        self.url = ""

    def variables(self, operation: str) -> list[dict[str, Any]]:
        return [v for name, v in self.calls if name == operation]


def _answer(received: Received, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
    if operation == "UpsertBucket":
        entity = {"id": "e", "name": "me"}
        bucket = {"id": "b", "name": variables.get("name"), "displayName": variables.get("displayName"), "config": "{}",
                  "historyLineCount": 0, "project": {"id": "p", "name": variables.get("project"), "entity": entity}}  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if operation == "CreateArtifact":
        artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "a"}}}
        return {"createArtifact": {"artifact": artifact}}
    if operation == "CreateRunFiles":
        files = [{"name": f, "uploadUrl": f"{received.url}/upload/{f}"} for f in variables["files"]]
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
    return {}


@contextmanager
def wandb_server() -> Iterator[Received]:
    received = Received()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _body(self) -> bytes:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

        def _reply(self, data: dict[str, Any]) -> None:
            text = json.dumps(data).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_POST(self) -> None:
            body = self._body()
            if self.path.endswith("/graphql"):
                call = json.loads(body)
                received.calls.append((call.get("operationName", ""), call.get("variables") or {}))
                self._reply({"data": _answer(received, *received.calls[-1])})
                return
            if self.path.endswith("/file_stream"):
                sent = json.loads(body)
                for name, chunk in (sent.get("files") or {}).items():
                    lines = received.files.setdefault(name, [])
                    lines[chunk["offset"] :] = chunk["content"]
                if sent.get("complete"):
                    received.exit_codes.append(sent["exitcode"])
            self._reply({})

        def do_PUT(self) -> None:
            received.uploads[self.path.removeprefix("/upload/")] = self._body()
            self._reply({})

        def do_GET(self) -> None:
            self._reply({})

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
