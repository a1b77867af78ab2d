"""What the agent refused stands on its metrics page, in Prometheus' form."""

from essaim_agent.metrics.session_exposition import render_session


def test_each_count_has_a_head_and_one_sample() -> None:
    assert render_session(malformed_count=3, deposed_count=0).splitlines() == [
        "# HELP essaim_agent_malformed_messages_total Bus messages that could not be understood.",
        "# TYPE essaim_agent_malformed_messages_total counter",
        "essaim_agent_malformed_messages_total 3",
        "# HELP essaim_agent_deposed_messages_total "
        "Orders and answers of masters that lead no more.",
        "# TYPE essaim_agent_deposed_messages_total counter",
        "essaim_agent_deposed_messages_total 0",
    ]
