"""Questions about the world outside, and name servers that answer them in all manners."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import dnslib
import pytest
from support.dns_upstream import ADDRESS, Upstream, upstream

from essaim_agent.dns.forwarder import (
    LOOK_PERIOD_S,
    OUTSTANDING_MAX,
    OUTSTANDING_PER_SOURCE_MAX,
    Forwarder,
)
from essaim_agent.dns.resolv_conf import SERVERS_MAX, name_servers
from essaim_shared.clock import ManualClock

CLIENT = "10.1.0.50"
FIRST, SECOND = "127.0.0.1", "127.0.0.2"
TRY_S, WHOLE_S = 0.2, 0.7


class Host:
    """A host with a resolv.conf, and two name servers on one port."""

    def __init__(self, directory: Path, first: Upstream, second: Upstream) -> None:
        self.first, self.second = first, second
        self.clock = ManualClock()
        self.file = directory / "resolv.conf"
        self.serve(FIRST, SECOND)
        self.forwarder = Forwarder(
            self.clock, random.Random(5), self.file, first.port, TRY_S, WHOLE_S
        )

    def serve(self, *servers: str) -> None:
        self.file.write_text("".join(f"nameserver {server}\n" for server in servers))

    def begin(
        self,
        name: str,
        source: str = CLIENT,
        number: int = 77,
        tcp: bool = False,
        servers: tuple[str, ...] = (),
    ) -> "asyncio.Future[dnslib.DNSRecord]":
        future: asyncio.Future[dnslib.DNSRecord] = asyncio.get_running_loop().create_future()
        question = dnslib.DNSRecord.question(name)
        question.header.id = number
        self.forwarder.ask(
            source,
            bytes(question.pack()),
            tcp,
            lambda answer: future.set_result(dnslib.DNSRecord.parse(answer)),
            servers,
        )
        return future

    async def ask(self, name: str = "example.com", tcp: bool = False) -> str:
        """The address, or the name of the error."""
        answer = await self.begin(name, tcp=tcp)
        assert answer.header.id == 77
        if answer.header.rcode:
            return str(dnslib.RCODE[answer.header.rcode])
        return str(answer.rr[0].rdata) if answer.rr else "empty"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with upstream(FIRST) as first, upstream(SECOND, first.port) as second:
        made = Host(tmp_path, first, second)
        yield made
        await made.forwarder.close()


async def test_the_first_server_is_asked_and_its_answer_told(host: Host) -> None:
    assert await host.ask() == ADDRESS
    assert host.first.heard == ["udp example.com"]
    assert host.second.heard == []
    assert host.forwarder.forwarded == 1


async def test_a_name_that_is_missing_there_is_missing(host: Host) -> None:
    host.first.manner = "missing"
    assert await host.ask() == "NXDOMAIN"
    assert host.second.heard == []


async def test_one_asked_over_tcp_is_asked_over_tcp(host: Host) -> None:
    assert await host.ask(tcp=True) == ADDRESS
    assert host.first.heard == ["tcp example.com"]


async def test_a_cut_answer_is_told_as_it_is_so_that_the_task_comes_over_tcp(host: Host) -> None:
    host.first.manner = "long"
    answer = await host.begin("example.com")
    assert answer.header.tc
    answer = await host.begin("example.com", tcp=True)
    assert not answer.header.tc
    assert len(answer.rr) == 60


@pytest.mark.parametrize("manner", ["failing", "silent"])
async def test_the_next_server_is_asked_when_one_cannot(host: Host, manner: str) -> None:
    host.first.manner = manner
    assert await host.ask() == ADDRESS
    assert host.second.heard == ["udp example.com"]


async def test_a_server_that_was_silent_is_asked_last_for_a_while(host: Host) -> None:
    host.first.manner = "silent"
    assert await host.ask("one.example") == ADDRESS
    assert await host.ask("two.example") == ADDRESS
    assert host.first.heard == ["udp one.example"]
    await host.clock.advance(60)
    host.first.manner = "well"
    assert await host.ask("three.example") == ADDRESS
    assert host.first.heard[-1] == "udp three.example"


async def test_when_all_fail_their_error_is_told(host: Host) -> None:
    host.first.manner = host.second.manner = "failing"
    assert await host.ask() == "SERVFAIL"
    assert host.first.heard == host.second.heard == ["udp example.com"]


async def test_when_all_are_silent_it_ends_after_a_bounded_time(host: Host) -> None:
    host.first.manner = host.second.manner = "silent"
    assert await host.ask() == "SERVFAIL"
    assert len(host.first.heard) == len(host.second.heard) == 2
    assert host.forwarder.failed == 1


async def test_a_server_that_is_not_there_costs_no_time(host: Host) -> None:
    host.serve("127.0.0.3", SECOND)
    assert await host.ask() == ADDRESS
    host.serve("127.0.0.3")
    await host.clock.advance(LOOK_PERIOD_S)
    assert await host.ask() == "SERVFAIL"


async def test_without_servers_the_answer_is_an_error_at_once(host: Host) -> None:
    host.serve()
    future = host.begin("example.com")
    assert future.done(), "nobody is waited for"
    assert future.result().header.rcode == dnslib.RCODE.SERVFAIL
    host.file.unlink()
    await host.clock.advance(LOOK_PERIOD_S)
    assert host.begin("example.com").done()


async def test_a_changed_file_counts_a_second_later(host: Host) -> None:
    assert await host.ask() == ADDRESS
    host.serve(SECOND)
    await host.clock.advance(LOOK_PERIOD_S)
    assert await host.ask() == ADDRESS
    assert host.second.heard == ["udp example.com"]


async def test_what_was_not_asked_for_is_not_believed(host: Host) -> None:
    host.first.manner = "forged"
    assert await host.ask() == ADDRESS
    assert host.second.heard == []


async def test_ids_and_ports_are_drawn_anew(host: Host) -> None:
    for number in range(20):
        await host.ask(f"n{number}.example")
    assert len(set(host.first.ids)) > 15
    assert len(set(host.first.sources)) > 10
    assert 77 not in host.first.ids[:3], "the task's own id does not go out"


async def test_the_same_question_is_put_once_and_told_to_all(host: Host) -> None:
    futures = [host.begin("example.com", f"10.1.0.{n}", number=n) for n in range(1, 9)]
    answers = await asyncio.gather(*futures)
    assert [answer.header.id for answer in answers] == list(range(1, 9))
    assert all(str(answer.rr[0].rdata) == ADDRESS for answer in answers)
    assert host.first.heard == ["udp example.com"]


async def test_a_task_s_own_servers_are_asked_instead_of_the_host_s(host: Host) -> None:
    host.serve()
    own, others = host.begin("example.com", servers=(SECOND,)), host.begin("example.com")
    assert str((await own).rr[0].rdata) == ADDRESS
    assert (await others).header.rcode == dnslib.RCODE.SERVFAIL, "the host has none"
    assert (host.first.heard, host.second.heard) == ([], ["udp example.com"])


async def test_who_asks_other_servers_is_not_told_what_these_say(host: Host) -> None:
    host.second.manner = "missing"
    futures = [host.begin("example.com", servers=(server,)) for server in (FIRST, SECOND)]
    found, missing = await asyncio.gather(*futures)
    assert (found.header.rcode, missing.header.rcode) == (0, dnslib.RCODE.NXDOMAIN)


async def test_one_task_cannot_take_all_the_room(host: Host) -> None:
    host.first.manner = host.second.manner = "silent"
    futures = [host.begin(f"n{n}.example") for n in range(OUTSTANDING_PER_SOURCE_MAX + 5)]
    refused = [future for future in futures if future.done()]
    assert len(refused) == 5
    assert not host.begin("n.example", "10.1.0.51").done()
    await asyncio.gather(*futures)


async def test_questions_under_way_are_bounded(host: Host) -> None:
    host.first.manner = host.second.manner = "silent"
    futures = [
        host.begin(f"n{n}.example", f"10.1.1.{n // OUTSTANDING_PER_SOURCE_MAX}")
        for n in range(OUTSTANDING_MAX + 5)
    ]
    assert sum(future.done() for future in futures) == 5
    await asyncio.gather(*futures)
    host.first.manner = "well"
    assert await host.ask() == ADDRESS, "the room is free again"


# The file.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 192.0.2.1\nnameserver 127.0.0.53\n", ("192.0.2.1", "127.0.0.53")),
        ("# nameserver 192.0.2.1\n; nameserver 192.0.2.2\nsearch example.com\n", ()),
        ("nameserver\t2001:db8::1  \n", ("2001:db8::1",)),
        ("nameserver fe80::1%eth0\n", ("fe80::1%eth0",)),
        ("nameserver one.example\nnameserver\nnameserver 192.0.2.1 # mine\n", ("192.0.2.1",)),
        ("nameserver 192.0.2.1\n" * 5, ("192.0.2.1",)),
        ("", ()),
    ],
)
def test_the_name_servers_of_a_file(text: str, expected: tuple[str, ...]) -> None:
    assert name_servers(text) == expected


def test_no_more_servers_than_the_c_library_takes() -> None:
    text = "".join(f"nameserver 192.0.2.{n}\n" for n in range(9))
    assert name_servers(text) == tuple(f"192.0.2.{n}" for n in range(SERVERS_MAX))
