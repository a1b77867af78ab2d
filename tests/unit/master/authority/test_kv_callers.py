"""Who may use the native key-value protocol, by his certificate."""

import pytest
from support.founded_cluster import FoundedCluster

from essaim_master.http.kv_callers import kv_refusal
from essaim_master.state.writes import Writes
from essaim_shared.trust.roles import Role
from essaim_shared.trust.tls import PeerCertificate
from essaim_shared.trust_objects import User


def why_not(founded: FoundedCluster, shown: PeerCertificate) -> str:
    return kv_refusal(founded.state, "test", shown, founded.clock.wall_ns()) or ""


def user(name: str, cluster_id: str = "test") -> PeerCertificate:
    return PeerCertificate(name, Role.USER.value, cluster_id, "1", 1)


async def test_masters_and_users_who_may_deploy_use_the_store(founded: FoundedCluster) -> None:
    assert why_not(founded, founded.shown(Role.MASTER, "h1")) == ""
    assert why_not(founded, user("admin")) == ""


@pytest.mark.parametrize(
    ("role", "stack", "line"),
    [("viewer", "", "the role deployer"), ("deployer", "web", "not bound to one stack")],
)
async def test_others_are_told_what_they_lack(
    founded: FoundedCluster, role: str, stack: str, line: str
) -> None:
    writes = Writes()
    writes.put(User(name="ann", role=role, stack=stack, created_ns=1))  # type: ignore[arg-type]
    await founded.commit(writes)
    assert line in why_not(founded, user("ann"))


async def test_who_was_removed_is_shut_out(founded: FoundedCluster) -> None:
    shown = founded.shown(Role.MASTER, "h1")
    writes = Writes()
    writes.delete_identity(Role.MASTER, "h1")
    writes.delete_user("admin")
    await founded.commit(writes)
    assert "was removed from the cluster" in why_not(founded, shown)
    assert "there is no user admin here" in why_not(founded, user("admin"))
    assert "of cluster 'other'" in why_not(founded, user("admin", "other"))
