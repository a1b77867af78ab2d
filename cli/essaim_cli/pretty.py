"""`inspect --pretty`: what a person wants to know of an object, in Docker's order. Pure."""

from collections.abc import Iterable
from typing import Any

from essaim_cli.units import human_size

LABEL_WIDTH = 16


def pretty_node(item: Any, figures: Any | None) -> str:
    spec, status, described = item["Spec"], item["Status"], item["Description"]
    resources = described["Resources"]
    lines = [
        *_line("ID", item["ID"]),
        *_labels(spec.get("Labels")),
        *_line("Hostname", described["Hostname"]),
        *_line("Joined at", item["CreatedAt"]),
        "Status:",
        *_line(" State", status["State"].capitalize()),
        *_line(" Message", status.get("Message", "")),
        *_line(" Availability", spec["Availability"].capitalize()),
        *_line(" Address", status["Addr"]),
        *_manager(item.get("ManagerStatus")),
        "Platform:",
        *_line(" Operating System", described["Platform"]["OS"]),
        *_line(" Architecture", described["Platform"]["Architecture"]),
        "Resources:",
        *_line(" CPUs", f"{resources['NanoCPUs'] / 1e9:g}"),
        *_line(" Memory", human_size(resources["MemoryBytes"])),
        *_generic_resources(resources.get("GenericResources") or ()),
        *_used(figures),
        *_plugins(described["Engine"].get("Plugins") or ()),
        *_line("Engine Version", described["Engine"]["EngineVersion"]),
        *_labels(described["Engine"].get("Labels"), "Engine Labels:"),
    ]
    return "\n".join(lines)


def _plugins(plugins: Any) -> list[str]:
    """One line for each type, as Docker prints them."""
    by_type: dict[str, list[str]] = {}
    for plugin in plugins:
        by_type.setdefault(plugin["Type"], []).append(plugin["Name"])
    lines = [
        line for kind in sorted(by_type) for line in _line(f" {kind}", ", ".join(by_type[kind]))
    ]
    return ["Plugins:", *lines] if lines else []


def _generic_resources(resources: Any) -> list[str]:
    """Named units one by one, counted ones by their number."""
    units: dict[str, list[str]] = {}
    for resource in resources:
        unit = resource.get("NamedResourceSpec") or resource["DiscreteResourceSpec"]
        units.setdefault(unit["Kind"], []).append(str(unit["Value"]))
    return [line for kind in sorted(units) for line in _line(f" {kind}", ", ".join(units[kind]))]


def _line(label: str, value: object) -> Iterable[str]:
    return [f"{label + ':':<{LABEL_WIDTH}} {value}"] if value not in ("", None) else []


def _labels(labels: Any, heading: str = "Labels:") -> list[str]:
    return [heading, *(f" - {key}={labels[key]}" for key in sorted(labels))] if labels else []


def _manager(manager: Any) -> list[str]:
    if not manager:
        return []
    return [
        "Manager Status:",
        *_line(" Address", manager["Addr"]),
        *_line(" Raft Status", manager["Reachability"].capitalize()),
        *_line(" Leader", "Yes" if manager.get("Leader") else "No"),
    ]


def _used(figures: Any | None) -> list[str]:
    if not figures:
        return []
    return [
        "Used:",
        *_line(" CPU", f"{figures['cpu_percent']:.1f}% of {figures['cpu_count']} CPUs"),
        *_line(
            " Load", f"{figures['load_1']:.2f} {figures['load_5']:.2f} {figures['load_15']:.2f}"
        ),
        *_line(" Memory", _share(figures["memory_used_bytes"], figures["memory_total_bytes"])),
        *_line(" Disk", _share(figures["disk_used_bytes"], figures["disk_total_bytes"])),
        *_line(
            " Network",
            f"{human_size(figures['network_receive_bytes'])} in, "
            f"{human_size(figures['network_transmit_bytes'])} out",
        ),
    ]


def _share(used_bytes: int, total_bytes: int) -> str:
    percent = 100 * used_bytes / total_bytes if total_bytes else 0.0
    return f"{human_size(used_bytes)} of {human_size(total_bytes)} ({percent:.0f}%)"
