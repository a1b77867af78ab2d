"""Another certificate, its first use, and what the ones before are worth then."""

from pathlib import Path

import msgspec
import pytest
from support.founded_cluster import LIFETIME_S, FoundedCluster, serial_of

from essaim_master.authority.errors import NotAdmitted
from essaim_master.authority.standing import BACKDATED_NS, refusal
from essaim_master.authority.throttle import RENEWALS_BURST, RENEWALS_PER_S
from essaim_master.errors import TooManyRequests
from essaim_master.state.writes import Writes
from essaim_shared.errors import Conflict
from essaim_shared.trust.certificates import BACKDATED_S as CERTIFICATE_BACKDATED_S
from essaim_shared.trust.certificates import CERTIFICATE_LIFETIME_S, facts_of, new_request
from essaim_shared.trust.joining import RenewRequest
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate
from essaim_shared.trust_objects import NodeIdentity


def renew_request() -> RenewRequest:
    return RenewRequest(request_pem=new_request("x").request_pem.decode())


async def put(founded: FoundedCluster, identity: NodeIdentity) -> None:
    writes = Writes()
    writes.put(identity)
    assert await founded.commit(writes)


def why_not(founded: FoundedCluster, shown: PeerCertificate) -> str:
    return refusal(founded.state, "test", shown) or ""


async def test_the_old_certificate_is_good_until_the_new_one_was_used(
    founded: FoundedCluster,
) -> None:
    old = founded.shown(Role.AGENT, "node1")
    await founded.clock.advance(3600)
    answer = await founded.desk.renew(old, renew_request())
    new = founded.shown(Role.AGENT, "node1", serial_of(answer.certificate_pem))
    assert why_not(founded, old) == why_not(founded, new) == ""

    await founded.desk.confirm(new, answer.generation)
    assert why_not(founded, new) == ""
    assert "has renewed its certificate, so this earlier one is not accepted" in why_not(
        founded, old
    )
    expires_ns = founded.known(Role.AGENT, "node1").expires_ns
    assert expires_ns == founded.clock.wall_ns() + LIFETIME_S * 1_000_000_000


async def test_when_the_answer_is_lost_the_old_one_asks_again(founded: FoundedCluster) -> None:
    old = founded.shown(Role.MASTER, "h1")
    lost = await founded.desk.renew(old, renew_request())
    answer = await founded.desk.renew(old, renew_request())
    new = founded.shown(Role.MASTER, "h1", serial_of(answer.certificate_pem))
    await founded.desk.confirm(new, answer.generation)
    never_used = founded.shown(Role.MASTER, "h1", serial_of(lost.certificate_pem))
    assert "has renewed its certificate" in why_not(founded, never_used)
    with pytest.raises(NotAdmitted):
        await founded.desk.confirm(never_used, answer.generation)


async def test_a_master_whose_state_is_behind_takes_later_certificates(
    founded: FoundedCluster,
) -> None:
    """The log that would tell it of them may come over this very connection."""
    issued_ns = founded.known(Role.MASTER, "h1").issued_ns
    for later_s, is_taken in ((1, True), (-1, False)):
        made_ns = issued_ns + later_s * 1_000_000_000
        shown = msgspec.structs.replace(
            founded.shown(Role.MASTER, "h1", "abc"), not_before_ns=made_ns - BACKDATED_NS
        )
        assert (why_not(founded, shown) == "") == is_taken
    assert CERTIFICATE_BACKDATED_S * 1_000_000_000 == BACKDATED_NS


async def test_each_certificate_is_made_later_than_the_one_before(
    founded: FoundedCluster,
) -> None:
    """Two renewals within one second, or by a master whose clock is behind: by its seconds the
    later certificate is the later one, or masters whose state is behind would refuse it."""
    known = founded.known(Role.MASTER, "h1")
    ahead = founded.clock.wall_ns() + 30 * 1_000_000_000 + 500
    await put(founded, msgspec.structs.replace(known, issued_ns=ahead))
    for _ in range(2):
        before = founded.known(Role.MASTER, "h1")
        answer = await founded.desk.renew(founded.shown(Role.MASTER, "h1"), renew_request())
        facts = facts_of(answer.certificate_pem.encode())
        made_ns = facts.not_before_ns + BACKDATED_NS
        assert made_ns > before.issued_ns
        assert founded.known(Role.MASTER, "h1").issued_ns == made_ns


