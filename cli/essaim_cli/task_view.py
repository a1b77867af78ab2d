"""How tasks are shown: `service ps` and `node ps` rows, history under its slot. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from essaim_cli.formatting import natural_key, short_id, truncate
from essaim_cli.units import human_duration

Json = Mapping[str, Any]

TASK_COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Image": "IMAGE",
    "Node": "NODE",
    "DesiredState": "DESIRED STATE",
    "CurrentState": "CURRENT STATE",
    "Error": "ERROR",
    "Ports": "PORTS",
}
ERROR_CHARS_MAX = 30
HISTORY_MARK = r" \_ "


def parse_time(text: str) -> datetime:
    """RFC 3339 with nanoseconds, which datetime does not read."""
    date, _, fraction = text.rstrip("Z").partition(".")
    microseconds = int(fraction[:6].ljust(6, "0")) if fraction else 0
    return datetime.fromisoformat(date).replace(microsecond=microseconds, tzinfo=UTC)


def ago(text: str, now: datetime) -> str:
    return f"{human_duration((now - parse_time(text)).total_seconds()).lower()} ago"


def shown_image(image: str) -> str:
    """Without the digest that pins a tag, and without Docker Hub's own name."""
    name, _, digest = image.partition("@")
    if digest and ":" not in name.rpartition("/")[2]:
        return image
    return name.removeprefix("docker.io/").removeprefix("library/")


def shown_task_ports(ports: Sequence[Json]) -> str:
    return ",".join(
        f"*:{port.get('PublishedPort', 0)}->{port['TargetPort']}/{port.get('Protocol', 'tcp')}"
        for port in ports
    )


def task_rows(
    tasks: Sequence[Json],
    names: Mapping[str, str],
    nodes: Mapping[str, str],
    now: datetime,
    no_trunc: bool,
    has_marks: bool = True,
) -> list[dict[str, str]]:
    """Rows in Swarm's order: by service and slot, the newest task first, older ones marked.

    `names`: service id → name; `nodes`: node id → host name; missing ones show their id. The
    marks are for tables only (docker/cli, command/task/formatter.go).
    """
    ordered = sorted(tasks, key=lambda task: str(task["CreatedAt"]), reverse=True)
    ordered.sort(key=lambda task: (natural_key(_slot_name(task, names)), not _current(task)))
    rows, previous = [], None
    for task in ordered:
        name = _slot_name(task, names)
        shown = HISTORY_MARK + name if has_marks and name == previous else name
        previous = name
        rows.append(_row(task, shown, nodes, now, no_trunc))
    return rows


def _current(task: Json) -> bool:
    return task["DesiredState"] in ("running", "ready", "complete")


def _slot_name(task: Json, names: Mapping[str, str]) -> str:
    service = names.get(task["ServiceID"], task["ServiceID"])
    return f"{service}.{task.get('Slot') or task.get('NodeID', '')}"


def _row(
    task: Json, name: str, nodes: Mapping[str, str], now: datetime, no_trunc: bool
) -> dict[str, str]:
    status = task["Status"]
    node_id = task.get("NodeID", "")
    error = status.get("Err", "")
    if error:
        error = f'"{error if no_trunc else truncate(error, ERROR_CHARS_MAX)}"'
    image = task["Spec"]["ContainerSpec"]["Image"]
    return {
        "ID": short_id(task["ID"], no_trunc),
        "Name": name,
        "Image": image if no_trunc else shown_image(image),
        "Node": nodes.get(node_id, node_id),
        "DesiredState": task["DesiredState"].capitalize(),
        "CurrentState": f"{status['State'].capitalize()} {ago(status['Timestamp'], now)}",
        "Error": error,
        "Ports": shown_task_ports((status.get("PortStatus") or {}).get("Ports") or ()),
    }
