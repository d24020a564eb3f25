"""`python -m tests.webhooks.loopback_sender`: the real sender, allowed to talk to this machine."""

from services.webhooks.__main__ import serve
from services.webhooks.post import Door
from shared.entry import run
from shared.settings import Settings


def main(settings: Settings) -> None:
    serve(settings, Door(settings.webhook_hosts, is_allowed=lambda address: address.is_loopback))


if __name__ == "__main__":
    run(main)
