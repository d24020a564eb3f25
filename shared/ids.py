"""Row ids: a prefix that tells the kind, then a ULID (time-sortable, so keyset pages follow creation order)."""

from ulid import ULID

PREFIXES = {"dataset": "ds", "training": "tr", "evaluation": "ev", "experiment": "ex", "probe": "pr"}


def new_id(prefix: str) -> str:
    return f"{prefix}-{str(ULID()).lower()}"


def job_id(kind: str) -> str:
    return new_id(PREFIXES[kind])
