"""Which range, gateway and auxiliary addresses of `network create` belong to which subnet. Pure;
docker/cli, cli/command/network/create.go, in its words."""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from essaim_cli.grammar.fields import comma_fields

Json = dict[str, Any]
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

SUBNETS_MAX = 64


def parse_subnets(text: str) -> list[IPNetwork]:
    """`10.1.0.0/16`, or several with commas; bits of the host's part are cut off."""
    return [_network(field) for field in comma_fields(text)]


def parse_addresses(text: str) -> list[IPAddress]:
    return [_address(field) for field in comma_fields(text)]


def parse_named_address(text: str) -> tuple[str, IPAddress]:
    """`router=10.1.0.5`."""
    name, separator, address = text.partition("=")
    if not (name and separator):
        raise ValueError("write NAME=ADDRESS")
    return name, _address(address)


def address_configuration(
    subnets: Iterable[IPNetwork],
    ranges: Iterable[IPNetwork],
    gateways: Iterable[IPAddress],
    auxiliary: Mapping[str, IPAddress],
) -> list[Json]:
    """The `IPAM.Config` of a network. Raises ValueError where something fits no subnet."""
    wanted, wanted_ranges, wanted_gateways = list(subnets), list(ranges), list(gateways)
    if len(wanted) < max(len(wanted_ranges), len(wanted_gateways)):
        raise ValueError("every ip-range or gateway must have a corresponding subnet")
    if len(wanted) > SUBNETS_MAX:
        raise ValueError(f"{len(wanted)} subnets are too many: a network has at most {SUBNETS_MAX}")
    configuration: dict[IPNetwork, Json] = {}
    for subnet in wanted:
        if any(_overlap(subnet, other) for other in configuration):
            raise ValueError("multiple overlapping subnet configuration is not supported")
        configuration[subnet] = {"Subnet": str(subnet)}
    for part in wanted_ranges:
        place = _of_subnet(configuration, part.network_address, f"range {part}")
        if "IPRange" in place:
            raise ValueError(
                f"cannot configure multiple ranges ({part}, {place['IPRange']}) "
                f"on the same subnet ({place['Subnet']})"
            )
        place["IPRange"] = str(part)
    for gateway in wanted_gateways:
        place = _of_subnet(configuration, gateway, f"gateway {gateway}")
        if "Gateway" in place:
            raise ValueError(
                f"cannot configure multiple gateways ({gateway}, {place['Gateway']}) "
                f"for the same subnet ({place['Subnet']})"
            )
        place["Gateway"] = str(gateway)
    for name, address in auxiliary.items():
        place = _of_subnet(configuration, address, f"aux-address {address}")
        place.setdefault("AuxiliaryAddresses", {})[name] = str(address)
    return list(configuration.values())


def _of_subnet(configuration: dict[IPNetwork, Json], address: IPAddress, what: str) -> Json:
    for subnet, place in configuration.items():
        if address in subnet:
            return place
    raise ValueError(f"no matching subnet for {what}")


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _network(text: str) -> IPNetwork:
    if "/" not in text:
        raise ValueError(f"invalid CIDR address: {text}: write for example 10.1.0.0/16")
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise ValueError(f"invalid CIDR address: {text}: write for example 10.1.0.0/16") from error


def _address(text: str) -> IPAddress:
    try:
        return ipaddress.ip_address(text.strip())
    except ValueError as error:
        raise ValueError(f"invalid IP address: {text}") from error
