"""A master that stands by: whom it tells, what it does as told, and what its API says."""

import asyncio
import random

import msgspec
import pytest

from essaim_master.config import MasterConfig, MemberConfig
from essaim_master.http.protocol import PEER_EXTENSION, Peer
from essaim_master.standby.announcements import ANNOUNCE_PERIOD_S, Announcement, Told, ToldMember
from essaim_master.standby.app import MASTERS_HEADER, NOT_A_MANAGER, StandbyApp
from essaim_master.standby.process import member_config
from essaim_master.standby.record import Found, StandbyFiles, StandbyRecord, Start
from essaim_master.standby.waiting import StandbyMaster
from essaim_master.state.cluster import Member
from essaim_shared.clock import ManualClock
from essaim_shared.errors import OutcomeUnknown, Unavailable
from essaim_shared.http_call import Answer
from essaim_shared.ids import MemberId
from essaim_shared.trust.tls import PeerCertificate

SEED = 34
NAME = MemberId("m4-00000001")
NOW_THERE = (ToldMember(MemberId("m7"), "10.0.0.7:7401", "10.0.0.7:7400"),)


class Masters:
    """Answers as it is told: by address, what that master says."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Exception] = {}
        self.asked: list[tuple[str, Announcement]] = []
        self.both_asked = asyncio.Event()

    def tell(self, address: str, standing: str, incarnation: str = "") -> None:
        told = Told(standing, NOW_THERE, incarnation)
        self.answers[address] = Answer(200, msgspec.json.encode(told))

    async def ask(self, address, method, target, *, hops, timeout_s, body) -> Answer:
        assert (method, target, hops) == ("POST", "/essaim/cluster/standbys", 0)
        self.asked.append((address, msgspec.json.decode(body, type=Announcement)))
        if len(self.asked) == 2:
            self.both_asked.set()
        answer = self.answers.get(address, Unavailable(f"the master at {address} is away"))
        if isinstance(answer, Exception):
            raise answer
        return answer


class Bench:
    def __init__(self, directory) -> None:
        print(f"seed {SEED}")
        self.config = MasterConfig(
            cluster_id="test",
            member_id="m4",
            data_dir=str(directory),
            socket=str(directory / "s"),
            http_listen="10.0.0.4:7400",
            raft_listen="10.0.0.4:7401",
            bus_servers=("nats://127.0.0.1:9",),
            members=tuple(
                MemberConfig(f"m{n}", f"10.0.0.{n}:7401", f"10.0.0.{n}:7400") for n in (1, 2)
            ),
            standby=True,
        )
        self.files = StandbyFiles(directory)
        self.files.write(StandbyRecord(NAME))
        self.masters = Masters()
        self.clock = ManualClock()
        self.master = StandbyMaster(
            self.config,
            self.files,
            StandbyRecord(NAME),
            self.clock,
            random.Random(SEED),
            self.masters.ask,
        )

    def asked(self) -> list[str]:
        addresses = [address for address, _ in self.masters.asked]
        self.masters.asked.clear()
        return addresses


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


async def test_it_says_who_and_where_it_is_and_asks_on_until_somebody_answers(bench) -> None:
    bench.masters.tell("10.0.0.2:7400", "standby")
    await bench.master.turn()
    (_, said), _ = bench.masters.asked
    assert (said.id, said.raft, said.http) == (NAME, "10.0.0.4:7401", "10.0.0.4:7400")
    assert bench.asked() == ["10.0.0.1:7400", "10.0.0.2:7400"]
    await bench.master.turn()
    assert bench.asked() == ["10.0.0.2:7400"], "who answered is asked first"


async def test_it_remembers_where_the_masters_went_also_when_it_starts_again(bench) -> None:
    bench.masters.tell("10.0.0.1:7400", "standby")
    await bench.master.turn()
    record = bench.files.find().record
    assert [member.id for member in record.members] == ["m7"]
    again = StandbyMaster(
        bench.config, bench.files, record, bench.clock, random.Random(SEED), bench.masters.ask
    )
    bench.masters.answers.clear()
    bench.asked()
    await again.turn()
    assert bench.asked() == ["10.0.0.7:7400", "10.0.0.1:7400", "10.0.0.2:7400"]


async def test_as_a_member_it_has_an_empty_log_before_it_says_so(bench) -> None:
    bench.masters.tell("10.0.0.1:7400", "member", "second-life")
    await bench.master.run()
    record = bench.master.record
    assert record.takes_part
    assert bench.files.find() == Found(record, NAME)
    config = member_config(bench.config, record, Start.AS_MEMBER)
    assert (config.member_id, config.join, config.incarnation) == (NAME, True, "second-life")
    assert [member.id for member in config.members] == ["m7"]


async def test_a_name_that_is_used_up_is_never_announced_again(bench) -> None:
    bench.masters.tell("10.0.0.1:7400", "removed")
    await bench.master.turn()
    bench.asked()
    fresh = bench.master.record.member_id
    assert fresh != NAME
    assert fresh.startswith("m4-")
    assert bench.files.find().record.member_id == fresh
    bench.masters.tell("10.0.0.1:7400", "standby")
    await bench.master.turn()
    assert {said.id for _, said in bench.masters.asked} == {fresh}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b""),
        Answer(200, b"\xff"),
        Answer(200, b'{"Standing":"member"}'),
        Answer(404, b'{"message":"page not found"}'),
        Answer(503, b'{"message":"no leader"}'),
        Answer(500, b"\xff\xfe"),
        Unavailable("nobody there"),
        OutcomeUnknown("broke off"),
    ],
)
async def test_what_is_no_answer_changes_nothing_and_can_be_looked_up(bench, answer) -> None:
    bench.masters.answers = {"10.0.0.1:7400": answer, "10.0.0.2:7400": answer}
    before = bench.files.find()
    await bench.master.turn()
    assert len(bench.masters.asked) == 2
    assert bench.files.find() == before
    assert bench.master.view().said


async def test_a_standing_of_a_newer_build_is_waited_through(bench) -> None:
    bench.masters.tell("10.0.0.1:7400", "considered")
    await bench.master.turn()
    assert not bench.master.record.takes_part
    assert bench.master.record.member_id == NAME


async def test_it_goes_on_asking_once_a_period(bench) -> None:
    running = asyncio.create_task(bench.master.run())
    await bench.masters.both_asked.wait()
    assert len(bench.asked()) == 2
    bench.masters.tell("10.0.0.1:7400", "member")
    await bench.clock.advance(ANNOUNCE_PERIOD_S)
    await running
    assert bench.asked() == ["10.0.0.1:7400"]


class Caller:
    def __init__(
        self, bench: Bench, peer: Peer | None = None, *, wants_certificates: bool = False
    ) -> None:
        self._app = StandbyApp(bench.master.view, wants_certificates=wants_certificates)
        self._peer = peer or Peer(uid=0)

    async def ask(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        sent: list[dict[str, object]] = []

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": []}
        scope["extensions"] = {PEER_EXTENSION: self._peer}
        await self._app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, b"".join(part.get("body", b"") for part in sent[1:])


async def test_where_the_masters_are_is_told_to_those_of_the_cluster_only(bench) -> None:
    bench.masters.tell("10.0.0.1:7400", "standby")
    await bench.master.turn()
    certificate = PeerCertificate(name="ann", role="essaim-user", cluster_id="test", serial="1")
    there = "10.9.9.9:40000"
    for peer, status in (
        (Peer(uid=1000), 503),
        (Peer(address=there, certificate=certificate), 503),
        (Peer(address=there), 401),
    ):
        caller = Caller(bench, peer, wants_certificates=True)
        for path in ("/services", "/v1.41/nodes"):
            answered, headers, body = await caller.ask("GET", path)
            assert answered == status
            assert (MASTERS_HEADER.lower() in headers) is (status == 503)
            assert (b"10.0.0.7" in body) is (status == 503)
        assert (await caller.ask("GET", "/_ping"))[0] == 200
    assert (await Caller(bench, Peer(address=there)).ask("GET", "/services"))[0] == 503


async def test_its_api_lives_and_sends_everybody_to_the_masters(bench) -> None:
    bench.masters.tell("10.0.0.1:7400", "standby")
    await bench.master.turn()
    caller = Caller(bench)
    for path in ("/_ping", "/v1.41/_ping"):
        status, headers, body = await caller.ask("GET", path)
        assert (status, headers["swarm"], body) == (200, "active/worker", b"OK")
    status, _, body = await caller.ask("GET", "/essaim/standby")
    view = msgspec.json.decode(body)
    assert (view["ID"], [member["id"] for member in view["Members"]]) == (NAME, ["m7"])
    for method, path in (
        ("GET", "/v1.41/services"),
        ("POST", "/services/create"),
        ("PUT", "/_ping"),
    ):
        status, headers, body = await caller.ask(method, path)
        assert (status, headers[MASTERS_HEADER.lower()]) == (503, "10.0.0.7:7400")
        assert msgspec.json.decode(body)["message"].startswith(NOT_A_MANAGER)
    status, _, body = await caller.ask("GET", "/v1.99/services")
    assert status == 400
    assert b"too new" in body


def test_members_that_are_this_host_itself_are_not_linked_to(bench) -> None:
    """A first master that was removed and promoted finds its old self in its own list."""
    old = (Member(MemberId("m1"), "10.0.0.1:7401", "10.0.0.1:7400"),)
    own = Member(MemberId("m4"), bench.config.raft_listen, bench.config.http_listen)
    record = StandbyRecord(NAME, True, "", (own, *old))
    config = member_config(bench.config, record, Start.AS_MEMBER)
    assert [member.id for member in config.members] == ["m1"]
