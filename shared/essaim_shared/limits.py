"""Every bound that more than one process must agree on, with its unit in its name."""

BUS_CHUNK_BYTES_MAX = 256 * 1024
"""Full sets and snapshots are cut at this size; NATS refuses messages over 1 MiB."""

BUS_MESSAGE_BYTES_MAX = 1024 * 1024

HTTP_BODY_BYTES_MAX = 1536 * 1024
"""Largest request body: one transaction's worth (etcd's limit for a request is 1.5 MiB too)."""

TRANSACTION_OPERATIONS_MAX = 128
TRANSACTION_BYTES_MAX = 1536 * 1024

KV_IN_FLIGHT_MAX = 1024
"""Requests of one key-value client without an answer; also how far their numbers may lie apart."""

REPLICAS_MAX = 100_000
"""Per service. Refused above, so that a slip of the finger cannot fill the state."""

REVISIONS_KEPT = 10
"""Specs in a service's history, the present one included."""

SPEC_BYTES_MAX = 128 * 1024
"""Of one service's spec, packed. A change writes up to four of them in one transaction: the
present and the previous one in the service, and two into its history."""

NAME_LENGTH_MAX = 63
"""Service names become DNS labels (RFC 1035, 2.3.4)."""

HEARTBEAT_PERIOD_S = 1.0
HEARTBEAT_TIMEOUT_S = 0.6
"""A beat unanswered for this long is a miss; two misses in a row change the bus server."""
HEARTBEAT_MISSES_MAX = 2
NODE_SILENCE_MAX_S = 4.0
"""A node that was silent for this long is down."""

FIGURES_PERIOD_S = 5.0

TASK_HISTORY_PER_SLOT = 5

STOP_GRACE_PERIOD_DEFAULT_NS = 10 * 1_000_000_000
UPDATE_MONITOR_DEFAULT_NS = 5 * 1_000_000_000
RESTART_DELAY_DEFAULT_NS = 5 * 1_000_000_000
RESTART_BACKOFF_MAX_DEFAULT_NS = 300 * 1_000_000_000

STATUS_ERROR_CHARS_MAX = 512
"""Longer error texts of a task are cut: they travel with every status."""

UPDATE_PARALLELISM_DEFAULT = 1
UPDATE_PROGRESS_DEADLINE_DEFAULT_NS = 600 * 1_000_000_000

DRAIN_BARRIER_S = 2.0
"""A stop is ordered once every live node has taken the task out of its balancing, or after this."""
DRAIN_CONNECTIONS_S = 5.0
"""So long at most a task that is to be stopped goes on serving the connections it has."""

INGRESS_PORT_FIRST, INGRESS_PORT_LAST = 30_000, 32_767
"""Where the cluster chooses published ports, for each protocol."""

SECRETS_MAX = 1_000
CONFIGS_MAX = 1_000
SECRET_BYTES_MAX = 500 * 1024 - 1
"""Of one secret's data (swarmkit api/validation/secrets.go), as the next."""
CONFIG_BYTES_MAX = 1000 * 1024 - 1
"""In base64, with its labels, it fits a request; packed, with what goes along, a transaction."""
PAYLOADS_BYTES_MAX = 64 * 1024 * 1024
"""Of the data of all secrets and configs together: every master holds it in memory."""
DATA_NUMBERS_KEPT = 10
"""Of one secret or config, the newest included; older data goes unless something refers to it."""
DATA_NUMBERS_MAX = 32
"""With those that something still refers to; new data beyond is refused."""
SERVICE_PAYLOADS_MAX = 40
"""Secrets and configs of one service: a change guards three keys for each in one transaction."""
STACK_BODY_BYTES_MAX = 8 * 1024 * 1024
"""A stack is one request, with the data of its secrets and configs in base64."""

NETWORKS_MAX = 1_000
ALIASES_MAX = 32
"""Of one service on one network."""
SERVICE_NETWORKS_MAX = 16
INGRESS_PORTS_MAX = 50
"""Of one service. A change releases so many and claims so many in one transaction, beside the
service, its history and the marks of its networks."""
NETWORK_PROBES_MAX = 16
"""In one report of a node."""
REPORTED_DIFFERENCES_MAX = 16
REPORTED_SENTENCE_CHARS_MAX = 400
NETWORK_REPORT_PERIOD_S = 5.0
NETWORK_PROBE_MISSES_MAX = 2
"""So many questions in a row without an answer are a problem; one may be chance."""

SERVICES_MAX = 10_000
NODES_MAX = 5_000
USERS_MAX = 1_000
USER_TOKENS_MAX = 16
"""Of one user."""
AUDIT_RECORDS_MAX = 10_000
"""The newest are kept."""
