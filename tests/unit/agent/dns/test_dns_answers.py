"""Bytes in, bytes out: read with dnslib, which the tasks' resolvers have never heard of either."""

import random
from collections import Counter

import dnslib
import pytest
from support.dns_tables import BACK, FRONT, endpoint, picture, service, task

from essaim_agent.dns.answers import (
    ANSWERS_PER_PERIOD_MAX,
    KEPT_MAX,
    OUTSIDE,
    UNKEPT_PER_PERIOD_MAX,
    Answers,
)
from essaim_agent.dns.picture import changes
from essaim_agent.network import NetworkPicture
from essaim_shared.messages import Endpoint, ServiceEntry

CLIENT, OTHER, STRANGER = "10.1.0.50", "10.1.0.51", "192.0.2.7"
TASKS = {
    "client": task((FRONT, CLIENT)),
    "other": task((FRONT, OTHER), (BACK, "10.2.0.51")),
}
MANY = 100


class Node:
    """The answers of one node, as its pictures come."""

    def __init__(self, *items: Endpoint | ServiceEntry) -> None:
        self.answers = Answers(random.Random(7))
        self._picture = NetworkPicture()
        self.want(*items)

    def want(self, *items: Endpoint | ServiceEntry) -> None:
        wanted = picture(*items, tasks=TASKS)
        for change in changes(self._picture, wanted):
            self.answers.apply(change)
        self._picture = wanted

    def raw(self, question: dnslib.DNSRecord, source: str = CLIENT, tcp: bool = False) -> bytes:
        over = self.answers.over_tcp if tcp else self.answers.over_udp
        answer = over(source, bytes(question.pack()))
        assert isinstance(answer, bytes), answer
        return answer

    def ask(
        self, name: str, kind: str = "A", source: str = CLIENT, tcp: bool = False
    ) -> dnslib.DNSRecord:
        question = dnslib.DNSRecord.question(name, kind)
        answer = dnslib.DNSRecord.parse(self.raw(question, source, tcp))
        assert answer.header.id == question.header.id
        assert answer.q == question.q
        return answer

    def addresses(self, name: str, source: str = CLIENT) -> list[str]:
        return [str(record.rdata) for record in self.ask(name, source=source).rr]


def packed(name: str) -> bytes:
    return bytes(dnslib.DNSRecord.question(name).pack())


def web(count: int = 3) -> list[Endpoint | ServiceEntry]:
    return [
        service("web", "10.201.0.2"),
        *(endpoint(f"web.{slot}", f"10.1.1.{slot}") for slot in range(1, count + 1)),
    ]


def test_an_answer_is_one_that_others_can_read() -> None:
    answer = Node(*web()).ask("web")
    header = answer.header
    assert (header.qr, header.aa, header.ra, header.rd, header.rcode) == (1, 1, 1, 1, 0)
    (record,) = answer.rr
    assert (str(record.rname), str(record.rdata), record.ttl) == ("web.", "10.201.0.2", 5)
    assert not answer.ar, "no options for one who sent none"


def test_a_name_comes_back_in_the_letters_it_was_asked_in() -> None:
    answer = Node(*web()).ask("wEb.FRONT")
    assert str(answer.q.qname) == "wEb.FRONT."
    assert len(answer.rr) == 1


def test_the_second_answer_is_the_first_one_with_another_id() -> None:
    node, question = Node(*web()), dnslib.DNSRecord.question("web")
    first = node.raw(question)
    question.header.id = (question.header.id + 1) % 65_536
    second = node.raw(question)
    assert first[2:] == second[2:]
    assert second[:2] == question.pack()[:2]


def test_each_of_several_addresses_is_the_first_as_often_as_any_other() -> None:
    node = Node(*web(5))
    firsts = Counter(node.addresses("tasks.web")[0] for _ in range(50))
    assert sorted(firsts.values()) == [10] * 5
    assert len(set(node.addresses("tasks.web"))) == 5


def test_a_change_is_seen_by_the_next_question() -> None:
    node = Node(*web(2))
    assert sorted(node.addresses("tasks.web")) == ["10.1.1.1", "10.1.1.2"]
    node.want(*web(1))
    assert node.addresses("tasks.web") == ["10.1.1.1"]
    node.want()
    assert node.ask("web").header.rcode == dnslib.RCODE.NXDOMAIN
    node.want(*web(1))
    assert node.addresses("web") == ["10.201.0.2"]


def test_a_task_that_joins_a_network_is_told_of_it_at_once() -> None:
    node = Node(service("db", "10.202.0.2", BACK))
    assert node.ask("db", source=CLIENT).header.rcode == dnslib.RCODE.NXDOMAIN
    assert node.addresses("db", source=OTHER) == ["10.202.0.2"]
    TASKS["client"] = task((FRONT, CLIENT), (BACK, "10.2.0.50"))
    try:
        node.want(service("db", "10.202.0.2", BACK))
        assert node.addresses("db", source=CLIENT) == ["10.202.0.2"]
    finally:
        TASKS["client"] = task((FRONT, CLIENT))
    node.want(service("db", "10.202.0.2", BACK))
    assert node.ask("db", source=CLIENT).header.rcode == dnslib.RCODE.NXDOMAIN


def test_who_is_no_task_of_this_node_is_refused() -> None:
    answer = Node(*web()).ask("web", source=STRANGER)
    assert answer.header.rcode == dnslib.RCODE.REFUSED
    assert not answer.rr


def test_an_address_of_another_kind_is_left_out() -> None:
    node = Node(service("web"), endpoint("web.1", "fd00::1"), endpoint("web.2", "10.1.1.2"))
    for _ in range(3):
        assert node.addresses("web") == ["10.1.1.2"]
    node.want(service("web"), endpoint("web.1", "fd00::1"))
    assert node.addresses("web") == []


