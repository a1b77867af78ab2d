"""Flags of the container: its process, files, network and rights."""

from pathlib import Path
from typing import Any

from essaim_cli.flag_kinds import CLEARED, CREATE, Flag, Items, Refused, Switch, Value
from essaim_cli.grammar import containers, environment, ports, references
from essaim_cli.grammar.fields import pair, pair_key, whole_number
from essaim_cli.grammar.mounts import parse_mount
from essaim_cli.service_flags.paths import CONTAINER, DURATION, TEMPLATE
from essaim_cli.units import parse_duration, parse_size


def _word(text: str) -> list[str]:
    if not text.strip():
        raise ValueError("value is empty")
    return [text]


def _mount(text: str) -> list[dict[str, Any]]:
    return parse_mount(text, str(Path.cwd()))


def _oom_score(text: str) -> int:
    return whole_number(text, -1000, 1000)


def _isolation(text: str) -> str:
    if text not in ("", "default"):
        raise ValueError("isolation technologies exist on Windows only; nodes run Linux")
    return text


def _affinity(text: str) -> Any:
    return CLEARED if text == "none" else text


def _published_range(items: list[Any], removal: Any) -> list[Any]:
    return [port for port in items if not ports.is_unpublished_by(port, removal)]


PROCESS: tuple[Flag, ...] = (
    Items(
        name="env",
        short="e",
        noun="environment variable",
        parse=environment.parse_variable,
        identity=environment.variable_name,
        path=f"{CONTAINER}.Env",
        metavar="KEY[=VALUE]",
    ),
    Value(
        name="env-file",
        help="File of environment variables.",
        metavar="FILE",
        is_repeated=True,
        on=(CREATE,),
    ),
    Value(
        name="entrypoint",
        parse=containers.parse_words,
        path=f"{CONTAINER}.Command",
        metavar="COMMAND",
        help="Replace the image's entry point.",
    ),
    Value(name="workdir", short="w", path=f"{CONTAINER}.Dir", metavar="DIR", help="Directory."),
    Value(
        name="user",
        short="u",
        path=f"{CONTAINER}.User",
        metavar="USER[:GROUP]",
        help="User to run as.",
    ),
    Items(
        name="group",
        noun="supplementary group",
        parse=_word,
        path=f"{CONTAINER}.Groups",
        metavar="GROUP",
        removal_metavar="GROUP",
    ),
    Value(name="hostname", path=f"{CONTAINER}.Hostname", help="Host name; may hold a template."),
    Switch(name="tty", short="t", path=f"{CONTAINER}.TTY", help="Allocate a pseudo-terminal."),
    Switch(name="read-only", path=f"{CONTAINER}.ReadOnly", help="Root file system read-only."),
    Switch(name="init", path=f"{CONTAINER}.Init", help="Run an init that reaps processes."),
    Items(
        name="container-label",
        noun="container label",
        parse=pair,
        identity=pair_key,
        path=f"{CONTAINER}.Labels",
        is_map=True,
        metavar="KEY=VALUE",
    ),
    Value(
        name="stop-grace-period",
        parse=parse_duration,
        path=f"{CONTAINER}.StopGracePeriod",
        metavar=DURATION,
        help="Between stop signal and kill (default 10s).",
    ),
    Value(
        name="stop-signal",
        path=f"{CONTAINER}.StopSignal",
        metavar="SIGNAL",
        help="Signal that stops the container.",
    ),
    Value(
        name="pre-stop",
        parse=containers.parse_command,
        path=f"{CONTAINER}.PreStop",
        metavar="COMMAND",
        help="Essaim: run in the container before the stop signal.",
        can_clear=True,
    ),
)

FILES: tuple[Flag, ...] = (
    Items(
        name="mount",
        noun="mount",
        parse=_mount,
        identity=lambda mount: str(mount["Target"]),
        path=f"{CONTAINER}.Mounts",
        duplicate="duplicate mount point",
        metavar="type=…,source=…,target=…",
        removal_metavar="TARGET",
    ),
    Items(
        name="secret",
        noun="secret",
        parse=references.parse_secret,
        identity=references.secret_identity,
        path=f"{CONTAINER}.Secrets",
        metavar="NAME",
        removal_metavar="NAME",
    ),
    Items(
        name="config",
        noun="config",
        parse=references.parse_config,
        identity=references.config_identity,
        path=f"{CONTAINER}.Configs",
        metavar="NAME",
        removal_metavar="NAME",
    ),
)

