"""Expected failures. Each class knows its HTTP status and its exit code; anything else that rises is a bug.

AppError
    Rejected            422  the request asks for something that cannot be done; nothing was changed
    Unauthorized        401  no key, or one that is unknown, expired or revoked
    NotFound            404  no such thing, or it belongs to another team
    Conflict            409  the thing exists but its state forbids this
    Unavailable         503  a part we depend on does not answer right now
    BeingRedrawn        503  the object was found damaged and is made again; ask later
    ConfigurationError  503  the operator must change something first (exit code 78)
    LostLease           409  another worker owns this work now; whatever we did must not count
    CorruptObject       409  bytes in the bucket differ from what was committed
"""


class AppError(Exception):
    """An expected failure: `detail` names the value at fault and what would be right."""

    status = 500
    code = "internal-error"
    title = "Internal error"
    exit_code = 1

    def __init__(self, detail: str, *, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class Rejected(AppError):
    status, code, title, exit_code = 422, "rejected", "The request cannot be carried out", 3


class Unauthorized(AppError):
    status, code, title, exit_code = 401, "unauthorized", "A valid API key is required", 3


class NotFound(AppError):
    status, code, title, exit_code = 404, "not-found", "Not found", 3


class Conflict(AppError):
    status, code, title, exit_code = 409, "conflict", "The current state forbids this", 3


class Unavailable(AppError):
    status, code, title, exit_code = 503, "unavailable", "A part of the service does not answer", 69


class BeingRedrawn(Unavailable):
    code, title = "being-redrawn", "A damaged object is being made again"


class ConfigurationError(AppError):
    status, code, title, exit_code = 503, "configuration", "The service is not set up for this", 78


class LostLease(AppError):
    status, code, title, exit_code = 409, "lost-lease", "Another worker holds this work now", 1


class CorruptObject(AppError):
    status, code, title, exit_code = 409, "corrupt-object", "A stored object differs from what was committed", 1
