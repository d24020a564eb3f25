"""What must be true of a folder before services run in it, and how that is brought about."""

import errno
import logging
import os
import socket
import tempfile
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import DatabaseError

from shared.errors import ConfigurationError
from shared.lexicon import build_lexicon
from shared.migrate import migrate
from shared.settings import Settings
from shared.webhooks import signing_pepper

logger = logging.getLogger(__name__)
PROBE_BYTES = 1_048_576
REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "the file system is mounted read-only",
    errno.EACCES: "give this user the right to write there",
    errno.EPERM: "give this user the right to write there",
    errno.ENOTDIR: "a file stands in its way",
    errno.EEXIST: "it is a file",
}


def prepare(settings: Settings) -> None:
    """Raise ConfigurationError with a remedy, or leave a writable folder with the newest schema and a lexicon."""
    check_mode(settings)
    if settings.webhook_hosts:
        signing_pepper(settings)
    check_writable(settings.data_dir)
    check_port(settings.api_host, settings.api_port)
    migrate_database(settings)
    build_missing_lexicon(settings)


def check_mode(settings: Settings) -> None:
    if settings.mode != "standalone" or settings.redis_url is not None:
        raise ConfigurationError(
            "`synthclone up` runs the standalone mode; unset SYNTHCLONE_MODE and SYNTHCLONE_REDIS_URL, "
            "or start the services of a cluster with Docker Compose or Kubernetes"
        )


def check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # An empty file can be made on a full disk; only bytes that reached the disk prove that there is room.
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "its parent must be a folder that can be written to")
        raise ConfigurationError(
            f"cannot write to the data folder {folder} ({error.strerror}): {remedy}, or choose another with --data DIR"
        ) from error


def check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} on {host} cannot be used ({error.strerror}); "
                "stop what listens there, or choose another with --port N"
            ) from error


def migrate_database(settings: Settings) -> None:
    try:
        migrate(settings)
    except DatabaseError as error:
        raise ConfigurationError(
            f"the database {make_url(settings.sqlalchemy_url)!r} cannot be used ({error.orig}); "
            "restore it, or choose another folder with --data DIR"
        ) from error


def build_missing_lexicon(settings: Settings) -> None:
    if settings.lexicon_path.exists():
        return
    # Only building needs NLTK, which takes longer to load than everything else here.
    from shared.wordnet import fetch_wordnet

    logger.info("building the lexicon, once", extra={"path": str(settings.lexicon_path)})
    build_lexicon(fetch_wordnet(settings.lexicon_path.parent / "wordnet"), settings.lexicon_path)
