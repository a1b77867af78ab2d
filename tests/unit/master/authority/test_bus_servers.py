"""Where a machine that joins finds the bus."""

from essaim_master.authority.desk import bus_servers
from essaim_shared.trust.joining import MasterAddress


def at(host: str) -> MasterAddress:
    return MasterAddress(host, f"{host}:7401", f"{host}:7400")


def test_masters_that_came_later_have_a_bus_server_too() -> None:
    configured = ("nats://10.0.0.1:4222", "nats://10.0.0.2:4222")
    found = bus_servers(configured, (at("10.0.0.1"), at("10.0.0.3"), at("[fd00::4]")))
    assert found == (*configured, "nats://10.0.0.3:4222", "nats://[fd00::4]:4222")


def test_several_masters_on_one_host_have_the_servers_that_are_configured() -> None:
    configured = ("nats://127.0.0.1:27004", "nats://127.0.0.1:27014")
    assert bus_servers(configured, (at("127.0.0.1"), at("127.0.0.1"))) == configured
