"""Who acts, in whose name the code that runs now reads and writes.

Each request runs in a task of its own, and a context variable holds its `Acting` from the moment it
was let in: so whatever writes to the state on its way, however deep, is checked and recorded, and
no handler can forget to hand it on (record 0042). Control loops have none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

from essaim_master.http.caller import Caller


class Acting(msgspec.Struct, frozen=True):
    caller: Caller
    action: str = ""
    """In the audit log's words; empty: changes are not recorded."""


_acting: ContextVar[Acting | None] = ContextVar("acting", default=None)


def acting() -> Acting | None:
    return _acting.get()


@contextmanager
def act_as(one: Acting) -> Iterator[None]:
    token = _acting.set(one)
    try:
        yield
    finally:
        _acting.reset(token)
