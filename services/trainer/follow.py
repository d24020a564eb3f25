"""A node that claims nothing: `python -m services.trainer.follow` lends its GPUs whenever node 0 trains.

Node 0 opens the rendezvous for as long as a training runs; which one it is, its first rank tells all others. When any
node dies the attempt fails on all of them, node 0 takes the training up again at its checkpoint, and this one waits
for the rendezvous to open again.
"""

import logging
import socket
import subprocess
import sys
import threading

from shared.entry import run
from shared.settings import Settings
from shared.tasks import stop_on_signal

from .child import was_stopped

logger = logging.getLogger(__name__)
LOOK_SECONDS = 2.0


def follow(settings: Settings) -> None:
    """Until SIGTERM, on which the training that runs stops with a checkpoint of node 0's."""
    stop = stop_on_signal()
    host, port = settings.rendezvous_address
    logger.info("waits for node 0", extra={"host": host, "port": port, "node": settings.trainer_node_rank})
    while not stop.wait(LOOK_SECONDS):
        if is_open(host, port):
            join(stop)


def is_open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=LOOK_SECONDS).close()
    except OSError:
        return False
    return True


def join(stop: threading.Event) -> None:
    # A session of its own, as a training on one node has.
    child = subprocess.Popen([sys.executable, "-m", "services.trainer.launch"], start_new_session=True)
    is_stopped = was_stopped(child, [stop])
    logger.info("training left", extra={"exit_code": child.returncode, "stopped": is_stopped})


if __name__ == "__main__":
    run(follow)