def test_a_reverse_question_is_answered_with_the_name() -> None:
    (record,) = Node(*web()).ask("2.0.201.10.in-addr.arpa", "PTR").rr
    assert str(record.rdata) == "web.front."
    assert record.rtype == dnslib.QTYPE.PTR


@pytest.mark.parametrize("kind", ["AAAA", "MX", "TXT", "ANY", "SRV"])
def test_other_types_of_our_names_are_empty(kind: str) -> None:
    answer = Node(*web()).ask("web", kind)
    assert answer.header.rcode == dnslib.RCODE.NOERROR
    assert not answer.rr


def test_the_world_outside_is_left_to_others() -> None:
    node = Node(*web())
    question = packed("example.com")
    assert node.answers.over_udp(CLIENT, question) == OUTSIDE
    assert node.answers.over_tcp(CLIENT, question) == OUTSIDE


# Length.


def with_options(name: str, size: int, version: int = 0) -> dnslib.DNSRecord:
    question = dnslib.DNSRecord.question(name)
    question.add_ar(dnslib.EDNS0(udp_len=size, version=version))
    return question


def test_an_answer_too_long_for_udp_says_so_and_tells_what_fits() -> None:
    node = Node(*web(MANY))
    seen = set()
    for _ in range(MANY):
        answer = node.ask("tasks.web")
        assert answer.header.tc
        assert len(answer.pack()) <= 512
        assert 25 < len(answer.rr) < MANY
        seen.update(str(record.rdata) for record in answer.rr)
    assert len(seen) == MANY, "those who cannot do better meet all tasks in time"


def test_over_tcp_all_of_it_comes() -> None:
    answer = Node(*web(MANY)).ask("tasks.web", tcp=True)
    assert not answer.header.tc
    assert len({str(record.rdata) for record in answer.rr}) == MANY


@pytest.mark.parametrize(("size", "limit"), [(0, 512), (700, 700), (1232, 1232), (65_535, 1232)])
def test_one_who_takes_more_gets_more_but_never_fragments(size: int, limit: int) -> None:
    raw = Node(*web(MANY)).raw(with_options("tasks.web", size))
    answer = dnslib.DNSRecord.parse(raw)
    assert limit - 16 < len(raw) <= limit
    (options,) = answer.ar
    assert options.rtype == dnslib.QTYPE.OPT
    assert options.rclass == 1232
    assert answer.header.tc


def test_options_of_another_version_are_refused_by_number() -> None:
    answer = dnslib.DNSRecord.parse(Node(*web()).raw(with_options("web", 1232, version=1)))
    (options,) = answer.ar
    assert answer.header.rcode == 0
    assert options.ttl >> 24 == 1, "the upper bits of BADVERS"
    assert not answer.rr


# Nonsense.


def test_what_is_no_question_gets_an_error_or_nothing() -> None:
    node = Node(*web())
    good = packed("web")
    answer = dnslib.DNSRecord.question("web").reply().pack()
    two = dnslib.DNSRecord.question("web")
    two.add_question(dnslib.DNSQuestion("db"))
    silent = [b"", b"\x01", good[:11], answer]
    refused = [
        good[:12],
        good[:-1],
        good + b"x" * 1300,
        two.pack(),
        good[:12] + b"\xc0\x0c\0\1\0\1",
    ]
    for data in map(bytes, silent):
        assert node.answers.over_udp(CLIENT, data) is None, data
    for data in map(bytes, refused):
        reply = node.answers.over_udp(CLIENT, data)
        assert isinstance(reply, bytes)
        assert dnslib.DNSHeader.parse(dnslib.DNSBuffer(reply)).rcode == dnslib.RCODE.FORMERR


def test_other_operations_and_classes_are_refused() -> None:
    node = Node(*web())
    for question, code in (
        (dnslib.DNSRecord(dnslib.DNSHeader(opcode=5), q=dnslib.DNSQuestion("web")), "NOTIMP"),
        (dnslib.DNSRecord(q=dnslib.DNSQuestion("version.bind", 16, 3)), "REFUSED"),
    ):
        answer = dnslib.DNSRecord.parse(node.raw(question))
        assert dnslib.RCODE[answer.header.rcode] == code


# Too much.


def test_one_who_asks_too_much_is_silenced_for_a_while_and_the_others_are_not() -> None:
    node, question = Node(*web()), packed("web")
    answered = sum(
        node.answers.over_udp(CLIENT, question) is not None
        for _ in range(ANSWERS_PER_PERIOD_MAX + 100)
    )
    assert answered == ANSWERS_PER_PERIOD_MAX
    assert node.answers.dropped == 100
    assert node.answers.over_udp(OTHER, question) is not None
    node.answers.begin_period()
    assert node.answers.over_udp(CLIENT, question) is not None


def test_questions_that_cost_more_are_silenced_sooner() -> None:
    node = Node(*web())
    answered = sum(
        node.answers.over_udp(CLIENT, packed(f"n{number}")) is not None
        for number in range(UNKEPT_PER_PERIOD_MAX * 2)
    )
    assert answered == UNKEPT_PER_PERIOD_MAX
    assert node.answers.over_udp(OTHER, packed("n1")) is not None


def test_ready_answers_are_bounded_however_a_name_is_spelt() -> None:
    node = Node(service("a" * 40, "10.201.0.2"))
    rng = random.Random(3)
    for _ in range(KEPT_MAX + 50):
        name = "".join(rng.choice("aA") for _ in range(40))
        node.answers.begin_period()
        assert node.addresses(name) == ["10.201.0.2"]
    assert all(len(kept) <= KEPT_MAX for kept in node.answers._kept.values())
