"""The errors a caller acts on.

    EssaimError
    ├── InvalidRequest      400  the words are wrong; asking again changes nothing
    │   ├── AmbiguousName   400  a prefix that fits several objects
    │   └── TemplateError   400  a `{{…}}` of a spec that cannot be expanded
    ├── NotFound            404  no such object
    ├── Conflict            409  the name is taken, or the object is in use
    ├── VersionConflict     500  "update out of sequence": read again, then write
    ├── NotSupported        501  Essaim refuses it, and says why
    ├── Unavailable         503  nobody can answer now; the same request may succeed later
    │   ├── NoLeader        503  no quorum of masters, or an election is under way
    │   └── OutcomeUnknown  503  the write may or may not have happened
    ├── MalformedMessage         bytes from the bus or a peer that are not what they should be
    └── ConfigError              a process cannot start with what it was given

Anything else that is raised is a broken assumption and stops the process. Status codes are
those of Docker's Engine API, since the HTTP API is Docker's own.
"""


class EssaimError(Exception):
    """Base of every error that has a meaning for its caller. `str()` is one line for a user."""

    http_status = 500


class InvalidRequest(EssaimError):
    http_status = 400


class AmbiguousName(InvalidRequest):
    pass


class TemplateError(InvalidRequest):
    pass


class NotFound(EssaimError):
    http_status = 404


class Conflict(EssaimError):
    http_status = 409


class VersionConflict(EssaimError):
    """Docker answers 500 with this very sentence, and its clients match it."""

    http_status = 500

    def __init__(self) -> None:
        super().__init__("rpc error: code = Unknown desc = update out of sequence")


class NotSupported(EssaimError):
    http_status = 501


class Unavailable(EssaimError):
    http_status = 503


class NoLeader(Unavailable):
    pass


class OutcomeUnknown(Unavailable):
    pass


class MalformedMessage(EssaimError):
    pass


class ConfigError(EssaimError):
    pass


class BrokenInvariant(AssertionError):
    """An assumption of ours that does not hold. Never caught: the process stops with numbers."""
