"""MLflow as trainings meet it: the real server where its program is installed, and a small one that answers alike."""

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Body = dict[str, Any]


def ask(uri: str, path: str, body: Body) -> Body:
    request = urllib.request.Request(f"{uri}/api/2.0/mlflow/{path}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return dict(json.load(answer))


def runs_of(uri: str) -> list[Body]:
    """All runs of the experiment, as MLflow describes them."""
    found = ask(uri, "experiments/search", {"filter": "name = 'synthclone'", "max_results": 10})["experiments"]
    ids = [each["experiment_id"] for each in found]
    return list(ask(uri, "runs/search", {"experiment_ids": ids, "max_results": 10}).get("runs", []))


class Books:
    """One experiment and its runs."""

    def __init__(self) -> None:
        self.experiment: str | None = None
        self.runs: list[Body] = []
        self.logins: list[str | None] = []

    def answer(self, path: str, body: Body) -> Body:
        match path:
            case "experiments/search":
                return {"experiments": [{"experiment_id": "7"}]} if self.experiment else {}
            case "experiments/create":
                self.experiment = body["name"]
                return {"experiment_id": "7"}
            case "runs/search":
                assert body["experiment_ids"] == ["7"]
                tag = body.get("filter", "").rpartition("= ")[2].strip("'")
                return {"runs": [run for run in self.runs if tag in ("", run["data"]["tags"][0]["value"])]}
            case "runs/create":
                data: Body = {"tags": body["tags"], "params": [], "metrics": []}
                self.runs.append({"info": {"run_id": "r1", "run_name": body["run_name"]}, "data": data})
                return {"run": self.runs[-1]}
            case "runs/update":
                self.runs[0]["info"]["status"] = body["status"]
            case "runs/log-batch":
                self.log(**body)
        return {}

    def log(self, run_id: str, params: Any = (), tags: Any = (), metrics: Any = ()) -> None:
        assert (run_id, len(metrics) <= 1000) == ("r1", True)
        data = self.runs[0]["data"]
        data["params"] = list(params) or data["params"]
        data["tags"] += tags
        # MLflow shows the last point of each curve.
        data["metrics"] = list({each["key"]: each for each in [*data["metrics"], *metrics]}.values())


@contextmanager
def serving(books: Books) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            books.logins.append(self.headers["Authorization"])
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            data = json.dumps(books.answer(self.path.removeprefix("/api/2.0/mlflow/"), body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    program = shutil.which("mlflow")
    if program is None:
        pytest.skip("the mlflow program is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
    with (folder / "mlflow.log").open("w") as log:
        server = subprocess.Popen([*command, *stores], stdout=log, stderr=log)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wait_until_ready(uri: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            # The first request opens the server's database, which takes seconds.
            ask(uri, "experiments/search", {"max_results": 1})
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"{uri} does not answer")
