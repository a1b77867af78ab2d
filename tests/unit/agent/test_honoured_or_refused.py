"""No field of a spec can be forgotten: each changes what the engine is asked for, or is named here
with who else sees to it. Walks the types, so a field that is added fails until it is thought of."""

from collections.abc import Iterator
from typing import Any

import msgspec
import msgspec.inspect
import pytest

from essaim_agent.docker_options import create_body
from essaim_agent.engine_facts import EngineFacts
from essaim_agent.fake_executor import FakeEngine, FakeExecutor
from essaim_shared.clock import SystemClock
from essaim_shared.container_spec import ContainerSpec, ReferencedFile
from essaim_shared.ids import NodeId, ServiceId, TaskId
from essaim_shared.objects import Task
from essaim_shared.spec import Limits, LogDriver, Resources, TaskSpec
from essaim_shared.task_state import TaskState

NEW_ENGINE = EngineFacts(api_version=(1, 48), log_driver="json-file")

ELSEWHERE = {
    "container.probes": "the agent's own probes",
    "container.pre_stop": "the agent runs it before the stop signal",
    "container.pull_policy": "decides before there is a container",
    **{
        f"container.{kind}s.{field}": why
        for kind in ("secret", "config")
        for field, why in {
            "file.uid": "the owner of the file that the agent writes",
            "file.gid": "the owner of the file that the agent writes",
            "file.mode": "the mode of the file that the agent writes",
            f"{kind}_id": "whose data the agent asks the masters for",
            "data_version": "which data the agent asks the masters for",
            f"{kind}_name": "what errors call it",
            "is_pinned": "the masters' alone",
        }.items()
    },
    "resources.reservations": "the scheduler's alone",
}

VALUES: dict[str, Any] = {
    "container.hosts": ("192.0.2.1 other",),
    "container.isolation": "default",
    "container.pid_mode": "host",
    "container.ipc_mode": "host",
    "container.privileges.app_armor.mode": "disabled",
    "container.privileges.seccomp.mode": "unconfined",
    "container.privileges.seccomp.profile": "e30=",
    "container.mounts.type": "tmpfs",
    "container.mounts.target": "/some",
    **{
        f"container.{kind}s.{field}": value
        for kind in ("secret", "config")
        for field, value in {f"{kind}_id": "o" * 25, "file.uid": "7", "file.gid": "7"}.items()
    },
}
"""Where any value of the type would not do."""

BESIDE: dict[str, dict[str, Any]] = {
    "container.privileges.seccomp.profile": {"mode": "custom", "profile": "eyJhIjoxfQ=="},
    "container.mounts.bind_options": {"type": "bind", "source": "/x"},
    "container.mounts.tmpfs_options": {"type": "tmpfs"},
    "container.mounts.image_options": {"type": "image", "source": "x"},
    "resources.swap_bytes": {"limits": Limits(memory_bytes=2**30)},
    **{
        f"container.{kind}s.{field}": {
            f"{kind}_id": "s" * 25,
            "data_version": 1,
            **({} if field == "file" else {"file": ReferencedFile(name="file")}),
        }
        for kind in ("secret", "config")
        for field in ("file", f"{kind}_id", "data_version", f"{kind}_name", "is_pinned")
    },
}
"""What makes sense together with others only."""

REQUIRED: dict[str, Any] = {
    "image": "image",
    "target": "/target",
    "path_on_host": "/dev/null",
    "name": "nofile",
    "soft": 1,
    "hard": 2,
    "secret_name": "secret",
    "config_name": "config",
}

BASES: dict[str, type[msgspec.Struct]] = {
    "container": ContainerSpec,
    "resources": Resources,
    "log_driver": LogDriver,
}