NETWORKING: tuple[Flag, ...] = (
    Items(
        name="publish",
        short="p",
        noun="published port",
        parse=ports.parse_publish,
        identity=ports.port_identity,
        path="EndpointSpec.Ports",
        metavar="[PUBLISHED:]TARGET[/PROTOCOL]|target=…,published=…,protocol=…,mode=ingress|host",
        removal_metavar="TARGET",
        parse_removal=ports.parse_published,
        remove=_published_range,
    ),
    Value(
        name="endpoint-mode",
        path="EndpointSpec.Mode",
        choices=("vip", "dnsrr"),
        help="How the name resolves (default vip).",
    ),
    Value(
        name="session-affinity",
        parse=_affinity,
        path="EndpointSpec.Affinity",
        choices=("client-ip", "none"),
        help="Essaim: connections of one client address go to the same task.",
        can_clear=True,
    ),
    Switch(
        name="publish-force",
        path="EndpointSpec.ForcePorts",
        help="Essaim: publish also ports that nodes listen on, and Essaim's own.",
    ),
    Items(
        name="network",
        noun="network",
        parse=references.parse_network,
        identity=references.network_identity,
        path=f"{TEMPLATE}.Networks",
        metavar="NAME|name=…,alias=…,driver-opt=…",
        removal_metavar="NAME",
    ),
    Items(
        name="dns",
        noun="name server",
        parse=containers.parse_address,
        path=f"{CONTAINER}.DNSConfig.Nameservers",
        metavar="ADDRESS",
        removal_metavar="ADDRESS",
    ),
    Items(
        name="dns-option",
        noun="resolver option",
        parse=_word,
        path=f"{CONTAINER}.DNSConfig.Options",
        removal_metavar="TEXT",
    ),
    Items(
        name="dns-search",
        noun="search domain",
        parse=_word,
        path=f"{CONTAINER}.DNSConfig.Search",
        removal_metavar="TEXT",
    ),
    Items(
        name="host",
        noun="line for /etc/hosts",
        parse=containers.parse_host_line,
        path=f"{CONTAINER}.Hosts",
        metavar="HOST:IP",
        removal_metavar="HOST[:IP]",
        remove=containers.without_host,
    ),
)

SECURITY: tuple[Flag, ...] = (
    Value(
        name="cap-add",
        parse=containers.parse_capability,
        metavar="CAPABILITY",
        help="Linux capability to add.",
        is_repeated=True,
    ),
    Value(
        name="cap-drop",
        parse=containers.parse_capability,
        metavar="CAPABILITY",
        help="Linux capability to drop.",
        is_repeated=True,
    ),
    Items(
        name="sysctl",
        noun="kernel parameter",
        parse=pair,
        identity=pair_key,
        path=f"{CONTAINER}.Sysctls",
        is_map=True,
        metavar="KEY=VALUE",
    ),
    Items(
        name="ulimit",
        noun="ulimit",
        parse=containers.parse_ulimit,
        identity=lambda ulimit: str(ulimit["Name"]),
        path=f"{CONTAINER}.Ulimits",
        metavar="NAME=SOFT[:HARD]",
        removal_metavar="NAME",
    ),
    Value(
        name="oom-score-adj",
        parse=_oom_score,
        path=f"{CONTAINER}.OomScoreAdj",
        metavar="-1000…1000",
        help="The host's OOM preference.",
    ),
    Items(
        name="device",
        noun="Essaim: device of the node",
        parse=containers.parse_device,
        identity=containers.device_identity,
        path=f"{CONTAINER}.Devices",
        duplicate="duplicate device",
        metavar="/dev/HOST[:/dev/INSIDE][:rwm]",
        removal_metavar="/dev/INSIDE",
    ),
    Switch(
        name="privileged", path=f"{CONTAINER}.Privileged", help="Essaim: all rights on the node."
    ),
    Items(
        name="security-opt",
        noun="Essaim: security option, as of docker run",
        parse=_word,
        path=f"{CONTAINER}.SecurityOpt",
        removal_metavar="TEXT",
    ),
    Value(
        name="shm-size",
        parse=parse_size,
        path=f"{CONTAINER}.ShmSize",
        metavar="BYTES",
        help="Essaim: size of /dev/shm (default 64m).",
        can_clear=True,
    ),
    Value(
        name="pid",
        path=f"{CONTAINER}.PidMode",
        choices=("host",),
        help="Essaim: PID namespace.",
        can_clear=True,
    ),
    Value(
        name="ipc",
        path=f"{CONTAINER}.IpcMode",
        choices=("private", "shareable", "host", "none"),
        help="Essaim: IPC namespace.",
        can_clear=True,
    ),
    Value(
        name="cgroup-parent",
        path=f"{CONTAINER}.CgroupParent",
        help="Essaim: parent control group.",
        can_clear=True,
    ),
    Refused(
        name="credential-spec",
        reason="credential specs are for managed service accounts of Windows; nodes run Linux",
    ),
    Value(
        name="isolation",
        parse=_isolation,
        path=f"{CONTAINER}.Isolation",
        metavar="default",
        help="For Windows: only default is accepted.",
    ),
)
