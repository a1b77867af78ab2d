"""What flags make of a service's specification: a new one for create, a changed one for update.

Pure: the caller's environment comes as an argument. A create is an update of nothing, so every
flag means the same in both. A group that Docker sends whole (`RestartPolicy`, `UpdateConfig`,
`RollbackConfig`) appears with Docker's defaults once one of its flags is given, and is absent
otherwise.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from essaim_cli.errors import CommandFailed, usage
from essaim_cli.flag_kinds import CLEARED, CREATE, UPDATE, Flag, Given, Items, Switch, Value
from essaim_cli.flag_kinds import parameter as parameter_of
from essaim_cli.grammar.containers import change_capabilities
from essaim_cli.grammar.environment import merge_environment
from essaim_cli.grammar.fields import key_value
from essaim_cli.service_flags.paths import CONTAINER, HEALTH
from essaim_cli.service_flags.table import FLAGS

Spec = dict[str, Any]

RESTART_DELAY_DEFAULT_NS = 5_000_000_000
MONITOR_DEFAULT_NS = 5_000_000_000

_UPDATE_DEFAULTS = {
    "Parallelism": 1,
    "FailureAction": "pause",
    "Monitor": MONITOR_DEFAULT_NS,
    "MaxFailureRatio": 0,
    "Order": "stop-first",
}
GROUP_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "TaskTemplate.RestartPolicy": {
        "Condition": "any",
        "Delay": RESTART_DELAY_DEFAULT_NS,
        "MaxAttempts": 0,
    },
    "UpdateConfig": _UPDATE_DEFAULTS,
    "RollbackConfig": _UPDATE_DEFAULTS,
}

MODE_KEYS = {
    "replicated": "Replicated",
    "global": "Global",
    "replicated-job": "ReplicatedJob",
    "global-job": "GlobalJob",
}
JOB_KEYS = ("ReplicatedJob", "GlobalJob")
FILLED_BY_MASTERS = (
    *("replicas", "max_concurrent", "total_completions", "platforms", "runtime"),
    *("secret_id", "config_id", "data_version"),
)
"""Fields of a spec that a master sets where the sender was silent."""
ONLY_REPLICATED = "can only be used with replicated or replicated-job mode"
SCHEDULE_DETAILS = (
    "time-zone",
    "schedule-concurrency",
    "schedule-missed",
    "schedule-history",
    "schedule-suspend",
)
HEALTH_FLAGS = (
    "health-cmd",
    "health-interval",
    "health-timeout",
    "health-retries",
    "health-start-period",
    "health-start-interval",
)


def created_spec(
    image: str, arguments: Sequence[str], given: Given, environment: Mapping[str, str]
) -> Spec:
    """The body of POST /services/create. Raises CommandFailed where flags contradict."""
    container: Spec = {"Image": image}
    if arguments:
        container["Args"] = list(arguments)
    spec: Spec = {
        "Name": given.get("name") or "",
        "Labels": {},
        "TaskTemplate": {"ContainerSpec": container},
        "Mode": _new_mode(given),
    }
    _apply(spec, given, CREATE, environment, is_first=True)
    return spec


def updated_spec(
    present: Spec, given: Given, environment: Mapping[str, str], first_seen: Spec | None = None
) -> Spec:
    """A changed copy of the service's spec. Raises CommandFailed where flags do not fit it.

    `first_seen` is the spec that was read first, when the change is made again because others
    changed the service meanwhile: what that read showed is not asked for a second time.
    """
    spec = copy.deepcopy(present)
    _change_scale(spec, given)
    _apply(spec, given, UPDATE, environment, is_first=first_seen is None)
    if given.get("force"):
        before = (first_seen or present)["TaskTemplate"].get("ForceUpdate", 0)
        template = spec["TaskTemplate"]
        template["ForceUpdate"] = max(template.get("ForceUpdate", 0), before + 1)
    return spec


def set_scale(spec: Spec, replicas: int) -> None:
    """`service scale`: replicas, or the completions of a job."""
    mode = spec["Mode"]
    if "Replicated" in mode:
        mode["Replicated"] = {**(mode["Replicated"] or {}), "Replicas": replicas}
    elif "ReplicatedJob" in mode:
        mode["ReplicatedJob"] = {**(mode["ReplicatedJob"] or {}), "TotalCompletions": replicas}
    else:
        raise CommandFailed(f"scale {ONLY_REPLICATED}")


def is_stored(stored: Spec, sent: Spec) -> bool:
    """Whether a service's spec is the one that was sent.

    Masters leave out fields that are at their defaults, fill in numbers and pin images, so the
    two are compared as what they mean. Imports the object model, which costs; for the rare case
    that an answer was lost.
    """
    import msgspec

    from essaim_shared.spec import ServiceSpec

    try:
        return _is_same(
            _in_order(msgspec.convert(stored, ServiceSpec)),
            _in_order(msgspec.convert(sent, ServiceSpec)),
        )
    except msgspec.ValidationError:
        return False


def _in_order(spec: Any) -> Any:
    """With secrets and configs by their targets, as masters store them."""
    import msgspec

    def target(reference: Any) -> str:
        return "" if reference.file is None else str(reference.file.name)

    container = msgspec.structs.replace(
        spec.task.container,
        secrets=tuple(sorted(spec.task.container.secrets, key=target)),
        configs=tuple(sorted(spec.task.container.configs, key=target)),
    )
    task = msgspec.structs.replace(spec.task, container=container)
    return msgspec.structs.replace(spec, task=task)


def _is_same(stored: Any, sent: Any) -> bool:
    """Of two values of the object model; absent, null and all defaults mean the same."""
    names = getattr(sent, "__struct_fields__", None) or getattr(stored, "__struct_fields__", None)
    if names:
        return all(
            _is_same_field(name, getattr(stored, name, None), getattr(sent, name, None))
            for name in names
        )
    if isinstance(sent, tuple) and isinstance(stored, tuple):
        return len(stored) == len(sent) and all(map(_is_same, stored, sent))
    return bool(stored == sent or not (stored or sent))


def _is_same_field(name: str, stored: Any, sent: Any) -> bool:
    if name == "image":
        return _image_of(stored) == _image_of(sent)
    if name in FILLED_BY_MASTERS and not sent and sent != 0:
        return True
    return _is_same(stored, sent)


def key_values(flag: str, settings: Iterable[str]) -> dict[str, str]:
    """The pairs of a `KEY=VALUE` flag that stands outside of the table."""
    pairs = {}
    for setting in settings:
        try:
            key, value = key_value(setting)
        except ValueError as error:
            raise usage(f"invalid {flag} {setting!r}: {error}") from error
        pairs[key] = value
    return pairs


def _image_of(text: Any) -> str:
    name = str(text or "").partition("@")[0]
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _new_mode(given: Given) -> Spec:
    """The mode of a new service, and whether the flags beside it make sense there."""
    scheduled = given.get("schedule") not in (None, CLEARED)
    asked = given.get("mode") or ("replicated-job" if scheduled else "replicated")
    if asked == "cron":
        if not scheduled:
            raise CommandFailed('mode cron needs its times: --schedule "*/5 * * * *"')
        asked = "replicated-job"
    if scheduled and asked != "replicated-job":
        raise CommandFailed("schedule can only be used with replicated-job mode")
    if not scheduled and (stray := _given_names(given, SCHEDULE_DETAILS)):
        raise CommandFailed(f"--{stray[0]} belongs to a schedule: give --schedule too")
    replicas, concurrent = given.get("replicas"), given.get("max_concurrent")
    if concurrent is not None and asked != "replicated-job":
        raise CommandFailed("max-concurrent can only be used with replicated-job mode")
    if asked in ("global", "global-job"):
        if replicas is not None:
            raise CommandFailed(f"replicas {ONLY_REPLICATED}")
        if given.get("replicas_max_per_node"):
            raise CommandFailed(f"replicas-max-per-node {ONLY_REPLICATED}")
    mode: Spec = {}
    if asked == "replicated" and replicas is not None:
        mode["Replicas"] = replicas
    if asked == "replicated-job":
        if replicas is not None:
            mode["TotalCompletions"] = replicas
        if concurrent is not None or replicas is not None:
            mode["MaxConcurrent"] = replicas if concurrent is None else concurrent
    return {MODE_KEYS[asked]: mode}


def _change_scale(spec: Spec, given: Given) -> None:
    mode, concurrent = spec["Mode"], given.get("max_concurrent")
    if given.get("replicas") is not None:
        if not {"Replicated", "ReplicatedJob"} & mode.keys():
            raise CommandFailed(f"replicas {ONLY_REPLICATED}")
        set_scale(spec, given["replicas"])
    if concurrent is not None:
        if "ReplicatedJob" not in mode:
            raise CommandFailed("max-concurrent can only be used with replicated-job mode")
        mode["ReplicatedJob"]["MaxConcurrent"] = concurrent


def _apply(
    spec: Spec, given: Given, command: str, environment: Mapping[str, str], is_first: bool
) -> None:
    _check_job(spec, given)
    _change_schedule(spec, given)
    _change_environment(spec, given, command, environment)
    for flag in FLAGS:
        if flag.name != "env" and command in flag.on:
            _apply_flag(spec, flag, given, command, is_first)
    _change_health(spec, given)
    added, dropped = (_flat(given.get(name) or ()) for name in ("cap_add", "cap_drop"))
    if added or dropped:
        change_capabilities(_at(spec, CONTAINER), added, dropped)
    _change_log(spec, given)


def _apply_flag(spec: Spec, flag: Flag, given: Given, command: str, is_first: bool) -> None:
    if isinstance(flag, Items):
        name = parameter_of(flag.name)
        if command == CREATE:
            added, removed = _flat(given.get(name) or ()), []
        else:
            added = _flat(given.get(f"{name}_add") or ())
            removed = _flat(given.get(f"{name}_rm") or ())
        if added or removed:
            _change_items(spec, flag, added, removed, is_first)
    elif isinstance(flag, Value | Switch) and flag.path:
        value = given.get(parameter_of(flag.name))
        if value is CLEARED:
            _clear(spec, flag.path)
        elif value is not None:
            group, _, name = flag.path.rpartition(".")
            _at(spec, group)[name] = value


def _change_items(
    spec: Spec, flag: Items, added: list[Any], removed: list[Any], is_first: bool
) -> None:
    group, _, name = flag.path.rpartition(".")
    holder = _at(spec, group) if group else spec
    present = holder.get(name) or {}
    items = list(present.items()) if flag.is_map else list(present)
    for removal in removed:
        kept = flag.without(items, removal)
        if flag.must_exist and is_first and len(kept) == len(items):
            raise CommandFailed(f"could not find {flag.name} `{removal}` to remove it")
        items = kept
    seen: set[str] = set()
    for item in added:
        identity = flag.identity(item)
        if flag.duplicate and identity in seen:
            raise CommandFailed(f"{flag.duplicate}: {identity}")
        seen.add(identity)
        _put(items, item, flag)
    holder[name] = dict(items) if flag.is_map else items


def _put(items: list[Any], item: Any, flag: Items) -> None:
    for place, present in enumerate(items):
        if flag.identity(present) == flag.identity(item):
            items[place] = item
            return
    items.append(item)


def _at(spec: Spec, path: str) -> Spec:
    """The object at a dotted path, made with its defaults where there is none."""
    place = spec
    walked = ""
    for name in path.split("."):
        walked = f"{walked}.{name}" if walked else name
        if place.get(name) is None:
            place[name] = copy.deepcopy(dict(GROUP_DEFAULTS.get(walked, {})))
        place = place[name]
    return place


def _clear(spec: Spec, path: str) -> None:
    """An explicit null, which is the only word for absent that masters hear in Essaim's fields."""
    *groups, name = path.split(".")
    place = spec
    for group in groups:
        if not place.get(group):
            return
        place = place[group]
    if name in place:
        place[name] = None


