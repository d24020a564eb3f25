"""/readyz of a worker: can it draw? Answers 503 with the remedy when weights, database or object store are missing."""

import json
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from shared.database import Database
from shared.errors import AppError
from shared.settings import Settings
from shared.storage import ObjectStore


class Readiness:
    """`problems` maps models that cannot be used here to the reason."""

    def __init__(self, settings: Settings, database: Database, store: ObjectStore, problems: Mapping[str, str]) -> None:
        self._settings, self._database, self._store, self._problems = settings, database, store, problems
        self._server: ThreadingHTTPServer | None = None

    def checks(self) -> dict[str, str]:
        """Part to "ok" or its problem."""
        return {
            "database": explain(self._check_database),
            "objects": explain(self._store.check),
            "weights": self._problems.get(self._settings.default_model, "ok"),
        }

    def _check_database(self) -> None:
        with self._database.read() as session:
            session.execute(text("SELECT 1"))

    def start(self) -> None:
        if self._settings.worker_health_port == 0:
            return
        handler = type("Handler", (ReadyHandler,), {"readiness": self})
        self._server = ThreadingHTTPServer(("0.0.0.0", self._settings.worker_health_port), handler)
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def explain(check: Callable[[], None]) -> str:
    try:
        check()
    except AppError as problem:
        return problem.detail
    except OperationalError as error:
        return f"the database does not answer: {error.orig}"
    return "ok"


class ReadyHandler(BaseHTTPRequestHandler):
    readiness: Readiness

    def do_GET(self) -> None:
        if self.path != "/readyz":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        checks = self.readiness.checks()
        ready = all(state == "ok" for state in checks.values())
        body = json.dumps({"ready": ready, "checks": checks}).encode()
        self.send_response(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes are not logged."""
