"""The master's own metrics as Prometheus' text (exposition format 0.0.4).

What each one means to an operator stands in docs/reference/metrics.md: a test compares the two.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from essaim_master.http.raft_view import Inside
from essaim_master.raft_metrics import SYNC_BUCKETS_S, SyncFigures
from essaim_master.state.cluster import LeadershipView
from essaim_master.state.cluster_state import ClusterState
from essaim_shared.task_state import TaskState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NODE_STATES = ("unknown", "ready", "down")
_ROLES = ("follower", "pre_candidate", "candidate", "leader")


def master_metrics(
    state: ClusterState,
    leadership: LeadershipView,
    inside: Inside | None,
    watchers: int,
    refused: Mapping[str, int],
) -> str:
    return "".join(
        (
            _gauge("raft_term", "Current Raft term.", leadership.term),
            _gauge("raft_is_leader", "1 on the master that leads.", leadership.role == "leader"),
            _gauge("raft_has_leader", "1 if a leader is known.", leadership.leader is not None),
            _family("raft_role", "1 for the present role.", "role", _one_hot(leadership.role)),
            _gauge("raft_commit_index", "Highest committed entry.", leadership.commit_index),
            _gauge("raft_applied_index", "Highest applied entry.", leadership.applied_index),
            _gauge("raft_last_index", "Highest entry in the log.", leadership.last_index),
            _gauge("state_revision", "Global revision of the state.", state.revision),
            _gauge("state_keys_bytes", "Size of all keys and values.", state.store.size_bytes),
            _gauge("state_quota_bytes", "Bound of that size.", state.store.quota_bytes),
            _gauge("watchers", "Clients that watch keys.", watchers),
            _refusals(refused),
            _gauge("services", "Services.", len(state.services)),
            _family("tasks", "Tasks by observed state.", "state", _task_counts(state)),
            _family("nodes", "Nodes by state.", "state", _node_counts(state)),
            "" if inside is None else _inside_metrics(state, inside),
        )
    )


def _inside_metrics(state: ClusterState, inside: Inside) -> str:
    status, figures, lag = inside.node.status(), inside.node.metrics(), inside.loop_lag
    configuration = status.configuration
    queues = {
        "inbox": figures.inbox_messages,
        "proposals": figures.proposals_pending,
        "foreign_proposals": figures.proposals_foreign,
        "writes": figures.writes_waiting,
        "applies": figures.applies_waiting,
    }
    matches: dict[str, int] = {name: one.match for name, one in status.progress.items()}
    return "".join(
        (
            _counter("raft_leader_changes_total", "Leaders seen.", figures.leader_changes),
            _gauge("raft_voters", "Masters that vote.", len(configuration.voters)),
            _gauge("raft_learners", "Masters that learn.", len(configuration.learners)),
            _family("raft_match_index", "On a follower's disk.", "member", matches),
            _family("raft_queue_length", "What waits, by queue.", "queue", queues),
            _sync_histogram(figures.sync),
            _gauge("raft_snapshot_index", "Newest snapshot.", figures.snapshot_index),
            _gauge("raft_snapshot_seconds", "Its duration.", figures.snapshot_last_s),
            _gauge("raft_snapshot_bytes", "Its size.", figures.snapshot_last_bytes),
            _counter("raft_snapshots_made_total", "Snapshots made.", figures.snapshots_made),
            _counter("raft_snapshots_sent_total", "Snapshots sent.", figures.snapshots_sent),
            _counter("raft_snapshots_received_total", "Received.", figures.snapshots_received),
            _gauge("raft_log_disk_bytes", "Size of the log's files.", figures.log_disk_bytes),
            _gauge("cluster_version", "What all masters speak.", state.cluster_version),
            _gauge("alarms", "Alarms; see `essaim raft status`.", len(inside.alarms)),
            _gauge("loop_lag_seconds", "Lateness of the event loop.", lag.last_s),
            _gauge("loop_lag_max_seconds", "The greatest since the start.", lag.max_s),
            _counter("loop_late_total", "Times it was over 50 ms late.", lag.late_count),
            _family(
                "refused_connections_total",
                "Turned away, by socket.",
                "socket",
                {name: one.count for name, one in inside.refusals.items()},
                "counter",
            ),
        )
    )


def _sync_histogram(sync: SyncFigures) -> str:
    name = "raft_sync_seconds"
    bounds: Iterable[tuple[str, int]] = [
        *(
            (f"{bound_s:g}", count)
            for bound_s, count in zip(SYNC_BUCKETS_S, sync.buckets, strict=True)
        ),
        ("+Inf", sync.count),
    ]
    buckets = "".join(
        f'essaim_master_{name}_bucket{{le="{bound}"}} {count}\n' for bound, count in bounds
    )
    return (
        f"{_heading(name, 'Writing and syncing a batch of the log.', 'histogram')}{buckets}"
        f"essaim_master_{name}_sum {_number(sync.sum_s)}\nessaim_master_{name}_count {sync.count}\n"
    )


def _one_hot(role: str) -> Mapping[str, int]:
    return {name: int(name == role) for name in _ROLES}


def _task_counts(state: ClusterState) -> Mapping[str, int]:
    counts = Counter(state.observed(task_id) for task_id in state.tasks)
    return {seen.docker_name: counts[seen] for seen in TaskState}


def _node_counts(state: ClusterState) -> Mapping[str, int]:
    counts: Counter[str] = Counter(status.state for status in state.node_status.values())
    return {name: counts[name] for name in _NODE_STATES}


def _refusals(refused: Mapping[str, int]) -> str:
    name = "requests_refused_total"
    samples = "".join(
        f'essaim_master_{name}{{reason="{reason}"}} {count}\n' for reason, count in refused.items()
    )
    return _heading(name, "Requests turned away.", "counter") + samples


def _gauge(name: str, help_text: str, value: float) -> str:
    return f"{_heading(name, help_text, 'gauge')}essaim_master_{name} {_number(value)}\n"


def _counter(name: str, help_text: str, value: int) -> str:
    return f"{_heading(name, help_text, 'counter')}essaim_master_{name} {value}\n"


def _family(
    name: str, help_text: str, label: str, values: Mapping[str, int], kind: str = "gauge"
) -> str:
    samples = "".join(
        f'essaim_master_{name}{{{label}="{key}"}} {value}\n' for key, value in values.items()
    )
    return _heading(name, help_text, kind) + samples


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.9g}"


def _heading(name: str, help_text: str, kind: str) -> str:
    return f"# HELP essaim_master_{name} {help_text}\n# TYPE essaim_master_{name} {kind}\n"
