from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from essaim_shared import config
from essaim_shared.errors import ConfigError


class Bus(msgspec.Struct, frozen=True, kw_only=True):
    servers: tuple[str, ...]
    ping_interval_s: float = 1.0


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Daemon(msgspec.Struct, frozen=True, kw_only=True):
    node_name: str
    bus: Bus
    peers: tuple[Peer, ...] = ()
    backup: Bus | None = None
    labels: dict[str, str] = {}
    data_directory: str = "/var/lib/essaim"


def parse(text: str) -> Daemon:
    return config.parse(text.encode(), "agent.toml", Daemon)


GOOD = 'node_name = "h1"\n[bus]\nservers = ["nats://127.0.0.1:4222"]\n'


def test_a_file_becomes_a_frozen_struct(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(GOOD + '[labels]\n"any-key" = "x"\n[[peers]]\nname = "a"\nport = 1\n')
    settings = config.load(path, Daemon)
    assert settings == Daemon(
        node_name="h1",
        bus=Bus(servers=("nats://127.0.0.1:4222",)),
        peers=(Peer(name="a", port=1),),
        labels={"any-key": "x"},
    )
    with pytest.raises(AttributeError):
        settings.node_name = "other"  # type: ignore[misc]


def test_hyphens_stand_for_underscores() -> None:
    assert parse(GOOD.replace("node_name", "node-name")).node_name == "h1"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nodename = 1\n" + GOOD, "unknown key 'nodename' (did you mean 'node_name'?)"),
        (GOOD + "ping_intervall_s = 2\n", "'bus.ping_intervall_s' (did you mean 'ping_interval_s'"),
        (GOOD + "zzz = 2\n", "unknown key 'bus.zzz' (known here: ping_interval_s, servers)"),
        (GOOD + "[[peers]]\nname='a'\nprt=1\n", "'peers[0].prt' (did you mean 'port'?)"),
        (GOOD + "[backup]\nserver = []\n", "'backup.server' (did you mean 'servers'?)"),
        ("node-name = '1'\n" + GOOD, "given twice"),
        (GOOD.replace('"h1"', "7"), "node_name: expected `str`, got `int`"),
        (GOOD + "[[peers]]\nname='a'\nport=70000\n", "peers[0].port: expected `int` <= 65535"),
        ("node_name = 'x'\n", "missing required field `bus`"),
        ("node_name = 'x'\nbus = 3\n", "bus: expected a table, got `int`"),
        ("node_name = \n", "not TOML"),
        ("a = 1\na = 2\n", "not TOML"),
    ],
)
def test_each_mistake_is_one_line_with_the_file_and_the_key(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text)
    message = str(raised.value)
    assert message.startswith("agent.toml: ")
    assert complaint.lower() in message.lower()
    assert "\n" not in message


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file"):
        config.load(tmp_path / "missing.toml", Daemon)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(tmp_path, Daemon)
    with pytest.raises(ConfigError, match="not UTF-8 at byte 1"):
        config.parse(b"a\xff = 1", "x", Daemon)
    huge = tmp_path / "huge"
    huge.write_bytes(b"#" * (config.CONFIG_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="larger than"):
        config.load(huge, Daemon)
