"""How many requests a team makes, and how many wrong keys an address sends, before this process says 429."""

import hashlib
import time
from collections import OrderedDict
from ipaddress import ip_address, ip_network

from fastapi import Request
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from shared.errors import AppError
from shared.settings import Settings

WRONG_KEYS_PER_MINUTE = 60
MOST_PROVEN_KEYS = 10_000


class TooManyRequests(AppError):
    status, code, title, exit_code = 429, "too-many-requests", "Too many requests", 69

    def __init__(self, detail: str, *, retry_seconds: int) -> None:
        super().__init__(detail)
        self.retry_seconds = retry_seconds


class RateLimit:
    """Of one process, in memory. Where the server asks for no keys its one user is not limited."""

    def __init__(self, settings: Settings) -> None:
        self.is_off = settings.auth == "off"
        self.limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self.requests = RateLimitItemPerMinute(settings.requests_per_minute)
        self.wrong_keys = RateLimitItemPerMinute(WRONG_KEYS_PER_MINUTE)
        self.proven: OrderedDict[bytes, None] = OrderedDict()

    def refuse_guessing(self, request: Request) -> None:
        """Before a key is looked up; one that worked before passes, as its users may share the address of a guesser."""
        address = address_of(request)
        if self.is_off or fingerprint(request) in self.proven or self.limiter.test(self.wrong_keys, address):
            return
        raise TooManyRequests(
            f"{WRONG_KEYS_PER_MINUTE} requests from your address {address} carried a wrong API key within a minute; "
            "check the key, then wait",
            retry_seconds=self.seconds_left(self.wrong_keys, address),
        )

    def count_wrong_key(self, request: Request) -> None:
        if "authorization" not in request.headers:
            return  # nothing is looked up for it
        self.proven.pop(fingerprint(request), None)
        self.limiter.hit(self.wrong_keys, address_of(request))

    def count_request(self, request: Request, team: str) -> None:
        """Of a caller whose key was found to be valid."""
        if self.is_off:
            return
        self.proven[fingerprint(request)] = None
        if len(self.proven) > MOST_PROVEN_KEYS:
            self.proven.popitem(last=False)
        if not self.limiter.hit(self.requests, team):
            raise TooManyRequests(
                f"your team sent more than {self.requests.amount:,} requests within a minute; poll less often, "
                "or read /jobs/{id}/events",
                retry_seconds=self.seconds_left(self.requests, team),
            )

    def seconds_left(self, limit: RateLimitItem, key: str) -> int:
        return max(1, round(self.limiter.get_window_stats(limit, key).reset_time - time.time()))


def fingerprint(request: Request) -> bytes:
    return hashlib.sha256(request.headers.get("authorization", "").encode()).digest()


def address_of(request: Request) -> str:
    """Of IPv6 the network, because one customer has all of its addresses."""
    host = request.client.host if request.client else "unknown"
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ip_network((address, 64), strict=False))
