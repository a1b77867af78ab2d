"""The JSON name of every field of the object model, written down one by one.

Docker's names cannot be derived: `NanoCPUs`, `DNSConfig`, `ID`, `TTY`, but `Id` in places. A
field that is missing here fails when its class is defined.
"""

DOCKER_NAMES: dict[str, str] = {
    "addresses": "Addresses",
    "address": "Addr",
    "aliases": "Aliases",
    "architecture": "Architecture",
    "args": "Args",
    "availability": "Availability",
    "backoff_max": "BackoffMax",
    "capability_add": "CapabilityAdd",
    "capability_drop": "CapabilityDrop",
    "command": "Command",
    "condition": "Condition",
    "constraints": "Constraints",
    "container": "ContainerSpec",
    "delay": "Delay",
    "dir": "Dir",
    "dns_config": "DNSConfig",
    "endpoint": "EndpointSpec",
    "env": "Env",
    "force_update": "ForceUpdate",
    "hostname": "Hostname",
    "hosts": "Hosts",
    "image": "Image",
    "init": "Init",
    "isolation": "Isolation",
    "labels": "Labels",
    "limits": "Limits",
    "max_attempts": "MaxAttempts",
    "max_replicas": "MaxReplicas",
    "memory_bytes": "MemoryBytes",
    "mode": "Mode",
    "name": "Name",
    "nameservers": "Nameservers",
    "nano_cpus": "NanoCPUs",
    "oom_score_adj": "OomScoreAdj",
    "open_stdin": "OpenStdin",
    "options": "Options",
    "os": "OS",
    "pids": "Pids",
    "placement": "Placement",
    "platforms": "Platforms",
    "read_only": "ReadOnly",
    "replicas": "Replicas",
    "replicated": "Replicated",
    "reservations": "Reservations",
    "resources": "Resources",
    "restart_policy": "RestartPolicy",
    "role": "Role",
    "runtime": "Runtime",
    "search": "Search",
    "stop_grace_period": "StopGracePeriod",
    "stop_signal": "StopSignal",
    "stop_when_cut_off": "StopWhenCutOff",
    "sysctls": "Sysctls",
    "task": "TaskTemplate",
    "tty": "TTY",
    "user": "User",
}


def docker_name(field: str) -> str:
    """For msgspec's `rename`. Raises KeyError for a field that has not been given a name."""
    return DOCKER_NAMES[field]
