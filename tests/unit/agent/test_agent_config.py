"""The agent's configuration: what is refused, and in which words."""

from pathlib import Path

import pytest

from essaim_agent.config import load_agent_config
from essaim_agent.generic_resources import parse_generic_resources
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
        ("[overlay]", "[images]\nclean_up_above_percent = 101\n[overlay]", "clean_up_above"),
        ("[overlay]", "[images]\nclean_up_above_percent = 50\n[overlay]", "clean_up_below"),
        ("[overlay]", "[images]\nclean_up_below_percent = 0\n[overlay]", "clean_up_below"),
        ("engine_socket", "engine_sokcet", "engine_socket"),
        ("[overlay]", 'generic_resources = ["gpu"]\n[overlay]', "'gpu': write KIND=NAME"),
        ("[overlay]", 'generic_resources = ["=A"]\n[overlay]', "'=A': write KIND=NAME"),
        ("[overlay]", 'generic_resources = ["ssd=0"]\n[overlay]', "'ssd=0': the number must"),
        ("[overlay]", 'generic_resources = ["g=A", "g=A"]\n[overlay]', "'g=A': this unit was"),
        ("[overlay]", 'generic_resources = ["s=1", "s=2"]\n[overlay]', "'s=2': s was counted"),
        ("[overlay]", 'generic_resources = ["g=A", "g=2"]\n[overlay]', "g: mixes named and"),
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


def test_units_are_named_or_counted() -> None:
    found = parse_generic_resources(["gpu=GPU-1", "ssd=3", "gpu = GPU-2"])
    assert [(each.named or each.discrete).kind for each in found] == ["gpu", "gpu", "ssd"]
    assert [(each.named or each.discrete).resource_value for each in found] == [
        "GPU-1",
        "GPU-2",
        3,
    ]
