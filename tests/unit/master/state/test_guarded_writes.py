"""Guards: each stands in the one transaction that changes its key."""

from essaim_master.kv.commands import CompareRevision
from essaim_master.state.keys import ingress_port_key
from essaim_master.state.writes import Writes
from essaim_shared.ids import NetworkId, NodeId, ServiceId
from essaim_shared.limits import TRANSACTION_OPERATIONS_MAX
from essaim_shared.objects import Gateway, IngressPort


def with_gateways(writes, count):
    for number in range(count):
        network_id, node_id = NetworkId("net"), NodeId(f"n{number}")
        writes.put(Gateway(network_id=network_id, node_id=node_id, address="10.0.0.1"))
    return writes


def claim(writes, number, revision):
    key = ingress_port_key("tcp", number)
    writes.guard(key, revision)
    writes.put(IngressPort(protocol="tcp", number=number, service_id=ServiceId("s")))
    return CompareRevision(key, revision)


def test_the_other_transactions_do_not_depend_on_it():
    writes = with_gateways(Writes(), TRANSACTION_OPERATIONS_MAX)
    guard = claim(writes, 8080, 5)
    first, second = writes.transactions()
    assert first.compares == ()
    assert second.compares == (guard,)


def test_a_guard_of_a_key_that_is_not_changed_stands_nowhere():
    writes = with_gateways(Writes(), 1)
    writes.guard(ingress_port_key("tcp", 8080), 5)
    (only,) = writes.transactions()
    assert only.compares == ()


def test_what_all_parts_expect_stands_in_all_of_them():
    writes = with_gateways(Writes(), TRANSACTION_OPERATIONS_MAX)
    guard = claim(writes, 8080, 5)
    writes.expect(b"/cluster/leader", 7)
    epoch = CompareRevision(b"/cluster/leader", 7)
    first, second = writes.transactions()
    assert first.compares == (epoch,)
    assert second.compares == (epoch, guard)


def test_a_deletion_is_guarded_as_well():
    writes = Writes()
    guard = claim(writes, 8080, 5)
    writes.delete_ingress_port("tcp", 8080)
    (only,) = writes.transactions()
    assert only.compares == (guard,)
