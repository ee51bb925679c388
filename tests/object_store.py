"""A real S3-compatible server (moto's) on loopback, which counts what it serves and breaks when it is told to.

`python -m tests.object_store` starts it, and prints its address; `Store` is how tests use it.
"""

import io
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import boto3

ACCESS, SECRET = "an-access-key", "a-secret-that-nothing-may-print"


class Store:
    """The server, with one bucket, `team`."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.object_store"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        self.client: Any = boto3.client(
            "s3", endpoint_url=self.address, aws_access_key_id=ACCESS, aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )  # fmt: skip
        self.client.create_bucket(Bucket="team")

    def environment(self, home: Path) -> dict[str, str | None]:
        """What a user has set to reach it; None: nothing."""
        return {
            "AWS_ENDPOINT_URL": self.address, "AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_PROFILE": None,
            "MSC_CONFIG": None, "AWS_CONFIG_FILE": str(home / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(home / "credentials"),
        }  # fmt: skip

    def put(self, folder: Path, name: str) -> str:
        """Copy a folder there; its address."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.put_object(Bucket="team", Key=f"{name}/{path.relative_to(folder)}", Body=path.read_bytes())
        return f"s3://team/{name}"

    def get(self, name: str, folder: Path) -> Path:
        """Copy what is there to a folder."""
        for key in self.keys(name):
            path = folder / key.removeprefix(f"{name}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.client.get_object(Bucket="team", Key=key)["Body"].read())
        return folder

    def keys(self, name: str) -> list[str]:
        """The keys below a name."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="team", Prefix=f"{name}/")
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def breaks(self, **how: Any) -> None:
        """Break from here on: `how` as `_Watched.__call__` reads it; nothing: be whole again."""
        self._ask("break", how)

    def wait_until_it_hangs(self) -> None:
        """Return when a request waits that was told to."""
        assert self._ask("hangs", None), "nothing has asked for what hangs"

    @contextmanager
    def watched(self) -> Iterator[list[tuple[str, str, int]]]:
        """What is asked for meanwhile, to be read afterwards: method, path with the bucket, bytes of bodies served."""
        found: list[tuple[str, str, int]] = []
        self._ask("seen", None)
        yield found
        found += [tuple(one) for one in self._ask("seen", None)]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _ask(self, what: str, value: Any) -> Any:
        request = urllib.request.Request(f"{self.address}/-/{what}", json.dumps(value).encode())
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)


class _Watched:
    """The server's application, watched and broken."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._seen: list[tuple[str, str, int]] = []
        self._how: dict[str, Any] = {}
        self._hangs = Event()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.startswith("/-/"):
            return self._told(path, environ, start)
        how = self._how
        if how.get("method", method) == method and how.get("path", "") in path and how.get("times", 0) > 0:
            how["times"] -= 1
            if how["kind"] == "hangs":
                self._hangs.set()
                Event().wait()
            if how["kind"] != "is cut":
                status, code = how["kind"]
                start(status, [("Content-Type", "application/xml")])
                return [] if method == "HEAD" else [f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()]
            data = b"".join(self._application(environ, start))
            return _cut(data)
        data = b"".join(self._application(environ, start))
        self._seen.append((method, path, len(data)))
        return [data]

    def _told(self, path: str, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        value = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        answer: Any = None
        if path == "/-/seen":
            answer, self._seen = self._seen, []
        elif path == "/-/hangs":
            answer = self._hangs.wait(60)
        else:
            self._how = value
            self._hangs.clear()
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]


def _cut(data: bytes) -> Iterator[bytes]:
    yield data[: len(data) // 2]
    raise ConnectionAbortedError("as it was told")


def _serve() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):  # type: ignore[misc]
        def log(self, type: str, message: str, *args: Any) -> None:
            pass

    application = _Watched(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stderr = io.StringIO()  # traces of connections that were cut
    server.serve_forever()


if __name__ == "__main__":
    _serve()
