"""Whose identity a master takes for its own."""

import pytest
from support.identities import Identities, make_identity

from essaim_master.config import MasterConfig
from essaim_master.own_tls import own_tls
from essaim_shared.clock import SystemClock
from essaim_shared.errors import ConfigError
from essaim_shared.trust.roles import Role


@pytest.fixture
def identities(tmp_path) -> Identities:
    return Identities(tmp_path, SystemClock().wall_ns())


def config_of(identity_dir, member_id: str = "m1") -> MasterConfig:
    return MasterConfig(
        cluster_id="lab",
        member_id=member_id,
        data_dir="/nowhere",
        socket="/nowhere/s",
        http_listen="127.0.0.1:1",
        raft_listen="127.0.0.1:2",
        bus_servers=("nats://127.0.0.1:3",),
        members=(),
        identity_dir=str(identity_dir),
    )


def made(identities: Identities, role: Role, name: str, **how) -> str:
    directory = identities.root / "own"
    make_identity(directory, identities.authority, role, name, identities.now_ns, **how)
    return str(directory)


def test_without_a_directory_there_is_no_tls() -> None:
    assert own_tls(config_of("")) is None


@pytest.mark.parametrize("member_id", ["m1", "m1-0badcafe"])
def test_its_own_is_taken_also_under_a_drawn_name(identities, member_id) -> None:
    directory = made(identities, Role.MASTER, "m1")
    assert own_tls(config_of(directory, member_id)) is not None


@pytest.mark.parametrize(
    ("role", "name", "how", "sentence"),
    [
        (Role.AGENT, "m1", {}, "holds an essaim-agent, no master"),
        (Role.MASTER, "m2", {}, "is of master 'm2', not of 'm1'"),
        (Role.MASTER, "m1", {"cluster_id": "other"}, "is of cluster 'other'"),
    ],
)
def test_somebody_elses_is_refused_at_the_start(identities, role, name, how, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        own_tls(config_of(made(identities, role, name, **how)))


def test_one_that_is_missing_says_what_to_do(tmp_path) -> None:
    with pytest.raises(ConfigError, match="essaim cluster join"):
        own_tls(config_of(tmp_path / "none"))
