"""The dispatcher's slow chores, in a thread of their own: leases must expire on time however large the bucket is."""

import logging
import threading
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from shared.database import Database
from shared.errors import AppError
from shared.settings import Settings
from shared.storage import ObjectStore

from .chores import Chore
from .retention import expire_old
from .sweep import sweep
from .verify import verify

logger = logging.getLogger(__name__)
CARETAKER_LOCK = 0x5C10_0E03
END_SECONDS = 5.0


class Caretaker:
    """Runs until told to stop. Only one replica works at a time; nothing breaks should two do so for a moment."""

    def __init__(self, database: Database, store: ObjectStore, settings: Settings, stop: threading.Event) -> None:
        self._database, self._stop = database, stop
        self._pause_seconds = settings.tick_seconds
        self._chores = (
            Chore("verify", partial(verify, database, store), every_seconds=settings.tick_seconds),
            Chore("retention", partial(expire_old, database, settings), every_seconds=settings.sweep_seconds),
            Chore(
                "sweep",
                partial(sweep, database, store, stray_seconds=settings.stray_seconds),
                every_seconds=settings.sweep_seconds,
            ),
        )
        # A daemon, so that a store that does not answer cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def has_died(self) -> bool:
        return not (self._thread.is_alive() or self._stop.is_set())

    def end(self) -> None:
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                worked = self._round()
            except (SQLAlchemyError, AppError) as problem:
                logger.warning("caretaker waits", extra={"reason": str(problem)})
                worked = False
            if not worked:
                self._stop.wait(self._pause_seconds)

    def _round(self) -> bool:
        """One turn of each chore that is due; False when there was nothing to do here."""
        due = [chore for chore in self._chores if not chore.is_waiting]
        if not due:
            return False
        with self._database.leadership(CARETAKER_LOCK) as leading:
            for chore in due if leading else ():
                chore.work(self._stop)
        return leading
