"""What a user asks of the container of a task: Docker's ContainerSpec, and what it lacks."""

from typing import Literal

from msgspec import UNSET, UnsetType

from essaim_shared.spec_base import Spec


class DnsConfig(Spec, frozen=True, kw_only=True):
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class HealthConfig(Spec, frozen=True, kw_only=True):
    """Docker's health check, run by the engine. While it is starting the task is STARTING; when
    it turns unhealthy the task has failed."""

    test: tuple[str, ...] = ()
    """`("CMD", ARG…)`, `("CMD-SHELL", LINE)`, `("NONE",)`; empty: as the image says."""
    interval: int = 0
    """Nanoseconds, as the other times; 0 takes the image's, else the engine's default."""
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


class ExecAction(Spec, frozen=True, kw_only=True):
    """A command run in the container; exit code 0 is success."""

    command: tuple[str, ...]


class HttpAction(Spec, frozen=True, kw_only=True):
    """A GET to the task's own address; a status from 200 to 399 is success."""

    port: int
    path: str = "/"
    headers: dict[str, str] = {}


class TcpAction(Spec, frozen=True, kw_only=True):
    """A connection to the task's own address that is accepted."""

    port: int


class Probe(Spec, frozen=True, kw_only=True):
    """How the agent asks a task how it is. Exactly one of the actions is given.

    The meaning of times and thresholds, and their defaults, are those of Kubernetes' probes.
    """

    exec_: ExecAction | None = None
    http: HttpAction | None = None
    tcp: TcpAction | None = None
    initial_delay: int = 0
    """Nanoseconds after the container's start before the first probe."""
    period: int = 10_000_000_000
    timeout: int = 1_000_000_000
    success_threshold: int = 1
    failure_threshold: int = 3


class Probes(Spec, frozen=True, kw_only=True):
    startup: Probe | None = None
    """Until it succeeds the task stays STARTING and the other probes wait; when it fails
    `failure_threshold` times the task has failed."""
    readiness: Probe | None = None
    """While it fails the task runs but is not ready: no traffic, and an update waits for it."""
    liveness: Probe | None = None
    """When it fails `failure_threshold` times in a row the task has failed."""


class BindOptions(Spec, frozen=True, kw_only=True):
    propagation: Literal["", "private", "rprivate", "shared", "rshared", "slave", "rslave"] = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class MountDriver(Spec, frozen=True, kw_only=True):
    name: str = ""
    driver_options: dict[str, str] = {}


class VolumeOptions(Spec, frozen=True, kw_only=True):
    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_config: MountDriver | None = None
    subpath: str = ""


class TmpfsOptions(Spec, frozen=True, kw_only=True):
    size_bytes: int = 0
    file_mode: int = 0


class ImageOptions(Spec, frozen=True, kw_only=True):
    subpath: str = ""


class Mount(Spec, frozen=True, kw_only=True):
    """Docker's `npipe` (Windows) and `cluster` (CSI) mounts are refused by the API in words."""

    type: Literal["bind", "volume", "tmpfs", "image"] = "volume"
    source: str = ""
    """Path on the node, volume name or image; may hold templates. Empty for tmpfs, and for an
    anonymous volume."""
    target: str
    read_only: bool = False
    consistency: Literal["", "default", "consistent", "cached", "delegated"] = ""
    """For Docker Desktop; kept, and without effect on Linux."""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    image_options: ImageOptions | None = None


class Ulimit(Spec, frozen=True, kw_only=True):
    name: str
    soft: int
    hard: int


class SelinuxContext(Spec, frozen=True, kw_only=True):
    disable: bool = False
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class SeccompOptions(Spec, frozen=True, kw_only=True):
    mode: Literal["", "default", "unconfined", "custom"] = ""
    profile: str = ""
    """Base64 of the JSON profile; for the mode `custom` only."""


class AppArmorOptions(Spec, frozen=True, kw_only=True):
    mode: Literal["", "default", "disabled"] = ""


class Privileges(Spec, frozen=True, kw_only=True):
    selinux_context: SelinuxContext | None = None
    seccomp: SeccompOptions | None = None
    app_armor: AppArmorOptions | None = None
    no_new_privileges: bool = False


class Device(Spec, frozen=True, kw_only=True):
    path_on_host: str
    path_in_container: str = ""
    """As on the host when empty."""
    cgroup_permissions: str = "rwm"


class ReferencedFile(Spec, frozen=True, kw_only=True):
    """Where a secret or config stands in the container, and whose it is."""

    name: str
    """A relative one of a secret is below /run/secrets, one of a config below /."""
    uid: str = "0"
    gid: str = "0"
    mode: int = 0o444


class SecretReference(Spec, frozen=True, kw_only=True):
    """A secret that the container is given as a file."""

    file: ReferencedFile | None = None
    secret_id: str = ""
    secret_name: str
    data_version: int | UnsetType | None = UNSET
    """Essaim field: the number of the secret's data. The masters fill it in, and change it when
    the secret gets new data, unless it is pinned: so a change of data is a change of the
    template, which rolls out and back as any other."""
    is_pinned: bool | UnsetType | None = UNSET
    """Essaim field: stay with `data_version` whatever newer data there is."""


class ConfigReference(Spec, frozen=True, kw_only=True):
    """As `SecretReference`, of a config."""

    file: ReferencedFile | None = None
    config_id: str = ""
    config_name: str
    data_version: int | UnsetType | None = UNSET
    is_pinned: bool | UnsetType | None = UNSET


class ContainerSpec(Spec, frozen=True, kw_only=True):
    image: str
    labels: dict[str, str] = {}
    command: tuple[str, ...] = ()
    """Replaces the image's entry point."""
    args: tuple[str, ...] = ()
    """Replaces the image's command."""
    hostname: str = ""
    env: tuple[str, ...] = ()
    dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    """Additional groups of the container's process."""
    stop_signal: str = ""
    stop_grace_period: int | None = None
    """Nanoseconds between the stop signal and SIGKILL; 10 s when absent."""
    init: bool | None = None
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    privileges: Privileges | None = None
    mounts: tuple[Mount, ...] = ()
    secrets: tuple[SecretReference, ...] = ()
    configs: tuple[ConfigReference, ...] = ()
    healthcheck: HealthConfig | None = None
    hosts: tuple[str, ...] = ()
    """Lines for /etc/hosts in its own order: `ADDRESS NAME…`."""
    dns_config: DnsConfig | None = None
    sysctls: dict[str, str] = {}
    capability_add: tuple[str, ...] = ()
    capability_drop: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0
    isolation: Literal["", "default"] = ""
    """Windows has others."""
    devices: tuple[Device, ...] | UnsetType | None = UNSET
    """Essaim field, as all below."""
    privileged: bool | UnsetType | None = UNSET
    security_options: tuple[str, ...] | UnsetType | None = UNSET
    """In the words of `docker run --security-opt`."""
    shm_size: int | UnsetType | None = UNSET
    """Bytes of /dev/shm; 64 MiB when unset."""
    pid_mode: str | UnsetType | None = UNSET
    """`host`; unset: a namespace of its own."""
    ipc_mode: str | UnsetType | None = UNSET
    """`private`, `shareable`, `host` or `none`; unset: the engine's default."""
    cgroup_parent: str | UnsetType | None = UNSET
    pull_policy: Literal["missing", "always", "never"] | UnsetType | None = UNSET
    """When the node asks the registry for the image; `missing` when unset."""
    probes: Probes | UnsetType | None = UNSET
    pre_stop: ExecAction | UnsetType | None = UNSET
    """Run in the container before the stop signal; its time counts to the grace period."""
