"""Fills in the templates of a task on the node that runs it: pure."""

import msgspec

from essaim_agent.executor import ExecutorError
from essaim_shared.errors import TemplateError
from essaim_shared.objects import Task
from essaim_shared.templates import TemplateContext, expand_container


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What templates can say of the node."""

    hostname: str = ""
    architecture: str = ""
    os: str = "linux"


def expanded(task: Task, node: NodeFacts) -> Task:
    """The task as its container will be. Raises ExecutorError."""
    context = TemplateContext(
        service_id=task.service_id,
        service_name=task.service_name,
        service_labels=task.service_labels,
        node_id=task.node_id or "",
        node_hostname=node.hostname,
        architecture=node.architecture,
        os=node.os,
        task_id=task.id,
        task_name=f"{task.name}.{task.id}",
        task_slot=str(task.slot_key),
    )
    try:
        container = expand_container(task.spec.container, context)
    except TemplateError as error:
        raise ExecutorError(str(error)) from error
    if container == task.spec.container:
        return task
    return msgspec.structs.replace(
        task, spec=msgspec.structs.replace(task.spec, container=container)
    )
