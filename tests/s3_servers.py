"""Real S3 servers on this machine: moto for speed, Ceph's radosgw (Debian packages) for truth."""

import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from shared.settings import Settings
from tests.addresses import free_port

ACCESS_KEY, SECRET_KEY = "synthclonetest", "synthclonetestsecret"
CEPH_PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph")


def wait_for(address: str, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"http://{address}/", timeout=2).close()
            return
        except urllib.error.HTTPError:
            return  # it answers, if only to refuse
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@contextmanager
def moto() -> Iterator[str]:
    """host:port of a moto server. It accepts any secret."""
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", port]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(address)
        yield address
    finally:
        server.terminate()
        server.wait(10)


def has_radosgw() -> bool:
    return all(shutil.which(program) for program in CEPH_PROGRAMS)


def ceph_config(folder: Path, monitor: str, gateway: str) -> str:
    """One monitor, one OSD on files, one gateway, no authentication between them: all on loopback."""
    return f"""
[global]
fsid = {uuid4()}
mon host = v1:{monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms bind msgr2 = false
mon allow pool size one = true
mon max pg per osd = 2000
mon data avail crit = 1
mon data = {folder}/mon
osd data = {folder}/osd
osd journal = {folder}/osd/journal
osd journal size = 256
osd objectstore = filestore
osd max object name len = 256
osd max object namespace len = 64
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/run/$name.log
[client.rgw]
rgw frontends = beast endpoint={gateway}
"""


@contextmanager
def radosgw(folder: Path) -> Iterator[str]:
    """host:port of a Ceph object gateway with a fresh store in `folder`."""
    monitor, gateway = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    for name in ("mon", "osd", "run"):
        (folder / name).mkdir(parents=True)
    config = folder / "ceph.conf"
    config.write_text(ceph_config(folder, monitor, gateway))
    fsid = next(line.split()[-1] for line in config.read_text().splitlines() if line.startswith("fsid"))
    daemons: list[subprocess.Popen[bytes]] = []

    def run(*command: str) -> str:
        program, *rest = command
        call = [program, "-c", str(config), *rest]
        return subprocess.run(call, check=True, capture_output=True, text=True, timeout=120).stdout

    def ask(*command: str) -> str:
        """A new monitor refuses some commands at first; these may be given again."""
        for _ in range(20):
            try:
                return run("ceph", *command)
            except subprocess.CalledProcessError as error:
                refusal = error
                time.sleep(0.5)
        raise RuntimeError(f"ceph {' '.join(command)}: {refusal.stderr}") from refusal

    def start(*command: str) -> None:
        program, *rest = command
        log = (folder / "run" / f"{program}.out").open("wb")
        daemons.append(subprocess.Popen([program, "-c", str(config), *rest, "-f"], stdout=log, stderr=log))

    monitor_map = str(folder / "monmap")
    create = ["monmaptool", "--create", "--addv", "a", f"[v1:{monitor}]", "--fsid", fsid, monitor_map]
    try:
        subprocess.run(create, check=True, capture_output=True)
        run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monitor_map)
        start("ceph-mon", "-i", "a")
        run("ceph", "osd", "create")
        run("ceph-osd", "-i", "0", "--mkfs")
        ask("osd", "crush", "add", "osd.0", "1.0", "root=default", "host=local")
        # An OSD that asks before it has the monitor's map dies with "wrong fsid"; the next start finds it.
        for _ in range(60):
            if daemons[-1].poll() is not None or len(daemons) == 1:
                start("ceph-osd", "-i", "0")
            if "1 up" in ask("osd", "stat"):
                break
            time.sleep(0.5)
        keys = (f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        run("radosgw-admin", "user", "create", "--uid=test", "--display-name=test", *keys)
        start("radosgw", "-n", "client.rgw")
        wait_for(gateway, seconds=120)
        yield gateway
    finally:
        for daemon in reversed(daemons):
            daemon.kill()
            daemon.wait(10)


def s3_settings(address: str, **more: object) -> Settings:
    return Settings.model_validate(
        {
            "s3_endpoint": address,
            "s3_secure": False,
            "s3_access_key": ACCESS_KEY,
            "s3_secret_key": SECRET_KEY,
            "s3_bucket": f"test-{uuid4().hex[:12]}",
            **more,
        }
    )
