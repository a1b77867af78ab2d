"""What `essaim net doctor` shows: a table for each node, then what is wrong in words. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from essaim_cli.errors import CommandFailed
from essaim_cli.formatting import natural_key, table
from essaim_cli.units import human_duration

PROBE_HEADINGS = ("NETWORK", "PEER", "LATENCY", "MTU", "ASKED")
INDENT = "  "
ID_PREFIX_MIN = 4


def chosen(doctor: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The answer for some nodes, by hostname, id or the beginning of one; what concerns the whole
    cluster stays. Raises CommandFailed."""
    nodes = sorted(doctor["Nodes"], key=lambda node: natural_key(node["Hostname"]))
    if not names:
        return {**doctor, "Nodes": nodes}
    wanted: set[str] = set()
    for name in names:
        found = [node["ID"] for node in nodes if name in (node["Hostname"], node["ID"])]
        if not found and len(name) >= ID_PREFIX_MIN:
            found = [node["ID"] for node in nodes if node["ID"].startswith(name)]
        if len(found) != 1:
            reason = "no such node" if not found else f"{len(found)} nodes are called so"
            raise CommandFailed(f"{name}: {reason}: see `essaim node ls`")
        wanted.update(found)
    nodes = [node for node in nodes if node["ID"] in wanted]
    hostnames = {node["Hostname"] for node in nodes}
    findings = [one for one in doctor["Findings"] if not one["Node"] or one["Node"] in hostnames]
    is_healthy = not any(one["Level"] == "error" for one in findings) and not any(
        node.get("Differences") for node in nodes
    )
    return {**doctor, "Healthy": is_healthy, "Findings": findings, "Nodes": nodes}


def doctor_text(doctor: Mapping[str, Any]) -> str:
    parts = [_node_text(node) for node in doctor["Nodes"]]
    sentences = [*_differences(doctor["Nodes"]), *map(_finding, doctor["Findings"])]
    if sentences:
        parts.append("\n".join(sentences))
    if doctor["Healthy"]:
        parts.append(_summary(doctor))
    return "\n\n".join(parts)


def verdict(doctor: Mapping[str, Any]) -> str:
    """Why the command fails; empty when all is well."""
    if doctor["Healthy"]:
        return ""
    errors = sum(one["Level"] == "error" for one in doctor["Findings"])
    mended = sum(len(node.get("Differences", ())) for node in doctor["Nodes"])
    parts = [_count(errors, "error")] if errors else []
    if mended:
        parts.append(f"{_count(mended, 'difference')} mended in the last seconds")
    return f"the networks are not as they should be: {' and '.join(parts)}"


def stale_nodes(doctor: Mapping[str, Any], elapsed_s: float) -> list[str]:
    """Ready nodes of which something shown is older than that."""
    return [
        node["Hostname"]
        for node in doctor["Nodes"]
        if node["State"] == "ready" and not _is_fresh(node, elapsed_s)
    ]


def _is_fresh(node: Mapping[str, Any], elapsed_s: float) -> bool:
    ages = [node["ReportAge"], node.get("CheckAge")]
    if node.get("Probes"):
        ages.append(min(probe["Age"] for probe in node["Probes"]))
    return all(age is not None and age <= elapsed_s for age in ages)


def _node_text(node: Mapping[str, Any]) -> str:
    head = f"{node['Hostname']} ({node['Address']}, {node['State']})"
    if node["ReportAge"] is None:
        return f"{head}: no report"
    counts = ", ".join(
        _count(node[key], word)
        for key, word in (
            ("Networks", "network"),
            ("Endpoints", "endpoint"),
            ("Services", "service"),
        )
    )
    repairs = f"{_count(node['Repairs'], 'repair')}"
    if node["LastRepairAge"] is not None:
        repairs += f", the last {_ago(node['LastRepairAge'])}"
    compared = (
        "not compared yet" if node["CheckAge"] is None else f"compared {_ago(node['CheckAge'])}"
    )
    lines = [f"{head}: {counts}; {compared}; {repairs}"]
    probes = sorted(
        node["Probes"], key=lambda one: (natural_key(one["Network"]), natural_key(one["Peer"]))
    )
    if probes:
        shown = table(PROBE_HEADINGS, [_probe_row(probe) for probe in probes])
        lines += [INDENT + line for line in shown.splitlines()]
    return "\n".join(lines)


def _probe_row(probe: Mapping[str, Any]) -> tuple[str, ...]:
    latency = "no answer" if probe["Latency"] is None else f"{probe['Latency'] * 1000:.2f} ms"
    if probe["Misses"] > 1:
        latency += f" ({probe['Misses']} times)"
    mtu = "" if probe["Latency"] is None else f"{probe['MTU']} {_mtu_word(probe)}"
    return (probe["Network"], probe["Peer"], latency, mtu, _ago(probe["Age"]))


def _mtu_word(probe: Mapping[str, Any]) -> str:
    return "ok" if probe["IsMTUWhole"] else "lost"


def _differences(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"mended: {node['Hostname']}: {sentence}"
        for node in nodes
        for sentence in node.get("Differences", ())
    ]


def _finding(finding: Mapping[str, Any]) -> str:
    return f"{finding['Level']}: {finding['Text']}"


def _summary(doctor: Mapping[str, Any]) -> str:
    ready = sum(node["State"] == "ready" for node in doctor["Nodes"])
    ways = sum(len(node.get("Probes", ())) for node in doctor["Nodes"])
    counted = (
        f"{_count(ready, 'node')} ready",
        _count(len(doctor["Networks"]), "network"),
        f"{_count(ways, 'way')} between nodes tried",
    )
    return f"All is well: {', '.join(counted)}, no difference."


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _ago(age_s: float) -> str:
    return "now" if age_s < 1 else f"{human_duration(age_s).lower()} ago"
