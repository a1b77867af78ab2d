"""Errors that only the HTTP edge raises.

InvalidRequest              400
├── BodyTooLarge            413
├── NotPermitted            403  what is predefined
├── ImmutableName           501  Docker answers a rename so
└── ImmutableMode           501
EssaimError
├── NotAuthenticated        401  who asks did not prove it
├── NotAllowed              403  who asks may not
└── LeaderRefused           as the leader answered
"""

from essaim_shared.errors import EssaimError, InvalidRequest


class BodyTooLarge(InvalidRequest):
    http_status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"request body is larger than the limit of {limit_bytes} bytes")


class NotPermitted(InvalidRequest):
    """Of predefined networks: they are neither made nor removed by users."""

    http_status = 403


class LeaderRefused(EssaimError):
    """What the leader said to the part of a request that only it can carry out."""

    def __init__(self, message: str, http_status: int) -> None:
        super().__init__(message)
        self.http_status = http_status


class ImmutableName(InvalidRequest):
    http_status = 501

    def __init__(self) -> None:
        super().__init__(
            "rpc error: code = Unimplemented desc = renaming services is not supported"
        )


class ImmutableMode(InvalidRequest):
    """Replicated, global, the two jobs and the job with a schedule never become one another."""

    http_status = 501

    def __init__(self) -> None:
        super().__init__(
            "rpc error: code = Unimplemented desc = service mode change is not allowed"
        )


class NotAuthenticated(EssaimError):
    """What was shown proves nothing, or nothing was shown where something must be."""

    http_status = 401


class NotAllowed(EssaimError):
    """It is known who asks, and he may not."""

    http_status = 403
