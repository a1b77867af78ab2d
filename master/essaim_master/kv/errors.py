"""What the key-value store refuses.

EssaimError
├── NoSpace        507  the quota is used up: delete, then write
├── LeaseNotFound  404  it expired, was revoked, or never was
├── LeaseExists    409  the id is taken
├── TooManyLeases  503
├── Compacted      410  the revision's history is gone: read anew, go on from there
├── Lagged         410  a watch that fell behind, with the revision to go on from
└── FutureRevision 400  the revision has not come yet
"""

from essaim_master.kv.commands import Refusal, TransactionResult
from essaim_shared.errors import (
    Conflict,
    EssaimError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)


class NoSpace(EssaimError):
    http_status = 507


class LeaseNotFound(NotFound):
    pass


class LeaseExists(Conflict):
    pass


class TooManyLeases(Unavailable):
    pass


class FutureRevision(InvalidRequest):
    pass


class Compacted(EssaimError):
    http_status = 410

    def __init__(self, oldest: int) -> None:
        super().__init__(
            f"the history before revision {oldest} is compacted: "
            "read the keys anew and go on from the revision of that answer"
        )
        self.oldest = oldest
        """The first revision whose events are still there (or will be, when it comes)."""


class Lagged(EssaimError):
    http_status = 410

    def __init__(self, resume: int) -> None:
        super().__init__(
            f"the watch fell too far behind and was ended: go on from revision {resume}, "
            "and read faster"
        )
        self.resume = resume
        """The first revision that was not delivered."""


def check_executed(result: TransactionResult) -> None:
    """Raises one of these errors, or OutcomeUnknown, if the transaction was refused."""
    match result.refusal:
        case Refusal.NONE:
            return
        case Refusal.NO_SPACE:
            raise NoSpace("the key-value store is full: delete keys, then write again")
        case Refusal.LEASE_NOT_FOUND:
            raise LeaseNotFound("no such lease: it expired or was revoked; grant another")
        case Refusal.LEASE_EXISTS:
            raise LeaseExists("the lease id is taken: choose another, or let the master choose")
        case Refusal.TOO_MANY_LEASES:
            raise TooManyLeases("there are too many leases: revoke some, or let them expire")
        case Refusal.COMPACTED:
            raise InvalidRequest("that revision is compacted already: there is nothing to do")
        case Refusal.FUTURE_REVISION:
            raise FutureRevision("that revision has not come yet: name one that exists")
        case Refusal.FORGOTTEN | Refusal.NO_SESSION:
            raise OutcomeUnknown(
                "the write was repeated so late that its answer is forgotten; it may or may not "
                "have happened: look before you repeat it"
            )
