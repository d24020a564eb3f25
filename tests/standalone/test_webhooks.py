"""`synthclone up` sends webhooks only where they may go somewhere."""

import os
import subprocess
import sys
from pathlib import Path

from services.standalone.roster import make_roster
from shared.settings import Settings


def test_the_sender_is_started_only_with_allowed_hosts() -> None:
    started = [
        {service.module for service in make_roster(settings, {}, gpus=0)}
        for settings in (Settings(), Settings(webhook_hosts=("hooks.example.org",)))
    ]
    assert started[1] - started[0] == {"services.webhooks"}


def test_webhooks_without_a_secret_to_sign_with_exit_with_78(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "client.main", "up", "--data", str(tmp_path)]
    environment = os.environ | {"SYNTHCLONE_WEBHOOK_HOSTS": '["hooks.example.org"]'}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert done.returncode == 78
    assert "SYNTHCLONE_KEY_PEPPER" in done.stderr
