"""From a task to the body of `POST /containers/create`: pure. The options are in files by theme:
mounts, what a container may do (`docker_security`), what it may use (`docker_resources`).

Its templates were filled in before (`task_templates`). What the engine's API does not know is an
ExecutorError; all else is left to the engine to judge, whose words the user sees.

Docker's own networking stands aside: the container is created with the host's network and the
runtime `essaim`, which puts it into the namespace prepared for it (see `shim/`). Only a task that
asked for the host's network gets that, with the ordinary runtime.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from essaim_agent.docker_mounts import engine_mounts
from essaim_agent.docker_resources import generic_resource_env, log_config, resources_config
from essaim_agent.docker_security import security_config
from essaim_agent.engine_facts import EngineFacts
from essaim_agent.executor import ExecutorError, Health, grace_period_s
from essaim_agent.network import is_on_host_network
from essaim_agent.payloads.references import file_mounts
from essaim_shared.container_spec import ContainerSpec, DnsConfig, HealthConfig
from essaim_shared.ids import TaskId, short_id
from essaim_shared.objects import Task

CLUSTER_LABEL = "io.essaim.cluster"
TASK_LABEL = "io.essaim.task"
RUNTIME = "essaim"
STOP_SIGNAL_DEFAULT = "SIGTERM"
NDOTS: Final = "ndots:0"
"""As Docker sets it on its own networks: a name without a dot, such as a service's, is asked for
as it stands before any search domain is tried."""
HEALTH_START_INTERVAL_SINCE: Final = (1, 44)


def container_name(task: Task) -> str:
    """`SERVICE.SLOT.TASKID`, as Docker Swarm names its containers."""
    return f"{task.name}.{task.id}"


def labels(task: Task, cluster_id: str) -> dict[str, str]:
    """The user's labels, then those by which tools of Docker Swarm and we know our containers."""
    return {
        **task.spec.container.labels,
        "com.docker.swarm.service.id": task.service_id,
        "com.docker.swarm.service.name": task.service_name,
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": task.id,
        "com.docker.swarm.task.name": f"{task.name}.{task.id}",
        "com.docker.swarm.node.id": task.node_id or "",
        CLUSTER_LABEL: cluster_id,
        TASK_LABEL: task.id,
    }


def extra_hosts(container: ContainerSpec, hostname: str, address: str) -> list[str]:
    """`NAME:ADDRESS` for each name. Never empty for a task with an address: Docker copies the
    host's own /etc/hosts into a container on the host's network that has none of its own."""
    entries = [f"{hostname}:{address}"] if address else []
    for line in container.hosts:
        words = line.split()
        if len(words) < 2:
            raise ExecutorError(f"invalid host entry {line!r}: want ADDRESS NAME")
        entries.extend(f"{name}:{words[0]}" for name in words[1:])
    return entries


def engine_sysctls(container: ContainerSpec) -> dict[str, str]:
    """Those that the engine sets; `net.*` belongs to the network namespace, which is ours."""
    return {name: value for name, value in container.sysctls.items() if not name.startswith("net.")}


def name_server_options(dns: DnsConfig, nameserver: str) -> tuple[list[str], list[str]]:
    """(servers, options) of the container's resolv.conf; both may be empty: the host's then.

    With a name server of the node's the container has only that one, which knows of services and
    asks the user's for the rest. Some C libraries ask all servers at once and take the first
    answer, and somebody else's answer about a service is that there is none.
    """
    if not nameserver:
        return list(dns.nameservers), list(dns.options)
    has_ndots = any(option.startswith("ndots:") for option in dns.options)
    return [nameserver], [*dns.options, *(() if has_ndots else (NDOTS,))]


def health_check(health: HealthConfig, engine: EngineFacts) -> dict[str, Any]:
    """`Config.Healthcheck`; what is empty is as the image says. Raises ExecutorError."""
    asked: dict[str, Any] = {
        "Test": list(health.test),
        "Interval": health.interval,
        "Timeout": health.timeout,
        "Retries": health.retries,
        "StartPeriod": health.start_period,
    }
    if health.start_interval:
        engine.require(HEALTH_START_INTERVAL_SINCE, "health-start-interval")
        asked["StartInterval"] = health.start_interval
    return asked


