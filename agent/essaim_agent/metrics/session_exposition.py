"""What the agent refused to obey, as Prometheus' text. Pure."""

from essaim_agent.metrics.prometheus_text import add_metric


def render_session(malformed_count: int, deposed_count: int) -> str:
    """Both count messages since the agent's start; neither changed anything on the node."""
    lines: list[str] = []
    for name, help_text, value in (
        ("malformed", "Bus messages that could not be understood.", malformed_count),
        ("deposed", "Orders and answers of masters that lead no more.", deposed_count),
    ):
        metric = f"essaim_agent_{name}_messages_total"
        add_metric(lines, metric, "counter", help_text, (f"{metric} {value}",))
    return "\n".join(lines) + "\n"
