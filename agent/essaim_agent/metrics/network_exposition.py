"""The health of the node's networks, as Prometheus' text. Pure."""

from collections.abc import Collection, Mapping

from essaim_agent.metrics.prometheus_text import add_metric, label_text
from essaim_agent.network_health.checked import Checked
from essaim_shared.ids import NetworkId
from essaim_shared.messages import NetworkProbe, NodeNetwork


def render_network(
    checked: Checked,
    repairs: int,
    dns_answers: int,
    networks: Mapping[NetworkId, NodeNetwork],
    probes: Collection[NetworkProbe],
) -> str:
    lines: list[str] = []
    for name, kind, help_text, value in (
        ("network_repairs_total", "counter", "Differences that were mended.", repairs),
        (
            "network_differences",
            "gauge",
            "Differences that the last comparison of the tables found.",
            len(checked.mended) + len(checked.problems),
        ),
        ("network_connections", "gauge", "Flows that the kernel tracks.", checked.connections),
        ("dns_answers_total", "counter", "Answers of the node's name server.", dns_answers),
    ):
        metric = f"essaim_{name}"
        add_metric(lines, metric, kind, help_text, (f"{metric} {value}",))
    metric = "essaim_network_probe_latency_seconds"
    rows = [
        f"{metric}{{{_labels(probe, networks)}}} {probe.latency_us / 1e6:.6f}"
        for probe in probes
        if probe.latency_us
    ]
    add_metric(lines, metric, "gauge", "Last echo of another node's bridge.", rows)
    metric = "essaim_network_probe_misses"
    rows = [f"{metric}{{{_labels(probe, networks)}}} {probe.misses}" for probe in probes]
    add_metric(lines, metric, "gauge", "Echoes in a row that did not come.", rows)
    return "\n".join(lines) + "\n"


def _labels(probe: NetworkProbe, networks: Mapping[NetworkId, NodeNetwork]) -> str:
    network = networks.get(probe.network_id)
    name = network.name if network is not None else probe.network_id
    return label_text((("network", name), ("peer", probe.node_address)))
