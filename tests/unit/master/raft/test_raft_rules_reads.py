"""The rules on reads (rules 15 and 16), one test or more for each.

The rules are listed in the handbook, `essaim_master/raft/__init__.py`.
"""

from essaim_master.raft.messages import Message, MessageType


def test_rule_15_no_read_before_an_entry_of_the_own_term_is_committed(leader, raft):
    leading = leader(log=(1, 1))
    leading.read_index(7)
    raft.work(leading)
    for other in "bc":
        leading.step(Message(MessageType.HEARTBEAT_RESPONSE, other, "a", 2, round=0))
    assert raft.work(leading).reads == ()
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 2, index=3))
    raft.work(leading)
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", 2, round=1))
    (read,) = raft.work(leading).reads
    assert (read.context, read.index) == (7, 3)


def test_rule_15_an_old_echo_does_not_confirm_a_later_read(leader, raft):
    """etcd issue 20418."""
    leading = leader()
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    raft.work(leading)
    leading.read_index(1)
    raft.work(leading)
    leading.read_index(2)
    raft.work(leading)
    for _ in range(3):
        leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", 1, round=1))
        leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "c", "a", 1, round=1))
    assert [read.context for read in raft.work(leading).reads] == [1]
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "c", "a", 1, round=2))
    assert [read.context for read in raft.work(leading).reads] == [2]


def test_rule_15_a_read_is_never_confirmed_by_a_round_that_ran_before_it(leader, raft):
    leading = leader()
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    raft.work(leading)
    leading.read_index(1)
    raft.work(leading)
    leading.read_index(2)  # Round 1 is under way already.
    leading.step(Message(MessageType.HEARTBEAT_RESPONSE, "b", "a", 1, round=1))
    assert [read.context for read in raft.work(leading).reads] == [1]


def test_rule_15_reads_of_one_turn_share_one_round(cluster):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    three.delivered.clear()
    for context in range(100):
        leading.read_index(context)
    three.settle()
    beats = [m for m in three.delivered if m.type is MessageType.HEARTBEAT_REQUEST]
    assert len(beats) == 2
    served = [read for _, ready in three.readies for read in ready.reads]
    assert [read.context for read in served] == list(range(100))


def test_rule_15_a_read_that_cannot_be_confirmed_is_refused(cluster):
    three = cluster("a", "b", "c")
    leading = three.elect("a")
    three.cut = {"b", "c"}
    leading.read_index(5)
    three.cores["b"].read_index(6)
    three.tick(14)
    refused = {(name, c) for name, ready in three.readies for c in ready.reads_refused}
    assert refused == {("a", 5), ("b", 6)}


def test_rule_16_a_read_always_asks_a_quorum(leader, raft):
    """There is no clock in it: without an answer of others nothing is served, ever."""
    leading = leader()
    raft.work(leading)
    leading.step(Message(MessageType.APPEND_RESPONSE, "b", "a", 1, index=1))
    raft.work(leading)
    leading.read_index(1)
    for _ in range(5):
        assert raft.work(leading).reads == ()
