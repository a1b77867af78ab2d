"""The agent's configuration: what is refused, and in which words."""

from pathlib import Path

import pytest

from essaim_agent.config import load_agent_config
from essaim_shared.errors import ConfigError

GOOD = """
cluster_id = "lab"
node_name = "h1"
data_dir = "/var/lib/essaim"
run_dir = "/run/essaim"
address = "192.0.2.1"
executor = "docker"
engine_socket = "/run/docker.sock"
metrics_listen = "192.0.2.1:7402"
bus_servers = ["nats://192.0.2.1:4222"]

[overlay]
udp_port = 7472
"""


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(GOOD)
    config = load_agent_config(path)
    assert (config.node_name, config.executor, config.overlay.udp_port) == ("h1", "docker", 7472)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('address = "192.0.2.1"', 'address = "h1"', "address"),
        ('data_dir = "/var', 'data_dir = "var', "data_dir"),
        ('["nats://192.0.2.1:4222"]', "[]", "bus_servers"),
        (":7402", ":74020", "HOST:PORT"),
        ("udp_port = 7472", "udp_port = 0", "overlay.udp_port"),
        ('"docker"', '"podman"', "executor"),
        ('node_name = "h1"', 'node_name = ""', "node_name"),
        ("engine_socket", "engine_sokcet", "engine_socket"),
    ],
)
def test_a_mistake_is_named_with_its_file(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as refusal:
        load_agent_config(path)
    assert str(path) in str(refusal.value)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)
