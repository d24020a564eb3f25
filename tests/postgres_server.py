"""A PostgreSQL server of the test's own, to be stopped, crashed and started again at will."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.addresses import free_port

PROGRAMS = ("initdb", "postgres", "pg_isready")
DEBIAN = Path("/usr/lib/postgresql")
CONFIG = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
port = {port}
max_connections = 200
shared_buffers = 32MB
"""
# What pg_ctl calls immediate: no checkpoint, clients are cut off, the next start recovers from the log.
CRASH = signal.SIGQUIT
FAST = signal.SIGINT


def find_programs() -> Path | None:
    """The folder of `initdb`; Debian keeps it off the PATH."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    folders += sorted(DEBIAN.glob("*/bin"), key=lambda folder: -int(folder.parent.name))
    # Not by initdb alone: a package of the server may put that on the PATH and leave the rest out.
    return next((folder for folder in folders if all((folder / name).is_file() for name in PROGRAMS)), None)


def unprivileged() -> str | None:
    """PostgreSQL refuses to run as root, so root's tests run it as the account that its package made."""
    return "postgres" if os.geteuid() == 0 else None


class PostgresServer:
    """Durable as in production (fsync on), reachable at `url` without a password, on the same port after each start."""

    def __init__(self, programs: Path, folder: Path, port: int) -> None:
        self.programs = programs
        self.folder = folder
        self.port = port
        self.log = folder.with_name(f"{folder.name}.log")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def create(self) -> None:
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]
        command = [str(self.programs / "initdb"), *options, "--pgdata", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True, cwd="/", user=unprivileged(), group=unprivileged())
        with (self.folder / "postgresql.conf").open("a") as config:
            config.write(CONFIG.format(port=self.port))

    def start(self, *, seconds: float = 60) -> None:
        """Returns when it accepts connections, recovery from a crash included."""
        command = [str(self.programs / "postgres"), "-D", str(self.folder)]
        account = unprivileged()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd="/", start_new_session=True, user=account, group=account
            )
        deadline = time.monotonic() + seconds
        while not self.answers():
            if not self.is_running or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def answers(self) -> bool:
        command = [str(self.programs / "pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={self.port}"]
        return subprocess.run(command, check=False).returncode == 0

    def stop(self, *, how: signal.Signals = FAST) -> None:
        if self.process is not None and self.is_running:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait(60)

    def crash(self) -> None:
        self.stop(how=CRASH)

    def restart(self, *, how: signal.Signals = CRASH) -> None:
        self.stop(how=how)
        self.start()


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Started and empty; raises FileNotFoundError where PostgreSQL's server is not installed."""
    programs = find_programs()
    if programs is None:
        raise FileNotFoundError("initdb of PostgreSQL is neither on the PATH nor below /usr/lib/postgresql")
    # Not below pytest's folder, which only its owner can enter.
    with tempfile.TemporaryDirectory(prefix="synthclone-postgres-") as parent:
        if (account := unprivileged()) is not None:
            shutil.chown(parent, account)
        server = PostgresServer(programs, Path(parent) / "data", free_port())
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.stop(how=CRASH)
