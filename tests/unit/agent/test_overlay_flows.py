"""Which flows lead astray, and the bytes in which the kernel tells of them."""

from typing import Any

import pytest

from essaim_agent.overlay import flows as fl
from essaim_agent.overlay.balance import Change, Lead
from essaim_agent.overlay.flows import Flow, Suspicion, astray, suspicion, to_nowhere

VIP, WEB, API = "10.245.0.1", "10.244.0.11", "10.244.0.12"
HTTP = ("tcp", 8080)


def lead(serving: set[str], draining: set[str] = frozenset()) -> Lead:  # type: ignore[assignment]
    return Lead(
        service="web",
        shares=tuple((address, 1) for address in sorted(serving)),
        serving=frozenset(serving),
        alive=frozenset(serving | draining),
    )


def flow(**fields: Any) -> Flow:
    common = {
        "protocol": fl.TCP,
        "called": VIP,
        "called_port": 80,
        "server": WEB,
        "status": fl.IPS_DST_NAT | fl.IPS_SEEN_REPLY,
        "tcp_state": fl.TCP_ESTABLISHED,
        "original": b"",
        "id": b"",
    }
    return Flow(**(common | fields))


UDP = {"protocol": fl.UDP, "tcp_state": 0}
TIME_WAIT = 7


@pytest.mark.parametrize(
    ("now", "fields", "is_astray"),
    [
        pytest.param(lead({WEB}), {}, False, id="who serves keeps its connections"),
        pytest.param(lead({WEB}), UDP, False, id="and its datagrams"),
        pytest.param(lead({API}, {WEB}), {}, False, id="who drains keeps its connections"),
        pytest.param(lead({API}, {WEB}), UDP, True, id="but not clients that never pause"),
        pytest.param(lead({API}), {}, True, id="connections to the dead end"),
        pytest.param(lead({API}), {"tcp_state": 1}, True, id="those that are only tried too"),
        pytest.param(lead({API}), {"tcp_state": TIME_WAIT}, False, id="what ends by itself may"),
        pytest.param(lead({API}), UDP, True, id="datagrams to the dead end"),
        pytest.param(None, UDP, True, id="of a service that is no more all do"),
        pytest.param(lead({API}), {"called": "10.9.9.9"}, False, id="strangers are let alone"),
        pytest.param(lead({API}), {"status": 0}, False, id="and what we did not translate"),
    ],
)
def test_flows_that_lead_astray(now: Lead | None, fields: Any, is_astray: bool) -> None:
    suspected = Suspicion(vips={VIP: now})
    assert list(astray([flow(**fields)], suspected)) == ([flow(**fields)] if is_astray else [])


def test_a_published_port_is_known_by_its_number_whatever_address_was_called() -> None:
    suspected = Suspicion(ports={HTTP: lead({API})})
    led = flow(called="192.0.2.1", called_port=8080)
    other = flow(called="192.0.2.1", called_port=8081)
    assert list(astray([led, other], suspected)) == [led]
    assert list(astray([flow(called="192.0.2.1", called_port=8080, **UDP)], suspected)) == []


def test_clients_that_called_when_nobody_was_there_are_looked_at_anew() -> None:
    suspected = Suspicion(opened_ports=frozenset([("udp", 53)]), opened_vips=frozenset([VIP]))
    waiting = flow(called="192.0.2.1", called_port=53, server="192.0.2.1", **{**UDP, "status": 0})
    answered = flow(called="192.0.2.1", called_port=53, **{**UDP, "status": fl.IPS_SEEN_REPLY})
    to_vip = flow(server=VIP, **{**UDP, "status": 0})
    assert list(to_nowhere([waiting, answered, to_vip], suspected)) == [waiting, to_vip]


NOBODY = lead(set())


