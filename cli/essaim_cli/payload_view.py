"""How secrets and configs are listed and shown. Pure."""

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from essaim_cli.task_view import ago

Json = Mapping[str, Any]

LABEL_WIDTH = 16

SECRET_COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "CreatedAt": "CREATED",
    "UpdatedAt": "UPDATED",
    "DataVersion": "VERSION",
}
"""Docker's, and the number of the newest data."""

CONFIG_COLUMNS = {name: SECRET_COLUMNS[name] for name in SECRET_COLUMNS if name != "Driver"}


def payload_row(item: Json, now: datetime) -> dict[str, str]:
    labels = item["Spec"].get("Labels") or {}
    return {
        "ID": item["ID"],
        "Name": item["Spec"]["Name"],
        "Driver": "",
        "CreatedAt": ago(item["CreatedAt"], now),
        "UpdatedAt": ago(item["UpdatedAt"], now),
        "DataVersion": str(item.get("DataVersion", "")),
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
    }


def pretty_payload(item: Json) -> str:
    """For people, in Docker's order (docker/cli, cli/command/secret/formatter.go)."""
    spec = item["Spec"]
    labels = spec.get("Labels") or {}
    kept = ", ".join(str(number) for number in item.get("DataVersions") or ())
    lines = [
        _line("ID", item["ID"]),
        _line("Name", spec["Name"]),
        "Labels:",
        *(f" - {key}={labels[key]}" for key in sorted(labels)),
        _line("Created at", item["CreatedAt"]),
        _line("Updated at", item["UpdatedAt"]),
        _line("Version", str(item.get("DataVersion", ""))),
        _line("Kept versions", kept),
    ]
    if "Data" in spec:
        data = base64.b64decode(spec["Data"])
        lines += ["Data:", data.decode(errors="replace")]
    return "\n".join(lines)


def _line(label: str, value: str) -> str:
    return f"{label + ':':<{LABEL_WIDTH}} {value}".rstrip()
