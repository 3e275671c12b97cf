"""A small local stand-in for the hub's HTTP interface: repositories in memory, commits, downloads by revision."""

import base64
import hashlib
import http.server
import json
import re
import threading
from contextlib import contextmanager

FIRST = "0" * 40


class Hub:
    """What the server holds.

    Attributes:
        commits: (kind, repo) → commit → name → bytes.
        branches: (kind, repo) → branch → commit.
        fail_commits: answer that many commits with an error, as an interrupted upload.
    """

    def __init__(self) -> None:
        self.commits, self.branches, self.blobs = {}, {}, {}
        self.fail_commits = 0
        self.asked = []

    def create(self, kind, repo):
        self.commits.setdefault((kind, repo), {FIRST: {}})
        self.branches.setdefault((kind, repo), {"main": FIRST})

    def files(self, kind, repo, revision="main"):
        key = kind, repo
        commit = self.branches.get(key, {}).get(revision, revision)
        return commit, self.commits.get(key, {}).get(commit)

    def commit(self, kind, repo, branch, added):
        key = kind, repo
        _, before = self.files(kind, repo, branch)
        after = {**(before or {}), **added}
        listing = sorted((name, hashlib.sha256(content).hexdigest()) for name, content in after.items())
        number = hashlib.sha1(json.dumps(listing).encode()).hexdigest()
        self.commits[key][number] = after
        self.branches[key][branch] = number
        return number


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        self.server.hub.asked.append(f"{self.command} {self.path}")

    def answer(self, status, body=b"", headers=(), kind="application/json"):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, code, message):
        self.answer(404, {"error": message}, [("X-Error-Code", code), ("X-Error-Message", message)])

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = b""
            while size := int(self.rfile.readline(), 16):
                parts += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return parts
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server.hub
        found = re.match(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.path)
        if found:
            kind = "dataset" if found[1] else "model"
            commit, files = hub.files(kind, found[2], found[3])
            if files is None:
                return self.missing(
                    "RevisionNotFound" if (kind, found[2]) in hub.commits else "RepoNotFound", "no such"
                )
            if found[4] not in files:
                return self.missing("EntryNotFound", "no such file")
            content = files[found[4]]
            tag = hashlib.sha256(content).hexdigest()
            return self.answer(
                200, content, [("ETag", f'"{tag}"'), ("X-Repo-Commit", commit)], "application/octet-stream"
            )
        found = re.match(r"/api/(model|dataset)s/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([^?/]+))?", self.path)
        if found:
            kind, repo, what, revision = found[1], found[2], found[3], found[4] or "main"
            commit, files = hub.files(kind, repo, revision)
            if files is None:
                return self.missing("RevisionNotFound" if (kind, repo) in hub.commits else "RepoNotFound", "no such")
            if what == "tree":
                rows = [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ]
                return self.answer(200, rows)
            return self.answer(200, {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]})
        return self.missing("EntryNotFound", self.path)

    def do_PUT(self):
        self.server.hub.blobs[self.path.rsplit("/", 1)[1]] = self.body()
        self.answer(200)

    def do_POST(self):
        hub, content = self.server.hub, self.body()
        if self.path == "/api/validate-yaml":  # of a README.md
            return self.answer(200, {"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            hub.create(asked.get("type", "model"), repo)
            return self.answer(200, {"url": f"{self.server.address}/{repo}", "name": repo, "id": repo})
        found = re.match(r"/api/(model|dataset)s/([\w.-]+/[\w.-]+)/(preupload|commit|branch)/([^?]+)", self.path)
        if found and found[3] == "preupload":
            rows = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(content)["files"]
            ]
            return self.answer(200, {"files": rows})
        if found and found[3] == "branch":
            hub.branches[found[1], found[2]][found[4]] = hub.files(found[1], found[2])[0]
            return self.answer(200, {})
        if found and found[3] == "commit":
            if hub.fail_commits:
                hub.fail_commits -= 1
                return self.answer(500, {"error": "interrupted"}, [("X-Error-Message", "interrupted")])
            rows = [json.loads(line) for line in content.splitlines() if line.strip()]
            added = {
                row["value"]["path"]: base64.b64decode(row["value"]["content"]) for row in rows if row["key"] == "file"
            }
            number = hub.commit(found[1], found[2], found[4], added)
            address = f"{self.server.address}/{found[2]}/commit/{number}"
            return self.answer(200, {"commitUrl": address, "commitOid": number, "success": True})
        return self.missing("EntryNotFound", self.path)


@contextmanager
def hub_stand_in():
    """The hub and its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub, server.address = Hub(), f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.hub, server.address
    finally:
        server.shutdown()
        server.server_close()
