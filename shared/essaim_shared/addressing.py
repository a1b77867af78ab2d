"""Pure arithmetic on overlay addresses: hardware addresses, hosts of a subnet, device names."""

import hashlib
import ipaddress

MAC_PREFIX = "02:e5"
"""Locally administered, unicast (IEEE 802, bit 1 of the first octet)."""

VXLAN_OVERHEAD_BYTES = 50
"""Outer Ethernet 14, IPv4 20, UDP 8, VXLAN 8 (RFC 7348, section 5)."""


def mac_of(address: str) -> str:
    """The hardware address of an overlay address: ours to choose, so ARP needs no learning."""
    return MAC_PREFIX + "".join(f":{octet:02x}" for octet in ipaddress.IPv4Address(address).packed)


def host_addresses(subnet: str) -> range:
    """The assignable addresses of a subnet as integers: neither the network nor the broadcast."""
    network = ipaddress.IPv4Network(subnet)
    return range(int(network.network_address) + 1, int(network.broadcast_address))


def device_name(prefix: str, identifier: str) -> str:
    """A device name within Linux's IFNAMSIZ (15 characters), stable for an identifier."""
    digest = hashlib.blake2s(identifier.encode(), digest_size=5).hexdigest()
    return f"{prefix}{digest}"[:15]
