"""Whose identity an agent takes for its own."""

import random
from pathlib import Path

import pytest
from support.identities import Identities, make_identity

from essaim_agent.config import AgentConfig
from essaim_agent.journal import DataDirectory
from essaim_agent.own_identity import own_node_id, own_tls
from essaim_shared.clock import SystemClock
from essaim_shared.errors import ConfigError
from essaim_shared.trust.roles import Role

NODE = "n" * 25
SEED = 40


def config_of(identity_dir: str) -> AgentConfig:
    return AgentConfig(
        cluster_id="lab",
        node_name="h1",
        data_dir="/nowhere",
        run_dir="/nowhere",
        address="127.0.0.1",
        bus_servers=("nats://127.0.0.1:1",),
        identity_dir=identity_dir,
    )


def made(root: Path, role: Role, cluster_id: str = "lab") -> str:
    identities = Identities(root, SystemClock().wall_ns())
    directory = root / "own"
    make_identity(
        directory, identities.authority, role, NODE, identities.now_ns, cluster_id=cluster_id
    )
    return str(directory)


def test_without_a_directory_there_is_none() -> None:
    assert own_tls(config_of("")) is None


def test_its_name_is_the_nodes_id(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    config = config_of(made(tmp_path, Role.AGENT))
    assert own_tls(config) is not None
    data = DataDirectory(tmp_path / "data")
    assert own_node_id(config, data, random.Random(SEED)) == NODE
    data.close()


@pytest.mark.parametrize(
    ("role", "cluster_id", "sentence"),
    [
        (Role.MASTER, "lab", "holds an essaim-master, no agent"),
        (Role.AGENT, "other", "is of cluster 'other'"),
    ],
)
def test_somebody_elses_is_refused_at_the_start(
    tmp_path: Path, role: Role, cluster_id: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        own_tls(config_of(made(tmp_path, role, cluster_id)))
