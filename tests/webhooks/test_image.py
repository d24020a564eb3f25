"""The sender's image holds what it needs and little more."""

import json
import subprocess
import sys


def test_the_sender_loads_neither_broker_nor_object_store_nor_torch() -> None:
    code = "import json, sys, services.webhooks.__main__; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {"celery", "kombu", "redis", "minio", "fastapi", "torch"} & set(json.loads(loaded)) == set()
