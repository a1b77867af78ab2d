"""What a request to create a network asks for, or why it cannot be.

Pure. The types are the bodies of moby's `POST /networks/create` (api/types/network) as clients
from 20.10 to 29 send them. What does not depend on other networks is checked here.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

from essaim_master.http.errors import NotPermitted
from essaim_master.http.json_edge import decode_spec
from essaim_master.http.validation.service import check_service_name
from essaim_master.http.validation.words import check_labels, refusal
from essaim_master.state.network_choice import MTU_MIN, WantedNetwork
from essaim_master.state.network_uses import PREDEFINED_NETWORKS
from essaim_shared.errors import NotSupported
from essaim_shared.spec_base import Spec

RESERVED_NAMES = PREDEFINED_NETWORKS | {"bridge", "none"}
"""Docker's own too: its clients take them for networks of an engine."""

SUBNET_PREFIX_MIN, SUBNET_PREFIX_MAX = 8, 29
"""A smaller subnet has no room for a gateway on each of three nodes and a task."""
RANGE_PREFIX_MAX = 30
MTU_MAX = 65_535
"""What an IP header can say."""
LABELS_BYTES_MAX = 16 * 1024
"""Of a network's labels together: nodes and masters keep them with every network."""

MTU_OPTION = "com.docker.network.driver.mtu"
VNI_OPTION = "com.docker.network.driver.overlay.vxlanid_list"

_REASONS = {
    "bridge": "a bridge is of one engine, not of the cluster: use -d overlay",
    "host": 'there is one host network, with the name "host": name it in a service',
    "none": "there are no networks without a driver: use -d overlay",
}
_UNUSABLE = tuple(
    ipaddress.IPv4Network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)
"""RFC 6890: addresses that mean something else on every host."""


class IpamConfig(Spec, frozen=True, kw_only=True):
    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = {}


class Ipam(Spec, frozen=True, kw_only=True):
    driver: str = ""
    options: dict[str, str] = {}
    config: tuple[IpamConfig, ...] = ()


class ConfigReference(Spec, frozen=True, kw_only=True):
    network: str = ""


class NetworkRequest(Spec, frozen=True, kw_only=True):
    name: str = ""
    check_duplicate: bool = False
    """Old clients ask for it; names are always unique here."""
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    ipam: Ipam | None = None
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


def wanted_network(fields: Mapping[str, Any]) -> WantedNetwork:
    """Raises InvalidRequest, NotSupported, NotPermitted with what cannot be, and why."""
    request = decode_spec(fields, NetworkRequest, "network")
    check_service_name(request.name)
    if request.name in RESERVED_NAMES:
        raise NotPermitted(f"operation is not permitted on predefined {request.name} network")
    if request.driver not in ("", "overlay"):
        reason = _REASONS.get(request.driver, "use -d overlay")
        raise NotSupported(f'the driver "{request.driver}" is not supported: {reason}')
    _refuse_what_is_not_there(request)
    check_labels("Labels", request.labels)
    if sum(len(word.encode()) for pair in request.labels.items() for word in pair) > (
        LABELS_BYTES_MAX
    ):
        raise refusal(f"Labels: they take more than {LABELS_BYTES_MAX} bytes")
    subnet, ip_range = _addresses(request.ipam)
    return WantedNetwork(
        name=request.name,
        subnet=subnet,
        ip_range=ip_range,
        mtu=_mtu(request.options),
        is_internal=request.internal,
        labels=request.labels,
        options=request.options,
    )


