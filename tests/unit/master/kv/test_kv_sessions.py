"""Sessions of users' clients: opened through the log, applied once each, forgotten in its order."""

from essaim_master.kv.answers import (
    LARGE_BYTES_PER_SESSION_MAX,
    OPENING_CLIENT,
    RESULTS_PER_SESSION_MAX,
    SESSIONS_MAX,
    session_client,
)
from essaim_master.kv.commands import (
    Command,
    Get,
    ProposalId,
    Put,
    Refusal,
    Transaction,
    TransactionResult,
    encode_command,
)
from essaim_master.kv.store import KeyValueStore


class Log:
    """Feeds one store, entry by entry."""

    def __init__(self) -> None:
        self.store = KeyValueStore()
        self.index = 0

    def propose(self, client: str, sequence: int, *then) -> TransactionResult:
        self.index += 1
        command = Command(ProposalId(client, sequence), 0, Transaction((), tuple(then)))
        return self.store.apply(self.index, 1, encode_command(command)).result

    def open(self, sequence: int = 77) -> int:
        return self.propose(OPENING_CLIENT, sequence).session

    def put(self, session: int, sequence: int, value: bytes = b"") -> TransactionResult:
        return self.propose(session_client(session), sequence, Put(b"/kv/a", value))


def test_a_session_has_the_index_of_the_entry_that_opened_it_so_no_two_have_the_same():
    log = Log()
    first, copy = log.open(sequence=5), log.open(sequence=5)
    assert (first, copy) == (1, 2)


def test_within_a_session_a_proposal_is_applied_once_and_answered_the_same_each_time():
    log = Log()
    session = log.open()
    answer = log.put(session, 1, b"once")
    log.put(session, 2, b"later")
    assert log.put(session, 1, b"once") == answer
    assert log.store.revision == 2
    assert log.store.get(b"/kv/a").value == b"later"


def test_a_session_that_nobody_opened_is_refused_and_nothing_is_written():
    log = Log()
    assert log.put(41, 1).refusal is Refusal.NO_SESSION
    assert log.store.revision == 0


def test_the_session_that_wrote_longest_ago_is_forgotten_and_stays_so():
    log = Log()
    first, second = log.open(), log.open()
    log.put(first, 1)
    for _ in range(SESSIONS_MAX - 1):
        log.open()
    assert log.put(second, 1).refusal is Refusal.NO_SESSION
    assert log.put(first, 1).refusal is Refusal.NONE
    assert log.put(second, 2).refusal is Refusal.NO_SESSION
    assert log.store.revision == 1


def test_the_very_session_that_wrote_last_can_be_forgotten_too():
    log = Log()
    session = log.open()
    log.put(session, 1)
    for _ in range(SESSIONS_MAX):
        log.open()
    assert log.put(session, 1).refusal is Refusal.NO_SESSION


def test_sessions_do_not_push_out_what_is_known_of_the_masters():
    log = Log()
    answer = log.propose("master", 1, Put(b"/kv/b", b""))
    for _ in range(SESSIONS_MAX + 1):
        log.put(log.open(), 1)
    assert log.propose("master", 1, Put(b"/kv/b", b"")) == answer


def test_answers_of_a_session_are_bounded_and_a_copy_of_a_forgotten_one_is_not_applied():
    log = Log()
    session = log.open()
    for sequence in range(1, RESULTS_PER_SESSION_MAX + 2):
        log.put(session, sequence)
    assert log.put(session, 2).refusal is Refusal.NONE
    assert log.put(session, 1).refusal is Refusal.FORGOTTEN
    assert log.store.revision == RESULTS_PER_SESSION_MAX + 1


def test_large_answers_of_a_session_lose_their_content_but_are_not_applied_again():
    log = Log()
    session = log.open()
    log.put(session, 1, bytes(LARGE_BYTES_PER_SESSION_MAX + 1))
    operations = (Get(b"/kv/a"), Put(b"/kv/b", b""))
    assert log.propose(session_client(session), 2, *operations).values[0] is not None
    again = log.propose(session_client(session), 2, *operations)
    assert again.refusal is Refusal.FORGOTTEN
    assert log.store.revision == 2


def test_a_snapshot_holds_the_sessions():
    log = Log()
    first, second = log.open(), log.open()
    log.put(second, 1)
    answer = log.put(first, 9)
    restored = Log()
    restored.index = log.index
    restored.store.restore(log.store.freeze().chunks())
    assert restored.store.freeze().state_hash() == log.store.freeze().state_hash()
    assert restored.put(first, 9) == answer
    for _ in range(SESSIONS_MAX - 1):
        log.open()
        restored.open()
    assert restored.put(second, 1).refusal is log.put(second, 1).refusal is Refusal.NO_SESSION
