"""What of a task a plain process can have, and the words for what it cannot: pure."""

from collections.abc import Mapping
from typing import Final

from msgspec import UNSET

from essaim_agent.docker_resources import generic_resource_env
from essaim_agent.executor import ExecutorError
from essaim_shared.container_spec import ContainerSpec, DnsConfig, HealthConfig, Privileges
from essaim_shared.objects import Task
from essaim_shared.spec import Limits, LogDriver, Resources

REFUSED: Final[Mapping[str, str]] = {
    "user": "run as another user",
    "groups": "be given groups",
    "sysctls": "have sysctls of its own",
    "capability_add": "be given capabilities",
    "capability_drop": "be stripped of capabilities",
    "privileges": "be confined",
    "privileged": "be privileged",
    "security_options": "have security options",
    "devices": "be given devices",
    "read_only": "have a read-only file system",
    "mounts": "have mounts",
    "secrets": "be given secrets: it has no mounts",
    "configs": "be given configs: it has no mounts",
    "shm_size": "have a shared memory of its own",
    "ulimits": "have ulimits of its own",
    "pid_mode": "choose its PID namespace",
    "ipc_mode": "choose its IPC namespace",
    "cgroup_parent": "have a cgroup of its own",
    "hosts": "have a hosts file of its own",
    "dns_config": "have name servers of its own",
    "tty": "have a terminal",
    "open_stdin": "have an open standard input",
    "hostname": "have a host name of its own",
    "init": "have an init of its own",
    "oom_score_adj": "have an OOM score of its own",
    "healthcheck": "have a health check: give it probes",
}
"""Fields of ContainerSpec."""

REFUSED_RESOURCES: Final[Mapping[str, str]] = {
    "limits": "be limited: it has no cgroup",
    "swap_bytes": "have a limit of swap: it has no cgroup",
    "memory_swappiness": "have a swappiness of its own: it has no cgroup",
}
"""Fields of Resources."""

_NOTHING: Final[tuple[object, ...]] = (
    None,
    UNSET,
    (),
    {},
    "",
    0,
    # `docker` sends an empty DNSConfig with every service: nothing was asked for.
    DnsConfig(),
    Privileges(),
    HealthConfig(),
    HealthConfig(test=("NONE",)),
)


def check(task: Task) -> None:
    """Raise ExecutorError for the first thing that a process cannot have, or if there is none to
    run."""
    spec = task.spec
    for field, words in REFUSED.items():
        if getattr(spec.container, field) not in _NOTHING:
            raise _cannot(words)
    for field, words in REFUSED_RESOURCES.items():
        # Not as above: no swap at all is a limit too.
        if getattr(spec.resources or Resources(), field) not in (None, Limits()):
            raise _cannot(words)
    if spec.log_driver not in (None, LogDriver()):
        raise _cannot("have a log driver: its output goes to a file")
    command_of(spec.container)


def command_of(container: ContainerSpec) -> tuple[str, ...]:
    """The command line of a task. Raises ExecutorError."""
    command = (*container.command, *container.args)
    if not command:
        raise ExecutorError("a task on the process executor needs a command")
    return command


def environment_of(task: Task) -> dict[str, str]:
    """What the service and the scheduler put into the environment."""
    items = (*task.spec.container.env, *generic_resource_env(task.generic_resources))
    return dict(item.partition("=")[::2] for item in items)


def _cannot(words: str) -> ExecutorError:
    return ExecutorError(f"a task on the process executor cannot {words}")
