"""The answers to recent proposals: why a repeated one is not applied again.

A proposal travels as often as it must; any copy may be the first to be committed, and every later
one gets the first one's answer (dissertation 6.3). What is kept is bounded by counts and bytes,
and forgotten in an order that the log alone decides. A proposal that may be a copy of a forgotten
one is refused: not knowing is no reason to apply it twice.

Masters are few and known. Users' clients are neither, so each opens a *session*, named by the index
of the log entry that opened it: no name is ever given twice, and a name without a record is that of
a forgotten session, not of a new client.
"""

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from essaim_master.kv.commands import RangeResult, Refusal, TransactionResult
from essaim_shared.limits import KV_IN_FLIGHT_MAX

RESULTS_PER_CLIENT_MAX = 16_384
"""More than a master may have outstanding at once."""
CLIENTS_MAX = 64
"""A client is one run of one master; the one that wrote longest ago is forgotten first."""
LARGE_BYTES_PER_CLIENT_MAX = 1024 * 1024
"""Of keys and values in answers; the oldest are emptied first."""

OPENING_CLIENT = "~"
"""The client id of every proposal that opens a session; sequences are drawn at random. It is never
kept: a copy opens one more session, which nobody uses."""
SESSIONS_MAX = 512
"""The one that wrote longest ago is forgotten first."""
RESULTS_PER_SESSION_MAX = 2 * KV_IN_FLIGHT_MAX
"""Between two copies of one proposal there are at most so many others of the same session: its
numbers lie less than KV_IN_FLIGHT_MAX before or after."""
LARGE_BYTES_PER_SESSION_MAX = 64 * 1024


class KeptAnswer(msgspec.Struct, frozen=True, array_like=True):
    sequence: int
    result: TransactionResult


class ClientRecord(msgspec.Struct, frozen=True, array_like=True):
    """One client's answers, as a snapshot holds them."""

    client_id: str
    forgotten: int
    answers: tuple[KeptAnswer, ...]


class ClientAnswers:
    """The answers to one client, oldest first."""

    __slots__ = ("_large", "_large_bytes", "_large_bytes_max", "_results_max", "forgotten", "kept")

    def __init__(
        self,
        results_max: int = RESULTS_PER_CLIENT_MAX,
        large_bytes_max: int = LARGE_BYTES_PER_CLIENT_MAX,
    ) -> None:
        self._results_max = results_max
        self._large_bytes_max = large_bytes_max
        self.kept: OrderedDict[int, TransactionResult] = OrderedDict()
        self.forgotten = 0
        """The largest sequence that was dropped."""
        self._large: OrderedDict[int, int] = OrderedDict()
        """Bytes in each answer that carries any."""
        self._large_bytes = 0

    def add(self, sequence: int, result: TransactionResult) -> None:
        self.kept[sequence] = result
        if result.values or result.results:
            self._add_large(sequence, result)
        if len(self.kept) > self._results_max:
            dropped, _ = self.kept.popitem(last=False)
            self.forgotten = max(self.forgotten, dropped)
            if self._large:
                self._large_bytes -= self._large.pop(dropped, 0)

    def _add_large(self, sequence: int, result: TransactionResult) -> None:
        """Above the bound only the content goes: that it was applied is still known, so that
        neither a copy of it nor an overtaken earlier proposal is misjudged."""
        self._large[sequence] = size_bytes = carried_bytes(result)
        self._large_bytes += size_bytes
        while self._large_bytes > self._large_bytes_max:
            emptied, size_bytes = self._large.popitem(last=False)
            self._large_bytes -= size_bytes
            old = self.kept[emptied]
            self.kept[emptied] = TransactionResult(
                old.succeeded, old.revision, refusal=Refusal.FORGOTTEN
            )


class Answers:
    """By client, the one that wrote longest ago first."""

    def __init__(self, records: Iterable[ClientRecord] = ()) -> None:
        self._clients: OrderedDict[str, ClientAnswers] = OrderedDict()
        self._sessions: OrderedDict[str, ClientAnswers] = OrderedDict()
        self._latest: tuple[str, ClientAnswers] | None = None
        """The client at the end: most proposals come from the same one as the one before."""
        for record in records:
            is_session = record.client_id.startswith(OPENING_CLIENT)
            client = (self._open if is_session else self._known)(record.client_id)
            for answer in record.answers:
                client.add(answer.sequence, answer.result)
            client.forgotten = record.forgotten

    def of(self, client_id: str) -> ClientAnswers | None:
        """The answers to a client, which counts as one that wrote just now; None for a session
        that is forgotten."""
        if self._latest is not None and self._latest[0] == client_id:
            return self._latest[1]
        if not client_id.startswith(OPENING_CLIENT):
            client = self._known(client_id)
        else:
            session = self._sessions.get(client_id)
            if session is None:
                return None
            self._sessions.move_to_end(client_id)
            client = session
        self._latest = (client_id, client)
        return client

    def open_session(self, index: int) -> None:
        """Open the session that is named by this index of the log."""
        self._open(session_client(index))

    def _known(self, client_id: str) -> ClientAnswers:
        client = self._clients.get(client_id)
        if client is None:
            client = self._clients[client_id] = ClientAnswers()
            if len(self._clients) > CLIENTS_MAX:
                self._forget_first(self._clients)
        else:
            self._clients.move_to_end(client_id)
        return client

    def _open(self, client_id: str) -> ClientAnswers:
        session = ClientAnswers(RESULTS_PER_SESSION_MAX, LARGE_BYTES_PER_SESSION_MAX)
        self._sessions[client_id] = session
        if len(self._sessions) > SESSIONS_MAX:
            self._forget_first(self._sessions)
        return session

    def _forget_first(self, clients: OrderedDict[str, ClientAnswers]) -> None:
        forgotten, _ = clients.popitem(last=False)
        if self._latest is not None and self._latest[0] == forgotten:
            self._latest = None

    def freeze(self) -> list[tuple[str, int, list[tuple[int, TransactionResult]]]]:
        """What `records` needs, copied as fast as it can be."""
        return [
            (client_id, client.forgotten, list(client.kept.items()))
            for client_id, client in (*self._clients.items(), *self._sessions.items())
        ]


def session_client(session: int) -> str:
    """The client id of the session with this number."""
    return f"{OPENING_CLIENT}{session}"


def carried_bytes(result: TransactionResult) -> int:
    """Keys and values in an answer."""
    size = sum(len(value.key) + len(value.value) for value in result.values if value is not None)
    for part in result.results:
        found = part.found if isinstance(part, RangeResult) else part.before
        size += sum(len(value.key) + len(value.value) for value in found)
    return size