def create_body(
    task: Task,
    cluster_id: str,
    has_namespace: bool,
    image_stop_signal: str,
    engine: EngineFacts,
    nameserver: str = "",
    files: Path = Path("/"),
) -> dict[str, Any]:
    """The container of a task. `image_stop_signal` is the image's own, or empty; `nameserver`
    that of the task's network, or empty; below `files` are those of secrets and configs. Raises
    ExecutorError."""
    container = task.spec.container
    # The engine gives its host's name to a container on its host's network.
    own_name = "" if is_on_host_network(task) else short_id(task.id)
    hostname = container.hostname or own_name
    body: dict[str, Any] = {
        "Image": container.image,
        "Hostname": hostname,
        "Labels": labels(task, cluster_id),
        "Env": [*container.env, *generic_resource_env(task.generic_resources)],
        "WorkingDir": container.dir,
        "User": container.user,
        "Tty": container.tty,
        "OpenStdin": container.open_stdin,
        "StopSignal": container.stop_signal or image_stop_signal or STOP_SIGNAL_DEFAULT,
        "StopTimeout": round(grace_period_s(container)),
        "HostConfig": _host_config(task, hostname, has_namespace, engine, nameserver, files),
    }
    if container.command:
        body["Entrypoint"] = list(container.command)
    if container.args:
        body["Cmd"] = list(container.args)
    if container.healthcheck is not None:
        body["Healthcheck"] = health_check(container.healthcheck, engine)
    return body


def _host_config(
    task: Task,
    hostname: str,
    has_namespace: bool,
    engine: EngineFacts,
    nameserver: str,
    files: Path,
) -> dict[str, Any]:
    container = task.spec.container
    is_on_host = is_on_host_network(task)
    dns = container.dns_config or DnsConfig()
    nameservers, dns_options = name_server_options(dns, nameserver)
    address = task.attachments[0].address if task.attachments else ""
    config: dict[str, Any] = {
        "NetworkMode": "host" if has_namespace or is_on_host else "none",
        "RestartPolicy": {"Name": "no"},
        "ExtraHosts": extra_hosts(container, hostname, address),
        "Dns": nameservers,
        "DnsSearch": list(dns.search),
        "DnsOptions": dns_options,
        # The engine says why the host's network keeps its own.
        "Sysctls": dict(container.sysctls) if is_on_host else engine_sysctls(container),
        "Mounts": [
            *engine_mounts(container.mounts, engine),
            *file_mounts(container, task.id, files),
        ],
        "LogConfig": log_config(task.spec.log_driver, engine),
        **security_config(container),
        **resources_config(container, task.spec.resources),
    }
    if has_namespace:
        config["Runtime"] = RUNTIME
    if container.init is not None:
        config["Init"] = container.init
    return config


HEALTH_IN_STATUS = {
    "(health: starting)": Health.STARTING,
    "(healthy)": Health.HEALTHY,
    "(unhealthy)": Health.UNHEALTHY,
}


def health_of(listed_status: str) -> Health:
    """Of a container's `Status` in a list of containers: `Up 5 minutes (healthy)`."""
    for ending, health in HEALTH_IN_STATUS.items():
        if listed_status.endswith(ending):
            return health
    return Health.NONE


def is_health_check(test: tuple[str, ...]) -> bool:
    return bool(test) and test[0] != "NONE"


def has_health_check(container: ContainerSpec, image_has: bool) -> bool:
    """Whether the engine will run one: the task's, or without a word of it the image's."""
    if container.healthcheck is None or not container.healthcheck.test:
        return image_has
    return is_health_check(container.healthcheck.test)


def refusal_of(info: Mapping[str, Any], needs_runtime: bool) -> str | None:
    """Why an engine, by its `/info`, cannot run tasks; None when it can."""
    options = ",".join(info.get("SecurityOptions") or ())
    if "name=rootless" in options:
        return "a rootless engine cannot join network namespaces made by root: use a rootful one"
    if "name=userns" in options:
        return "userns-remap maps root away from the prepared network namespaces: turn it off"
    if needs_runtime and RUNTIME not in (info.get("Runtimes") or {}):
        return (
            f"the engine has no runtime {RUNTIME!r}: add essaim-runc to `runtimes` in its "
            "daemon.json and send it SIGHUP"
        )
    return None


def task_id_of(attributes: Mapping[str, str]) -> TaskId | None:
    """Of a container's labels, or of the attributes of an event, which hold them too."""
    task_id = attributes.get(TASK_LABEL)
    return TaskId(task_id) if task_id else None