def _check_job(spec: Spec, given: Given) -> None:
    updates = [name for name in given if name.startswith(("update_", "rollback_"))]
    if any(given[name] is not None for name in updates) and any(
        key in spec["Mode"] for key in JOB_KEYS
    ):
        raise CommandFailed("update and rollback configuration is not supported for jobs")


def _change_schedule(spec: Spec, given: Given) -> None:
    expression = given.get("schedule")
    if expression is CLEARED:
        _clear(spec, "Schedule")
    elif expression is not None:
        _at(spec, "Schedule")["Expression"] = expression
    if not spec.get("Schedule") and (stray := _given_names(given, SCHEDULE_DETAILS)):
        raise CommandFailed(f"--{stray[0]} belongs to a schedule: give --schedule too")


def _change_environment(
    spec: Spec, given: Given, command: str, environment: Mapping[str, str]
) -> None:
    """`KEY` alone takes the caller's value, so the variables are not merely items."""
    added = _flat(given.get("env" if command == CREATE else "env_add") or ())
    removed = set(_flat(given.get("env_rm") or ()))
    added = [*given.get("env_file_settings", ()), *added]
    if not added and not removed:
        return
    container = _at(spec, CONTAINER)
    kept = [one for one in container.get("Env") or () if one.partition("=")[0] not in removed]
    container["Env"] = merge_environment(added, environment, kept)


