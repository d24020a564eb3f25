"""Python client: `with Client() as client: client.datasets.create(classes="in100", prompt="description", scale=2)`."""

from .errors import ApiRefused, JobFailed, ServiceUnreachable, WaitTimeout
from .session import Client

__all__ = ["ApiRefused", "Client", "JobFailed", "ServiceUnreachable", "WaitTimeout"]
