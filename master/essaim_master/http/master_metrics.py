"""The master's own metrics as Prometheus' text (exposition format 0.0.4)."""

from collections import Counter
from collections.abc import Mapping

from essaim_master.state.cluster import LeadershipView
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.task_state import TaskState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NODE_STATES = ("unknown", "ready", "down")


def master_metrics(state: ClusterState, leadership: LeadershipView) -> str:
    return "".join(
        (
            _gauge("raft_term", "Current Raft term.", leadership.term),
            _gauge("raft_is_leader", "1 on the master that leads.", leadership.role == "leader"),
            _gauge("raft_has_leader", "1 if a leader is known.", leadership.leader is not None),
            _gauge("raft_commit_index", "Highest committed entry.", leadership.commit_index),
            _gauge("raft_applied_index", "Highest applied entry.", leadership.applied_index),
            _gauge("raft_last_index", "Highest entry in the log.", leadership.last_index),
            _gauge("state_revision", "Global revision of the state.", state.revision),
            _gauge("services", "Services.", len(state.services)),
            _family("tasks", "Tasks by observed state.", "state", _task_counts(state)),
            _family("nodes", "Nodes by state.", "state", _node_counts(state)),
        )
    )


def _task_counts(state: ClusterState) -> Mapping[str, int]:
    counts = Counter(state.observed(task_id) for task_id in state.tasks)
    return {seen.docker_name: counts[seen] for seen in TaskState}


def _node_counts(state: ClusterState) -> Mapping[str, int]:
    counts: Counter[str] = Counter(status.state for status in state.node_status.values())
    return {name: counts[name] for name in _NODE_STATES}


def _gauge(name: str, help_text: str, value: int) -> str:
    return f"{_heading(name, help_text)}essaim_master_{name} {int(value)}\n"


def _family(name: str, help_text: str, label: str, values: Mapping[str, int]) -> str:
    samples = "".join(
        f'essaim_master_{name}{{{label}="{key}"}} {value}\n' for key, value in values.items()
    )
    return _heading(name, help_text) + samples


def _heading(name: str, help_text: str) -> str:
    return f"# HELP essaim_master_{name} {help_text}\n# TYPE essaim_master_{name} gauge\n"
