"""The client of the API."""

import os
from datetime import date
from types import TracebackType
from typing import Self

from .connection import Connection
from .models import ClassList, ClassLists, Usage
from .resources import Datasets, Evaluations, Experiments, Jobs, Probes, Prompts, RealImages, Trainings

DEFAULT_URL = "http://127.0.0.1:8000"


class Client:
    """`api_url` and `api_token` default to SYNTHCLONE_API_URL (then the local server) and SYNTHCLONE_API_TOKEN."""

    def __init__(self, api_url: str | None = None, api_token: str | None = None) -> None:
        url = api_url or os.environ.get("SYNTHCLONE_API_URL") or DEFAULT_URL
        self.connection = Connection(url, api_token or os.environ.get("SYNTHCLONE_API_TOKEN"))
        self.datasets = Datasets(self.connection)
        self.trainings = Trainings(self.connection)
        self.evaluations = Evaluations(self.connection)
        self.experiments = Experiments(self.connection)
        self.probes = Probes(self.connection)
        self.jobs = Jobs(self.connection)
        self.prompts = Prompts(self.connection)
        self.testsets = RealImages(self.connection)

    def class_lists(self) -> list[ClassList]:
        return self.connection.get("/class-lists", ClassLists).root

    def usage(self, *, since: date | None = None, until: date | None = None) -> Usage:
        """Of the team's jobs created from `since` up to and with `until`; by default this month's."""
        days = {name: day.isoformat() for name, day in (("since", since), ("until", until)) if day is not None}
        return self.connection.get("/usage", Usage, query=days)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.http.close()
