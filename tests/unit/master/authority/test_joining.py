"""Who is let into the cluster, and what those hear who are not."""

import asyncio

import pytest
from support.founded_cluster import FoundedCluster, join_request

from essaim_master.authority.admission import IDENTITIES_MAX
from essaim_master.authority.errors import NotAdmitted
from essaim_master.authority.throttle import JOINS_BURST, WRONG_TOKEN_COST, WRONG_TOKEN_DELAY_S
from essaim_master.errors import TooManyRequests
from essaim_master.state.writes import Writes
from essaim_shared.errors import Conflict, InvalidRequest, Unavailable
from essaim_shared.trust.certificates import facts_of, is_signed_by
from essaim_shared.trust.joining import JoinAnswer, JoinRequest
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tokens import new_secret
from essaim_shared.trust_objects import NodeIdentity

ADDRESS = "10.0.0.9:4000"


async def refused(founded: FoundedCluster, request: JoinRequest) -> str:
    with pytest.raises((NotAdmitted, InvalidRequest, Conflict, Unavailable)) as caught:
        await founded.desk.join(request, ADDRESS)
    return str(caught.value)


async def test_a_worker_joins_and_its_name_is_its_nodes_id(founded: FoundedCluster) -> None:
    request = join_request(founded.founding.worker_secret, Role.AGENT)
    answer = await founded.desk.join(request, ADDRESS)
    [issued] = answer.issued
    facts = facts_of(issued.certificate_pem.encode())
    assert (facts.subject.name, facts.subject.role) == (issued.name, Role.AGENT)
    assert is_signed_by(issued.certificate_pem.encode(), [founded.founding.authority_pem])
    identity = founded.known(Role.AGENT, issued.name)
    assert identity.serial == facts.serial
    assert identity.bus_key == request.requests[0].bus_key
    assert identity.joined_from == ADDRESS
    assert answer.authorities_pem.encode() == founded.founding.authority_pem
    assert [one.http for one in answer.masters] == ["127.0.0.1:7400"]


async def test_only_a_master_is_told_the_seal_key(founded: FoundedCluster) -> None:
    worker = await founded.desk.join(
        join_request(founded.founding.worker_secret, Role.AGENT), ADDRESS
    )
    alone = await founded.desk.join(
        join_request(founded.founding.master_secret, Role.AGENT), ADDRESS
    )
    master = await founded.desk.join(
        join_request(founded.founding.master_secret, Role.MASTER, Role.AGENT, master_name="h2"),
        ADDRESS,
    )
    assert worker.seal_key == alone.seal_key == ""
    assert master.seal_key == founded.seal_key_file.read_text()
    assert master.seal_key.strip() not in repr(master)
    identity = founded.known(Role.MASTER, "h2")
    [agent] = [one.name for one in master.issued if one.role is Role.AGENT]
    assert identity.node_id == agent
    assert identity.is_to_vote


async def test_a_wrong_token_is_told_after_a_while(founded: FoundedCluster) -> None:
    request = join_request(new_secret(), Role.AGENT)
    asking = asyncio.ensure_future(refused(founded, request))
    await founded.clock.advance(0)
    await founded.clock.advance(WRONG_TOKEN_DELAY_S * 0.9)
    assert not asking.done()
    await founded.clock.advance(WRONG_TOKEN_DELAY_S * 0.2)
    assert (await asking).startswith("this join token is not valid: it was replaced, or mistyped")
    assert len(founded.state.identities) == 2


async def test_a_workers_token_lets_no_master_in(founded: FoundedCluster) -> None:
    request = join_request(founded.founding.worker_secret, Role.MASTER, master_name="h2")
    assert "one for workers and lets no master in" in await refused(founded, request)
    assert founded.state.identity(Role.MASTER, "h2") is None


async def test_a_repeated_request_is_not_answered_twice(founded: FoundedCluster) -> None:
    request = join_request(founded.founding.worker_secret, Role.AGENT)
    await founded.desk.join(request, ADDRESS)
    known = dict(founded.state.identities)
    assert "was answered already" in await refused(founded, request)
    assert founded.state.identities == known


async def test_a_masters_name_is_given_once(founded: FoundedCluster) -> None:
    for name in ("h1", "h2", "h2"):
        request = join_request(founded.founding.master_secret, Role.MASTER, master_name=name)
        if name == "h2" and founded.state.identity(Role.MASTER, "h2") is None:
            await founded.desk.join(request, ADDRESS)
        else:
            assert f"name {name!r} is in the cluster already" in await refused(founded, request)
    bad = join_request(founded.founding.master_secret, Role.MASTER, master_name="h/3")
    assert "'h/3' cannot name a master" in await refused(founded, bad)


