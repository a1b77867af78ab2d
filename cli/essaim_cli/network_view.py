"""How networks are listed. Pure."""

from collections.abc import Mapping
from typing import Any

from essaim_cli.formatting import short_id

Json = Mapping[str, Any]

NETWORK_COLUMNS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
}


def network_row(item: Json, no_trunc: bool) -> dict[str, str]:
    """With the further fields that Docker's templates know."""
    labels = item.get("Labels") or {}
    return {
        "ID": short_id(item["Id"], no_trunc),
        "Name": item["Name"],
        "Driver": item.get("Driver", ""),
        "Scope": item.get("Scope", ""),
        "IPv4": str(bool(item.get("EnableIPv4", True))).lower(),
        "IPv6": str(bool(item.get("EnableIPv6"))).lower(),
        "Internal": str(bool(item.get("Internal"))).lower(),
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "CreatedAt": item.get("Created", ""),
    }
