"""A hub on this machine: enough of the HTTP API for huggingface_hub to write and to read."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

LARGE = (".safetensors", ".parquet")


class Hub:
    """Repositories in memory. `fail_after` commits it answers 500, as a hub that goes down."""

    def __init__(self, token="hf_right"):
        self.token, self.repos, self.blobs = token, {}, {}
        self.commits, self.requests, self.fail_after = [], [], None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def revision(self, repo):
        listed = sorted((n, self.digest(d)) for n, d in self.repos[repo].items())
        return hashlib.sha1(json.dumps(listed).encode()).hexdigest()

    @staticmethod
    def digest(data):
        return hashlib.sha256(data).hexdigest()

    def entry(self, repo, name):
        data = self.repos[repo][name]
        blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        out = {"type": "file", "path": name, "size": len(data), "oid": blob}
        if name.endswith(LARGE):
            out["lfs"] = {"oid": self.digest(data), "size": len(data), "pointerSize": 130}
        return out


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def reply(self, value=b"", status=200, **headers):
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            headers.setdefault("Content-Type", "application/json")
            headers.setdefault("Content-Length", str(len(data)))
            for name, content in headers.items():
                self.send_header(name.replace("_", "-"), content)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def allowed(self):
            if self.headers.get("Authorization") == f"Bearer {hub.token}":
                return True
            self.reply({"error": "Invalid token"}, 401)
            return False

        def path_of(self):
            hub.requests.append(f"{self.command} {self.path}")
            return unquote(urlparse(self.path).path)

        def do_PUT(self):
            path = self.path_of()
            data = self.body()
            hub.blobs[path.rpartition("/")[2]] = data
            self.reply()

        def do_POST(self):
            path, body = self.path_of(), self.body()
            if not self.allowed():
                return None
            if path == "/api/repos/create":
                wanted = json.loads(body)
                repo = f"{wanted['organization']}/{wanted['name']}"
                if repo in hub.repos:
                    return self.reply({"error": "exists", "url": f"{hub.url}/{repo}"}, 409)
                hub.repos[repo] = {}
                return self.reply({"url": f"{hub.url}/{repo}", "name": repo})
            if path == "/api/validate-yaml":
                return self.reply({"errors": [], "warnings": []})
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {"oid": o["oid"], "size": o["size"]}
                    | ({} if o["oid"] in hub.blobs else {"actions": {
                        "upload": {"href": f"{hub.url}/upload/{o['oid']}", "header": {}}}})
                    for o in json.loads(body)["objects"]
                ]  # fmt: skip
                return self.reply({"transfer": "basic", "objects": objects})
            match = re.fullmatch(
                r"/api/models/([^/]+/[^/]+)/(preupload|paths-info|commit)/main", path
            )
            if match is None:
                return self.reply({"error": f"no {path}"}, 404)
            return getattr(self, match[2].replace("-", "_"))(match[1], body)

        def preupload(self, repo, body):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                 "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            self.reply({"files": files})

        def paths_info(self, repo, body):
            from urllib.parse import parse_qs

            if self.headers["Content-Type"].startswith("application/json"):
                names = json.loads(body)["paths"]
            else:
                names = parse_qs(body.decode())["paths"]
            self.reply([hub.entry(repo, n) for n in names if n in hub.repos[repo]])

        def commit(self, repo, body):
            if hub.fail_after is not None and len(hub.commits) >= hub.fail_after:
                return self.reply({"error": "the disk is full"}, 500)
            lines = [json.loads(line) for line in body.splitlines() if line]
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    hub.repos[repo][value["path"]] = hub.blobs[value["oid"]]
            hub.commits.append(lines[0]["value"]["summary"])
            oid = hub.revision(repo)
            return self.reply({"commitUrl": f"{hub.url}/{repo}/commit/{oid}", "commitOid": oid})

        def do_GET(self):
            path = self.path_of()
            match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path)
            if match and match[1] in hub.repos:
                repo = match[1]
                files = [{"rfilename": name} for name in sorted(hub.repos[repo])]
                return self.reply({"id": repo, "sha": hub.revision(repo), "siblings": files})
            match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+/?", path)
            if match and match[1] in hub.repos:
                return self.reply([hub.entry(match[1], n) for n in sorted(hub.repos[match[1]])])
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
            if match and match[2] in hub.repos.get(match[1], {}):
                data = hub.repos[match[1]][match[2]]
                entry = hub.entry(match[1], match[2])
                etag = f'"{entry.get("lfs", entry)["oid"]}"'
                return self.reply(
                    data, Content_Type="application/octet-stream", ETag=etag,
                    X_Repo_Commit=hub.revision(match[1]), X_Linked_Size=str(len(data)),
                    X_Linked_Etag=etag,
                )  # fmt: skip
            return self.reply({"error": f"no {path}"}, 404)

        do_HEAD = do_GET

    return Handler