@pytest.mark.parametrize(
    ("roles", "line"),
    [
        ((), "a machine joins with an agent, a master, or one of each"),
        ((Role.USER,), "a machine joins with an agent, a master, or one of each"),
        ((Role.AGENT, Role.AGENT), "a machine joins with an agent, a master, or one of each"),
    ],
)
async def test_what_no_machine_asks_for_is_refused(
    founded: FoundedCluster, roles: tuple[Role, ...], line: str
) -> None:
    request = join_request(founded.founding.master_secret, *roles)
    assert await refused(founded, request) == line


async def test_a_request_that_is_none_is_refused(founded: FoundedCluster) -> None:
    good = join_request(founded.founding.worker_secret, Role.AGENT)
    for change in (
        {"request_pem": "-----BEGIN"},
        {"bus_key": "UNONE"},
    ):
        broken = good.requests[0]
        fields = {"role": broken.role, "request_pem": broken.request_pem, "bus_key": broken.bus_key}
        request = JoinRequest(
            secret=good.secret,
            hostname="h2",
            requests=(type(broken)(**{**fields, **change}),),  # type: ignore[arg-type]
        )
        with pytest.raises(InvalidRequest):
            await founded.desk.join(request, ADDRESS)
    assert len(founded.state.identities) == 2


async def test_there_is_a_most_of_identities(founded: FoundedCluster) -> None:
    writes = Writes()
    for number in range(IDENTITIES_MAX - 2):
        name = f"n{number}"
        writes.put(
            NodeIdentity(
                role=Role.AGENT,
                name=name,
                bus_key=name,
                key_digest=name,
                serial=name,
                generation=1,
                issued_ns=0,
                expires_ns=0,
                joined_ns=0,
            )
        )
    await founded.commit(writes)
    request = join_request(founded.founding.worker_secret, Role.AGENT)
    assert f"{IDENTITIES_MAX} are the most" in await refused(founded, request)


async def test_guesses_are_slowed_down_for_all(founded: FoundedCluster) -> None:
    """Wrong tokens empty the bucket, and time fills it."""
    guesses = [
        asyncio.ensure_future(refused(founded, join_request(new_secret(), Role.AGENT)))
        for _ in range(JOINS_BURST // (WRONG_TOKEN_COST + 1))
    ]
    await founded.clock.advance(0.0)
    right = join_request(founded.founding.worker_secret, Role.AGENT)
    for _ in range(JOINS_BURST % (WRONG_TOKEN_COST + 1)):
        await founded.desk.join(join_request(founded.founding.worker_secret, Role.AGENT), ADDRESS)
    with pytest.raises(TooManyRequests, match="try again in a few seconds"):
        await founded.desk.join(right, ADDRESS)
    await founded.clock.advance(WRONG_TOKEN_DELAY_S + 1)
    assert all("not valid" in line for line in await asyncio.gather(*guesses))
    assert isinstance(await founded.desk.join(right, ADDRESS), JoinAnswer)


async def test_a_replaced_token_lets_nobody_in_and_the_other_one_stays(
    founded: FoundedCluster,
) -> None:
    before = founded.desk.tokens()
    await founded.desk.rotate_tokens(frozenset({Role.AGENT}))
    after = founded.desk.tokens()
    assert before[Role.MASTER] == after[Role.MASTER]
    assert before[Role.AGENT].authority_digest == after[Role.AGENT].authority_digest
    old = asyncio.ensure_future(
        refused(founded, join_request(before[Role.AGENT].secret, Role.AGENT))
    )
    await founded.clock.advance(0)
    await founded.clock.advance(WRONG_TOKEN_DELAY_S)
    assert "is not valid" in await old
    await founded.desk.join(join_request(after[Role.AGENT].secret, Role.AGENT), ADDRESS)


async def test_a_join_that_meets_a_rotation_is_worked_out_anew(founded: FoundedCluster) -> None:
    """The authority changes between the look at it and the commit."""
    founded.cluster.before_commit = founded.desk.rotate_authority
    answer = await founded.desk.join(
        join_request(founded.founding.worker_secret, Role.AGENT), ADDRESS
    )
    assert founded.known(Role.AGENT, answer.issued[0].name).generation == 2
    assert answer.authorities_pem.count("BEGIN CERTIFICATE") == 2