async def test_a_certificate_is_valid_at_once_also_when_a_clock_was_far_ahead(
    founded: FoundedCluster,
) -> None:
    known = founded.known(Role.MASTER, "h1")
    ahead = founded.clock.wall_ns() + 86_400 * 1_000_000_000
    await put(founded, msgspec.structs.replace(known, issued_ns=ahead))
    answer = await founded.desk.renew(founded.shown(Role.MASTER, "h1"), renew_request())
    assert facts_of(answer.certificate_pem.encode()).not_before_ns <= founded.clock.wall_ns()


async def test_one_who_renews_all_the_time_is_slowed_down_alone(founded: FoundedCluster) -> None:
    shown = founded.shown(Role.AGENT, "node1")
    for _ in range(int(RENEWALS_BURST)):
        await founded.desk.renew(shown, renew_request())
    with pytest.raises(TooManyRequests, match="all the time"):
        await founded.desk.renew(shown, renew_request())
    await founded.desk.renew(founded.shown(Role.MASTER, "h1"), renew_request())
    await founded.clock.advance(1 / RENEWALS_PER_S)
    await founded.desk.renew(shown, renew_request())


async def test_a_key_has_one_certificate(founded: FoundedCluster) -> None:
    request = renew_request()
    old = founded.shown(Role.AGENT, "node1")
    await founded.desk.renew(old, request)
    with pytest.raises(Conflict, match="make a new key"):
        await founded.desk.renew(old, request)


async def test_who_was_removed_is_refused_and_told_so(founded: FoundedCluster) -> None:
    shown = founded.shown(Role.AGENT, "node1")
    writes = Writes()
    writes.delete_identity(Role.AGENT, "node1")
    await founded.commit(writes)
    assert why_not(founded, shown) == (
        "essaim-agent node1 was removed from the cluster, so its certificate is not accepted any "
        "more: join again (essaim cluster join)"
    )
    with pytest.raises(NotAdmitted, match="was removed from the cluster"):
        await founded.desk.renew(shown, renew_request())
    with pytest.raises(NotAdmitted, match="was removed from the cluster"):
        await founded.desk.confirm(shown, 1)


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        (
            PeerCertificate("node1", "essaim-agent", "other", "1"),
            "the certificate is one of cluster 'other', this is 'test'",
        ),
        (
            PeerCertificate("admin", "essaim-user", "test", "1"),
            "'admin' shows a certificate of role 'essaim-user': it is none",
        ),
        (
            PeerCertificate("node1", "essaim-king", "test", "1"),
            "'node1' shows a certificate of role 'essaim-king': it is none",
        ),
        (
            PeerCertificate("node1", "essaim-master", "test", "1"),
            "essaim-master node1 was removed from the cluster",
        ),
    ],
)
async def test_certificates_of_others_and_for_other_uses_are_refused(
    founded: FoundedCluster, shown: PeerCertificate, line: str
) -> None:
    assert line in why_not(founded, shown)


async def test_a_users_certificate_has_its_full_life(tmp_path: Path) -> None:
    """Nobody renews it for him: what is set for processes does not hold for it."""
    founded = FoundedCluster(tmp_path, lifetime_s=10)
    await founded.found()
    request = new_request("admin").request_pem.decode()
    issued = await founded.desk.issue_to_user("admin", request, 0)
    facts = facts_of(issued.certificate_pem.encode())
    assert facts.not_after_ns == founded.clock.wall_ns() + CERTIFICATE_LIFETIME_S * 1_000_000_000
