"""From one authority to the next, step by step, with nodes that are away."""

import pytest
from support.founded_cluster import LIFETIME_S, FoundedCluster, serial_of

from essaim_master.authority.rotation import Step, laggards, step_of
from essaim_master.authority.view import authority_view
from essaim_master.state.writes import Writes
from essaim_shared.errors import Conflict
from essaim_shared.trust.certificates import authority_digest, is_signed_by, new_request
from essaim_shared.trust.joining import RenewRequest
from essaim_shared.trust.roles import Role
from essaim_shared.trust_objects import TrustAnchors

EVERYBODY = ((Role.MASTER, "h1"), (Role.AGENT, "node1"))


def anchors(founded: FoundedCluster) -> TrustAnchors:
    found = founded.state.trust_anchors
    assert found is not None
    return found


async def renew(founded: FoundedCluster, role: Role, name: str) -> str:
    """As that process does when it hears of the step; its new certificate."""
    request = RenewRequest(request_pem=new_request(name).request_pem.decode())
    answer = await founded.desk.renew(founded.shown(role, name), request)
    serial = serial_of(answer.certificate_pem)
    await founded.desk.confirm(founded.shown(role, name, serial), answer.generation)
    return answer.certificate_pem


async def test_each_step_waits_for_everybody(founded: FoundedCluster) -> None:
    old = founded.founding.authority_pem
    await founded.desk.rotate_authority()
    steps = []
    for step in (Step.INTRODUCING, Step.RENEWING):
        for role, name in EVERYBODY:
            await founded.upkeep.turn()
            assert step_of(anchors(founded)) is step, f"before {name} has confirmed"
            steps.append((step, name, await renew(founded, role, name)))
        await founded.upkeep.turn()
    assert step_of(anchors(founded)) is Step.SETTLED
    new = anchors(founded).signing
    assert anchors(founded).believed == (new,)
    assert authority_digest(new) != authority_digest(old)
    for step, name, certificate in steps:
        signer = old if step is Step.INTRODUCING else new
        assert is_signed_by(certificate.encode(), [signer]), f"{name} while {step}"
        leads_back = certificate.count("BEGIN CERTIFICATE") == 2
        assert leads_back == (step is Step.RENEWING)
    assert is_signed_by(anchors(founded).leading, [old])
    assert anchors(founded).generation == 4


async def test_tokens_pin_the_authority_that_signs(founded: FoundedCluster) -> None:
    before = founded.desk.tokens()[Role.AGENT]
    await founded.desk.rotate_authority()
    assert founded.desk.tokens()[Role.AGENT] == before
    for role, name in EVERYBODY:
        await renew(founded, role, name)
    await founded.upkeep.turn()
    after = founded.desk.tokens()[Role.AGENT]
    assert after.secret == before.secret
    assert after.authority_digest == authority_digest(anchors(founded).signing)
    assert after.authority_digest != before.authority_digest


async def test_a_node_that_is_away_is_waited_for_and_named(founded: FoundedCluster) -> None:
    await founded.desk.rotate_authority()
    await renew(founded, Role.MASTER, "h1")
    await founded.upkeep.turn()
    shown = authority_view(founded.state, anchors(founded), founded.clock.wall_ns())
    assert shown["Step"] == "introducing"
    assert [(row["Role"], row["Name"]) for row in shown["Waiting"]] == [("node", "node1")]
    assert len(shown["Believed"]) == 2


@pytest.mark.parametrize("how", ["removed", "expired"])
async def test_who_cannot_come_back_is_waited_for_no_more(
    founded: FoundedCluster, how: str
) -> None:
    await founded.desk.rotate_authority()
    if how == "removed":
        writes = Writes()
        writes.delete_identity(Role.AGENT, "node1")
        await founded.commit(writes)
    else:
        await founded.clock.advance(LIFETIME_S + 1)
    await renew(founded, Role.MASTER, "h1")
    await founded.upkeep.turn()
    assert step_of(anchors(founded)) is Step.RENEWING


async def test_one_rotation_at_a_time(founded: FoundedCluster) -> None:
    await founded.desk.rotate_authority()
    with pytest.raises(Conflict, match="is being replaced already"):
        await founded.desk.rotate_authority()


async def test_only_the_leader_takes_steps(founded: FoundedCluster) -> None:
    await founded.desk.rotate_authority()
    for role, name in EVERYBODY:
        await renew(founded, role, name)
    founded.cluster.lead(False, 2)
    await founded.upkeep.turn()
    assert step_of(anchors(founded)) is Step.INTRODUCING
    founded.cluster.lead(True, 3)
    await founded.upkeep.turn()
    assert step_of(anchors(founded)) is Step.RENEWING


async def test_a_claim_to_know_later_steps_counts_for_the_present_one(
    founded: FoundedCluster,
) -> None:
    await founded.desk.rotate_authority()
    await founded.desk.confirm(founded.shown(Role.AGENT, "node1"), 99)
    assert founded.known(Role.AGENT, "node1").generation == 2
    late = laggards(anchors(founded), founded.state.identities.values(), founded.clock.wall_ns())
    assert [one.name for one in late] == ["h1"]