def plain(kind: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """Of `T | UnsetType | None`: T."""
    if isinstance(kind, msgspec.inspect.UnionType):
        [kind] = [item for item in kind.types if not isinstance(item, msgspec.inspect.NoneType)]
    return kind


def struct_in(kind: msgspec.inspect.Type) -> type[msgspec.Struct] | None:
    kind = plain(kind)
    if isinstance(kind, msgspec.inspect.VarTupleType):
        kind = plain(kind.item_type)
    return kind.cls if isinstance(kind, msgspec.inspect.StructType) else None


def fields_of(struct: type[msgspec.Struct]) -> tuple[msgspec.inspect.Field, ...]:
    described = msgspec.inspect.type_info(struct)
    assert isinstance(described, msgspec.inspect.StructType)
    return described.fields


def leaves(struct: type[msgspec.Struct], *outer: str) -> Iterator[tuple[str, ...]]:
    """The path of each field that is no struct itself."""
    for field in fields_of(struct):
        path = (*outer, field.name)
        inner = struct_in(field.type)
        if inner is None or ".".join(path) in ELSEWHERE:
            yield path
        else:
            yield from leaves(inner, *path)


def some_value(path: tuple[str, ...], kind: msgspec.inspect.Type) -> Any:
    """Another than the field has by default."""
    if ".".join(path) in VALUES:
        return VALUES[".".join(path)]
    kind = plain(kind)
    if isinstance(kind, msgspec.inspect.BoolType):
        return True
    if isinstance(kind, msgspec.inspect.IntType):
        return 7
    if isinstance(kind, msgspec.inspect.LiteralType):
        return kind.values[-1]
    if isinstance(kind, msgspec.inspect.VarTupleType):
        return ("some",)
    if isinstance(kind, msgspec.inspect.DictType):
        return {"some": "value"}
    return "some"


def around(struct: type[msgspec.Struct], path: tuple[str, ...], depth: int) -> msgspec.Struct:
    """A struct in which the field at the path has a place, and what it needs beside it; the field
    itself is as it is by default."""
    fields: dict[str, Any] = {}
    for field in fields_of(struct):
        if field.required:
            fields[field.name] = REQUIRED[field.name]
        if field.name == path[depth] and depth + 1 < len(path):
            inner = struct_in(field.type)
            assert inner is not None
            value = around(inner, path, depth + 1)
            is_many = isinstance(plain(field.type), msgspec.inspect.VarTupleType)
            fields[field.name] = (value,) if is_many else value
    return struct(**fields, **BESIDE.get(".".join(path[: depth + 1]), {}))


def changed(value: Any, path: tuple[str, ...], depth: int) -> Any:
    """The same with another value at the path."""
    if isinstance(value, tuple):
        return (changed(value[0], path, depth),)
    name = path[depth]
    if depth + 1 < len(path):
        return msgspec.structs.replace(
            value, **{name: changed(getattr(value, name), path, depth + 1)}
        )
    [kind] = [field.type for field in fields_of(type(value)) if field.name == name]
    return msgspec.structs.replace(value, **{name: some_value(path, kind)})


def task_of(spec: TaskSpec) -> Task:
    return Task(
        id=TaskId("task"),
        service_id=ServiceId("service"),
        service_name="web",
        slot=1,
        spec=spec,
        spec_version=1,
        node_id=NodeId("node"),
        desired_state=TaskState.RUNNING,
        created_ns=1,
        updated_ns=1,
    )


def spec_around(path: tuple[str, ...]) -> TaskSpec:
    parts: dict[str, Any] = {"container": ContainerSpec(image="image")}
    parts[path[0]] = around(BASES[path[0]], path, 1)
    return TaskSpec(**parts)


def body_of(spec: TaskSpec) -> dict[str, Any]:
    return create_body(task_of(spec), "cluster", True, "", NEW_ENGINE)


PATHS = [path for name, struct in BASES.items() for path in leaves(struct, name)]


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_every_field_of_a_container_is_honoured_or_refused(path: tuple[str, ...]) -> None:
    spec = spec_around(path)
    asked = changed(spec, path, 0)
    assert asked != spec, "no other value: the test tests nothing"
    if ".".join(path) in ELSEWHERE:
        assert body_of(asked) == body_of(spec), "honoured by now: take it out of the list"
    else:
        assert body_of(asked) != body_of(spec)


def test_what_others_see_to_is_still_there() -> None:
    assert ELSEWHERE.keys() <= {".".join(path) for path in PATHS}


@pytest.mark.parametrize("path", PATHS, ids=".".join)
async def test_an_engine_in_memory_keeps_all_that_was_asked(path: tuple[str, ...]) -> None:
    engine = FakeEngine()
    executor = FakeExecutor(engine, SystemClock())
    task = task_of(changed(spec_around(path), path, 0))
    await executor.open()
    await executor.start(task, None)
    assert engine.containers[task.id].spec == task.spec
    await executor.close()