def _change_health(spec: Spec, given: Given) -> None:
    changed = _given_names(given, HEALTH_FLAGS)
    if given.get("no_healthcheck"):
        if changed:
            raise CommandFailed("--no-healthcheck conflicts with --health-* options")
        _at(spec, CONTAINER)["Healthcheck"] = {"Test": ["NONE"]}
        return
    if not changed:
        return
    health = _at(spec, HEALTH)
    if health.get("Test") == ["NONE"]:
        del health["Test"]
    line = given.get("health_cmd")
    if line is not None:
        health["Test"] = ["CMD-SHELL", line] if line else []


def _change_log(spec: Spec, given: Given) -> None:
    """A driver replaces the one before with its options; options alone are those of the present
    driver."""
    driver, options = given.get("log_driver"), dict(given.get("log_opt") or ())
    template = spec["TaskTemplate"]
    if driver:
        template["LogDriver"] = {"Name": driver, **({"Options": options} if options else {})}
    elif driver == "":
        template.pop("LogDriver", None)
    elif options:
        if not template.get("LogDriver"):
            raise CommandFailed("--log-opt needs the driver it is for: give --log-driver too")
        template["LogDriver"]["Options"] = options


def _given_names(given: Given, names: Iterable[str]) -> list[str]:
    return [name for name in names if given.get(parameter_of(name)) is not None]


def _flat(lists: Iterable[Any]) -> list[Any]:
    """The items of a flag that was repeated: each time it gave a list, or a removal as text."""
    flat: list[Any] = []
    for one in lists:
        flat += one if isinstance(one, list) else [one]
    return flat
