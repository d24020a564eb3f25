"""`python -m services.standalone.child MODULE`: runs the module, and ends it when the supervisor is gone.

The supervisor holds the other end of stdin and never writes: end of file means that it died, even by SIGKILL.
"""

import os
import runpy
import signal
import sys
import threading
import time

GRACE_SECONDS = 15.0


def end_with_supervisor() -> None:
    # Not through sys.stdin: its lock, held by this thread, would abort the interpreter's shutdown.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    # Still here: something ignores SIGTERM, and nobody is left to kill it.
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_supervisor, name="supervisor-watch", daemon=True).start()
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
