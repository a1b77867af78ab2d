"""What `cluster init` left, written into the state once, sealed."""

import logging

import pytest
from support.founded_cluster import FoundedCluster

from essaim_master.authority.vault import AuthorityVault
from essaim_master.control.founding import first_trust_writes
from essaim_shared.errors import Unavailable
from essaim_shared.sealing import DataKey
from essaim_shared.trust.founding import FOUNDING_FILE, Founder, read_founding, write_founding
from essaim_shared.trust.roles import Role


async def test_the_state_holds_the_key_and_the_secrets_sealed(founded: FoundedCluster) -> None:
    anchors, secrets = founded.state.trust_anchors, founded.state.join_secrets
    assert anchors is not None
    assert secrets is not None
    for found in founded.state.store.range(b"/"):
        assert founded.founding.authority_key_pem not in found.value
        assert founded.founding.master_secret.encode() not in found.value
        assert founded.founding.worker_secret.encode() not in found.value
    assert founded.vault.authority(anchors).key_pem == founded.founding.authority_key_pem
    assert founded.vault.open_secrets(secrets).master == founded.founding.master_secret
    assert founded.known(Role.AGENT, "node1").generation == anchors.generation
    assert "admin" in founded.state.users


async def test_each_master_deletes_its_file_once_the_state_has_it(
    founded: FoundedCluster,
) -> None:
    assert read_founding(founded.identity_dir) is not None
    await founded.upkeep.turn()
    assert not (founded.identity_dir / FOUNDING_FILE).exists()
    await founded.upkeep.turn()


async def test_a_cluster_is_founded_once(founded: FoundedCluster) -> None:
    other = Founder("test", founded.clock.wall_ns())
    write_founding(founded.identity_dir, other.founding)
    assert not first_trust_writes(founded.state, founded.file.sealed())


async def test_a_damaged_file_founds_nothing_and_is_told(
    founded: FoundedCluster, caplog: pytest.LogCaptureFixture
) -> None:
    (founded.identity_dir / FOUNDING_FILE).write_bytes(b"\xff")
    with caplog.at_level(logging.ERROR):
        assert founded.file.sealed() is None
    assert "damaged: found the cluster anew" in caplog.text


async def test_another_data_key_does_not_open_it(founded: FoundedCluster) -> None:
    stranger = AuthorityVault(DataKey(b"x" * 32))
    anchors, secrets = founded.state.trust_anchors, founded.state.join_secrets
    assert anchors is not None
    assert secrets is not None
    with pytest.raises(Unavailable, match="give all masters the same seal_key_file"):
        stranger.authority(anchors)
    with pytest.raises(Unavailable):
        stranger.open_secrets(secrets)
