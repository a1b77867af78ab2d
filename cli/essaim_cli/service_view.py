"""How services, their history and their runs are listed. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from essaim_cli.formatting import Row, short_id
from essaim_cli.task_view import ago, parse_time, shown_image
from essaim_cli.units import human_duration

Json = Mapping[str, Any]

SERVICE_COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Mode": "MODE",
    "Replicas": "REPLICAS",
    "Image": "IMAGE",
    "Ports": "PORTS",
}
HISTORY_COLUMNS = {
    "ID": "REVISION",
    "Image": "IMAGE",
    "CreatedAt": "CREATED",
    "Current": "CURRENT",
}
RUN_COLUMNS = {
    "ID": "RUN",
    "Scheduled": "SCHEDULED",
    "Started": "STARTED",
    "Duration": "DURATION",
    "Outcome": "OUTCOME",
    "Reason": "REASON",
}

_MODES = {
    "Global": "global",
    "Replicated": "replicated",
    "ReplicatedJob": "replicated job",
    "GlobalJob": "global job",
}


def service_row(item: Json) -> dict[str, str]:
    spec = item["Spec"]
    return {
        "ID": short_id(item["ID"], no_trunc=False),
        "Name": spec["Name"],
        "Mode": shown_mode(spec),
        "Replicas": _replicas(spec, item.get("ServiceStatus") or {}),
        "Image": shown_image(spec["TaskTemplate"]["ContainerSpec"]["Image"]),
        "Ports": shown_ports((item.get("Endpoint") or {}).get("Ports") or ()),
    }


def shown_mode(spec: Json) -> str:
    """Docker's words; a job with a schedule is a cron job."""
    if spec.get("Schedule"):
        return "cron"
    return next((words for key, words in _MODES.items() if key in spec["Mode"]), "")


def _replicas(spec: Json, status: Json) -> str:
    running = status.get("RunningTasks", 0)
    desired = status.get("DesiredTasks", 0)
    completed = status.get("CompletedTasks", 0)
    shown = f"{running}/{desired}"
    mode = spec["Mode"]
    if "ReplicatedJob" in mode:
        total = (mode["ReplicatedJob"] or {}).get("TotalCompletions", 1)
        return f"{shown} ({completed}/{total} completed)"
    if "GlobalJob" in mode:
        # What is still desired has not completed: together they are all.
        return f"{shown} ({completed}/{desired + completed} completed)"
    per_node = (spec["TaskTemplate"].get("Placement") or {}).get("MaxReplicas")
    if per_node and "Replicated" in mode:
        return f"{shown} (max {per_node} per node)"
    return shown


def shown_ports(ports: Sequence[Json]) -> str:
    """Ports on the ingress network, with neighbours drawn together: `*:80-81->80/tcp`.

    Docker's rule: a range goes on while the published port grows by one at most and so does the
    target; a range of targets is not joined by a target that it holds already.
    """
    ranges: list[_PortRange] = []
    ordered = sorted(ports, key=lambda port: (_protocol(port), port.get("PublishedPort", 0)))
    for port in ordered:
        if port.get("PublishMode", "ingress") != "ingress" or not port.get("PublishedPort"):
            continue
        if not (ranges and ranges[-1].takes(port)):
            ranges.append(_PortRange(port))
        ranges[-1].grow_to(port)
    return ", ".join(map(str, ranges))


class _PortRange:
    def __init__(self, port: Json) -> None:
        self._protocol = _protocol(port)
        self._published = [int(port["PublishedPort"])] * 2
        self._targets = [int(port["TargetPort"])] * 2

    def takes(self, port: Json) -> bool:
        target = int(port["TargetPort"])
        is_target_range = self._targets[0] != self._targets[1]
        return (
            _protocol(port) == self._protocol
            and int(port["PublishedPort"]) - self._published[1] <= 1
            and 0 <= target - self._targets[1] <= 1
            and not (is_target_range and target <= self._targets[1])
        )

    def grow_to(self, port: Json) -> None:
        self._published[1] = int(port["PublishedPort"])
        self._targets[1] = int(port["TargetPort"])

    def __str__(self) -> str:
        return f"*:{_span(self._published)}->{_span(self._targets)}/{self._protocol}"


def _span(ends: Sequence[int]) -> str:
    first, last = ends
    return str(first) if first == last else f"{first}-{last}"


def _protocol(port: Json) -> str:
    return str(port.get("Protocol", "tcp"))


def history_row(revision: Json, now: datetime) -> Row:
    image = revision["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
    return {
        "ID": str(revision["Revision"]),
        "Image": shown_image(image),
        "CreatedAt": ago(revision["CreatedAt"], now),
        "Current": "*" if revision.get("Current") else "",
    }


def run_row(run: Json, now: datetime) -> Row:
    started, finished = run.get("StartedAt"), run.get("FinishedAt")
    duration = ""
    if started:
        end = parse_time(finished) if finished else now
        duration = human_duration((end - parse_time(started)).total_seconds())
    return {
        "ID": str(run["JobIteration"]["Index"]),
        "Scheduled": parse_time(run["ScheduledAt"]).strftime("%Y-%m-%d %H:%M:%S"),
        "Started": ago(started, now) if started else "",
        "Duration": duration,
        "Outcome": str(run["Outcome"]).capitalize(),
        "Reason": run.get("Reason", ""),
    }