def _refuse_what_is_not_there(request: NetworkRequest) -> None:
    if request.scope not in ("", "swarm"):
        raise NotSupported(
            f'the scope "{request.scope}" is not supported: networks of a cluster are on all of '
            "its nodes, their scope is swarm"
        )
    if request.attachable:
        raise NotSupported(
            "attachable networks are not supported for now: containers that `docker run` starts "
            "are of one engine, which Essaim does not order about; run them as services"
        )
    if request.enable_ipv6:
        raise NotSupported("IPv6 inside networks is not supported for now: leave --ipv6 out")
    if not request.enable_ipv4:
        raise NotSupported("a network without IPv4 addresses is not supported")
    if request.ingress:
        raise NotSupported(
            "an ingress network is not needed: every node leads published ports to the tasks "
            "by itself"
        )
    if request.config_only or (request.config_from and request.config_from.network):
        raise NotSupported("config-only networks are of one engine: give the options themselves")


def _addresses(ipam: Ipam | None) -> tuple[str, str]:
    """The subnet and the range within it; empty where nothing was asked for."""
    if ipam is None:
        return "", ""
    if ipam.driver not in ("", "default"):
        raise NotSupported(
            f'the IPAM driver "{ipam.driver}" is not supported: the masters give all addresses'
        )
    if ipam.options:
        raise NotSupported(f"the IPAM option {min(ipam.options)} is not supported: there are none")
    if len(ipam.config) > 1:
        raise NotSupported("a network has one subnet: name one of them, or make a second network")
    if not ipam.config:
        return "", ""
    (config,) = ipam.config
    if config.gateway:
        raise NotSupported(
            f"the gateway {config.gateway} is not supported: the bridge of each node has an "
            "address of its own on the network, which the masters give it; leave --gateway out"
        )
    if config.auxiliary_addresses:
        raise NotSupported(
            "auxiliary addresses are not supported: keep what is not of Essaim out of the range "
            "with --ip-range"
        )
    if config.ip_range and not config.subnet:
        raise refusal("invalid IPRange: an --ip-range is part of a --subnet, name that too")
    return _subnet(config.subnet), _ip_range(config.ip_range, config.subnet)


def _subnet(text: str) -> str:
    if not text:
        return ""
    subnet = _parsed("subnet", text)
    if not SUBNET_PREFIX_MIN <= subnet.prefixlen <= SUBNET_PREFIX_MAX:
        raise refusal(
            f"invalid subnet {text}: it must be /{SUBNET_PREFIX_MIN} to /{SUBNET_PREFIX_MAX}"
        )
    for unusable in _UNUSABLE:
        if subnet.overlaps(unusable):
            raise refusal(f"invalid subnet {text}: hosts use {unusable} for something else")
    return str(subnet)


def _ip_range(text: str, subnet: str) -> str:
    if not text:
        return ""
    ip_range = _parsed("IPRange", text)
    if not ip_range.subnet_of(_parsed("subnet", subnet)):
        raise refusal(f"invalid IPRange {text}: it is not part of the subnet {subnet}")
    if ip_range.prefixlen > RANGE_PREFIX_MAX:
        raise refusal(f"invalid IPRange {text}: it must be /{RANGE_PREFIX_MAX} or larger")
    return str(ip_range)


def _parsed(what: str, text: str) -> ipaddress.IPv4Network:
    if ":" in text:
        raise NotSupported(f"the {what} {text} is not supported: networks have IPv4 addresses only")
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise refusal(f"invalid {what} {text!r}: {error}") from error


def _mtu(options: Mapping[str, str]) -> int:
    """What the driver's options say; the only one that a user can set."""
    for name in options:
        if name == MTU_OPTION:
            continue
        if name == "encrypted":
            raise NotSupported(
                "encrypted networks are not supported for now: packets between the nodes are in "
                "the clear, encrypt the links between them (WireGuard) or the connections (TLS)"
            )
        if name == VNI_OPTION:
            raise NotSupported(f"{name} is not supported: the masters choose the VNI")
        raise NotSupported(f"the driver option {name} is not supported: there is {MTU_OPTION} only")
    text = options.get(MTU_OPTION)
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and MTU_MIN <= int(text[:6]) <= MTU_MAX):
        raise refusal(f"invalid {MTU_OPTION} {text!r}: it is a number from {MTU_MIN} to {MTU_MAX}")
    return int(text)
