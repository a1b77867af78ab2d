"""A node that floods the bus loses its key at once, everywhere soon, until it is let in again."""

from essaim_master.bus_users.connections import Connection
from essaim_master.bus_users.floods import Flood
from essaim_master.bus_users.suspension import suspension_writes
from essaim_shared.trust.roles import Role

LOUD_PER_S = 50_000


class Client:
    """Sends all the time, as long as its server lets it."""

    def __init__(self, bench, key, per_s=LOUD_PER_S):
        self.bench, self.key, self.per_s = bench, key, per_s
        self.sent = 0

    async def run(self, seconds):
        for _ in range(round(seconds / 0.05)):
            if self.bench.server.knows(self.key):
                self.sent += round(self.per_s * 0.05)
            self.bench.server.clients = (Connection(1, self.sent, 0, self.key),)
            await self.bench.run(0.05)


async def started(bench, role=Role.AGENT):
    await bench.admit("m1", Role.MASTER)
    identity = await bench.admit("n1", role)
    bench.start()
    await bench.run(1)
    return identity


async def test_it_is_out_within_two_seconds_and_the_state_says_why(bench):
    node = await started(bench)
    client = Client(bench, node.bus_key)
    await client.run(2)
    assert not bench.server.knows(node.bus_key)
    suspended = bench.state.identity(Role.AGENT, "n1").suspended
    assert "it floods the bus" in suspended
    assert "where 2000" in suspended
    assert bench.guard.cut_count == 1


async def test_without_a_quorum_it_is_out_here_and_written_down_later(bench):
    node = await started(bench)
    bench.cluster.available = False
    client = Client(bench, node.bus_key)
    await client.run(2)
    assert not bench.server.knows(node.bus_key)
    assert bench.state.identity(Role.AGENT, "n1").suspended == ""
    await client.run(3)
    assert not bench.server.knows(node.bus_key), "it stays out"
    bench.cluster.available = True
    await client.run(1)
    assert bench.state.identity(Role.AGENT, "n1").suspended


async def test_an_operator_lets_it_in_again_and_it_is_judged_anew(bench):
    node = await started(bench)
    client = Client(bench, node.bus_key)
    await client.run(2)
    client.per_s = 10
    for transaction in suspension_writes(bench.state, "n1", "").transactions():
        await bench.cluster.commit(transaction, 1.0)
    await client.run(3)
    assert bench.server.knows(node.bus_key)
    client.per_s = LOUD_PER_S
    await client.run(2)
    assert not bench.server.knows(node.bus_key)
    assert bench.guard.cut_count == 2


async def test_a_master_that_stands_by_is_believed(bench):
    node = await started(bench)
    bench.guard.accuse(Flood(node.bus_key, 90_000, 0))
    await bench.run(1)
    assert not bench.server.knows(node.bus_key)
    assert bench.state.identity(Role.AGENT, "n1").suspended
    bench.guard.accuse(Flood("UNOBODY", 90_000, 0))
    await bench.run(1)
    assert bench.guard.cut_count == 1


async def test_a_master_is_never_shut_out(bench):
    master = await started(bench, Role.MASTER)
    await Client(bench, master.bus_key).run(5)
    assert bench.server.knows(master.bus_key)
    assert bench.state.identity(Role.MASTER, "n1").suspended == ""


async def test_of_two_masters_who_saw_it_the_first_reason_stays(bench):
    await started(bench)
    for reason in ("it floods the bus: first", "it floods the bus: second"):
        for transaction in suspension_writes(bench.state, "n1", reason).transactions():
            await bench.cluster.commit(transaction, 1.0)
    assert bench.state.identity(Role.AGENT, "n1").suspended == "it floods the bus: first"
    assert not suspension_writes(bench.state, "nobody", "it floods the bus")