@pytest.mark.parametrize(
    ("old", "new", "is_lost", "is_opened"),
    [
        pytest.param(None, lead({WEB}), False, True, id="a service that comes"),
        pytest.param(NOBODY, lead({WEB}), False, True, id="the first task"),
        pytest.param(lead({WEB}), lead({WEB, API}), False, False, id="one more"),
        pytest.param(lead({WEB, API}), lead({WEB}), True, False, id="one less"),
        pytest.param(lead({WEB, API}), lead({WEB}, {API}), True, False, id="one that drains"),
        pytest.param(lead({WEB}, {API}), lead({WEB}), True, False, id="one that has drained"),
        pytest.param(lead({WEB}), None, True, False, id="a service that goes"),
    ],
)
def test_flows_are_looked_for_only_when_a_change_can_have_left_some(
    old: Lead | None, new: Lead | None, is_lost: bool, is_opened: bool
) -> None:
    suspected = suspicion(Change(vips={VIP: (old, new)}))
    assert (suspected.has_lost, suspected.has_opened) == (is_lost, is_opened)
    assert bool(suspected) == (is_lost or is_opened)


RECORDED = bytes.fromhex(
    "020000003400018014000180080001000af40014080002000af500011c0002800500010011000000"
    "06000200d431000006000300003500003400028014000180080001000af4000b080002000af40014"
    "1c0002800500010011000000060002000035000006000300d431000008000300000001aa08000800"
    "0000000008000c0008141d4708000b0000000001080007000000001d"
)
"""A datagram's flow as kernel 6.18 dumped it: from 10.244.0.20:54321 to the service's address,
translated to the task, answered."""
ENDING = bytes.fromhex(
    "020000003400018014000180080001000af40014080002000af500011c0002800500010006000000"
    "06000200d432000006000300005000003400028014000180080001000af4000b080002000af40014"
    "1c0002800500010006000000060002001f90000006000300d432000008000300000001ae08000800"
    "0000000008000c0064bfa8ad08000b0000000001080007000000003b300004802c00018005000100"
    "05000000050002000a000000050003000a00000006000400230000000600050027000000"
)
"""And a connection whose server has closed its side."""


def test_a_flow_is_read_from_the_kernel_s_bytes() -> None:
    read = fl.read_flow(RECORDED)
    assert read is not None
    assert (read.protocol, read.called, read.called_port) == (fl.UDP, VIP, 53)
    assert (read.server, read.status, read.id.hex()) == (WEB, 0x1AA, "08141d47")
    assert fl.leads_to(RECORDED, fl.packed([WEB]))
    assert not fl.leads_to(RECORDED, fl.packed([API]))


def test_a_connection_is_read_with_its_state() -> None:
    read = fl.read_flow(ENDING)
    assert read is not None
    assert (read.protocol, read.called_port, read.tcp_state) == (fl.TCP, 80, 5)
    assert not fl.is_open(read)


def test_a_flow_is_deleted_by_the_tuple_and_the_id_that_the_kernel_gave() -> None:
    read = fl.read_flow(RECORDED)
    assert read is not None
    request = fl.delete_flow(read)
    assert RECORDED[4:56] in request
    assert bytes.fromhex("08000c0008141d47") in request


@pytest.mark.parametrize("cut", [0, 3, 40, 107])
def test_other_kinds_of_flows_are_passed_over(cut: int) -> None:
    assert fl.read_flow(RECORDED[:cut]) is None
    assert fl.read_flow(b"\x0a" + RECORDED[1:]) is None, "IPv6"


def test_connections_sent_on_outlive_their_port_for_tasks_elsewhere_may_drain() -> None:
    there = "10.97.0.2"
    alive = frozenset({there, WEB})
    old = Lead("web", ((there, 1),), alive, alive, elsewhere=frozenset({there}), is_sent_on=True)
    suspected = suspicion(Change(ports={HTTP: (old, None), ("udp", 8080): (old, None)}))
    led = {"called": "192.0.2.1", "called_port": 8080, "server": there}
    assert list(astray([flow(**led)], suspected)) == []
    assert list(astray([flow(**(led | {"server": WEB}))], suspected)) != []
    assert list(astray([flow(**led, **UDP)], suspected)) == [flow(**led, **UDP)]
