"""Templates in a service's spec: a subset of Go's text/template, as Docker Swarm has them. Pure.

Expanded on the node that runs the task, in the values of the environment, in the host name and in
mounts: source, target, volume labels and driver options (SwarmKit, template/expand.go). Masters
check them when a service is written, so that a slip is told to its author.

    {{.Service.ID}} {{.Service.Name}} {{.Service.Labels.NAME}} {{index .Service.Labels "a.b"}}
    {{.Node.ID}} {{.Node.Hostname}} {{.Node.Platform.Architecture}} {{.Node.Platform.OS}}
    {{.Task.ID}} {{.Task.Name}} {{.Task.Slot}}
    {{join "-" .Service.Name .Task.Slot}}   {{if COND}}…{{else}}…{{end}}
    {{range $name, $value := .Service.Labels}}…{{end}}

What Go has beyond it (`with`, `define`, `printf`, comparisons of size, …) is refused by name. A
label that is not there is an error, except to `index` (Go: `missingkey=error`). Errors are worded
as Go's, with line and column, since that is what users find when they search for them.

Text, blocks and expressions are read by `template_syntax`; here they get their meaning.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from essaim_shared import template_syntax as syntax
from essaim_shared.container_spec import ContainerSpec, Mount
from essaim_shared.errors import TemplateError

TEMPLATE_CHARS_MAX: Final = 64 * 1024
EXPANSION_CHARS_MAX: Final = 64 * 1024
"""Of one expanded text; Linux takes environment strings of up to twice that (execve(2))."""
CONTAINER_CHARS_MAX: Final = 1024 * 1024
"""Of all that is filled in for one container: a process is given little more (execve(2))."""
STEPS_MAX: Final = 10_000
"""Evaluated pieces of all templates of one container, rounds of loops included: loops over labels
within loops must end soon."""

Value = object
"""str, int, bool, None, a label map or a `_Record`."""


class TemplateContext(msgspec.Struct, frozen=True, kw_only=True):
    """What templates can speak of."""

    service_id: str
    service_name: str
    service_labels: Mapping[str, str]
    node_id: str
    node_hostname: str
    architecture: str
    """Of the node, as its engine names it (`x86_64`)."""
    os: str
    task_id: str
    task_name: str
    """`SERVICE.SLOT.TASKID`, as the container is called."""
    task_slot: str
    """A number, or the node's id in a global service."""


class _Record:
    """A Go struct: fields with names, and the type's name for error messages."""

    def __init__(self, go_type: str, fields: Mapping[str, Value]) -> None:
        self.go_type = go_type
        self.fields = fields


class _AnyLabels(dict[str, str]):
    """Labels that are not known yet: each is there."""

    def __missing__(self, name: str) -> str:
        return ""

    def __contains__(self, name: object) -> bool:
        return True


class _Budget:
    """What the templates of one container may use up together."""

    def __init__(self) -> None:
        self._steps = STEPS_MAX
        self._chars = CONTAINER_CHARS_MAX

    def take_step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise TemplateError(f"template: expansion: more than {STEPS_MAX} steps")

    def take_chars(self, count: int) -> None:
        self._chars -= count
        if self._chars < 0:
            raise TemplateError(
                f"template: expansion: more than {CONTAINER_CHARS_MAX} characters in all"
            )


def expand(text: str, context: TemplateContext) -> str:
    """The text with its templates filled in. Raises TemplateError."""
    return _expand(text, context, _Budget())


def _expand(text: str, context: TemplateContext, budget: _Budget) -> str:
    if syntax.LEFT not in text:
        return text
    if len(text) > TEMPLATE_CHARS_MAX:
        raise TemplateError(f"template: expansion: longer than {TEMPLATE_CHARS_MAX} characters")
    return _Evaluation(text, _root(context), budget).run(syntax.parse(text, _FUNCTIONS))


def check_template(text: str, service_labels: Mapping[str, str] | None = None) -> None:
    """Raise TemplateError for what no node could expand. Without `service_labels`, any label is
    taken to be there."""
    expand(text, _example("service", service_labels))


def check_container(
    container: ContainerSpec, service_name: str, service_labels: Mapping[str, str] | None = None
) -> None:
    """Check all templates of a spec. Raises TemplateError with the sentence of a failing task."""
    expand_container(container, _example(service_name, service_labels))


def expand_container(container: ContainerSpec, context: TemplateContext) -> ContainerSpec:
    """The spec with its templates filled in. Raises TemplateError that names the field."""
    filler = _Filler(context)
    return msgspec.structs.replace(
        container,
        env=filler.env(container.env),
        mounts=tuple(filler.mount(mount) for mount in container.mounts),
        hostname=filler.text(container.hostname, "expanding hostname failed"),
    )


class _Filler:
    """Fills in the fields of one container."""

    def __init__(self, context: TemplateContext) -> None:
        self._context = context
        self._budget = _Budget()

    def text(self, text: str, what: str, *quoted: str) -> str:
        """`what` says in a refusal which field it was; its places are for the quoted texts."""
        try:
            return _expand(text, self._context, self._budget)
        except TemplateError as error:
            field = what.format(*map(syntax.quote, quoted))
            raise TemplateError(f"{field}: {error}") from error

    def env(self, env: Sequence[str]) -> tuple[str, ...]:
        """Names are not templates, only values are."""
        expanded = []
        for item in env:
            if syntax.LEFT not in item:
                expanded.append(item)
                continue
            name, equals, value = item.partition("=")
            value = self.text(value, "expanding env failed: expanding env {}", item)
            expanded.append(f"{name}{equals}{value}")
        return tuple(expanded)

    def mount(self, mount: Mount) -> Mount:
        failed = "expanding mounts failed: expanding"
        volume = mount.volume_options
        if volume is not None:
            labels = self._map(volume.labels, f"{failed} volume labels")
            driver = volume.driver_config
            if driver is not None:
                options = self._map(driver.driver_options, f"{failed} volume driver config")
                driver = msgspec.structs.replace(driver, driver_options=options)
            volume = msgspec.structs.replace(volume, labels=labels, driver_config=driver)
        return msgspec.structs.replace(
            mount,
            source=self.text(mount.source, f"{failed} mount source {{}}", mount.source),
            target=self.text(mount.target, f"{failed} mount target {{}}", mount.target),
            volume_options=volume,
        )

    def _map(self, values: Mapping[str, str], what: str) -> dict[str, str]:
        return {
            name: self.text(value, f"{what}: expanding map entry {{}}={{}}", name, value)
            for name, value in values.items()
        }


def _example(service_name: str, service_labels: Mapping[str, str] | None) -> TemplateContext:
    """As SwarmKit checks a new service: on a task that could be (controlapi/service.go)."""
    return TemplateContext(
        service_id="serviceid",
        service_name=service_name,
        service_labels=_AnyLabels() if service_labels is None else service_labels,
        node_id="nodeid",
        node_hostname="nodeHostname",
        architecture="architecture",
        os="os",
        task_id="taskid",
        task_name=f"{service_name}.1.taskid",
        task_slot="1",
    )


def _root(context: TemplateContext) -> _Record:
    platform = _Record(
        "template.Platform", {"Architecture": context.architecture, "OS": context.os}
    )
    service = _Record(
        "struct { ID string; Name string; Labels map[string]string }",
        {
            "ID": context.service_id,
            "Name": context.service_name,
            "Labels": context.service_labels,
        },
    )
    node = _Record(
        "struct { ID string; Hostname string; Platform template.Platform }",
        {"ID": context.node_id, "Hostname": context.node_hostname, "Platform": platform},
    )
    task = _Record(
        "struct { ID string; Name string; Slot string }",
        {"ID": context.task_id, "Name": context.task_name, "Slot": context.task_slot},
    )
    return _Record("*template.Context", {"Service": service, "Node": node, "Task": task})


def _type_of(value: Value) -> str:
    if isinstance(value, _Record):
        return value.go_type
    if isinstance(value, Mapping):
        return "map[string]string"
    return {str: "string", int: "int", bool: "bool"}.get(type(value), "nil")


def _is_true(value: Value) -> bool:
    """Go: false for zero, and for what is empty; a struct is always true."""
    return True if isinstance(value, _Record) else bool(value)


def _printed(value: Value) -> str:
    """As Go's fmt prints it with %v."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Record):
        return "{" + " ".join(_printed(field) for field in value.fields.values()) + "}"
    if isinstance(value, Mapping):
        entries = (f"{name}:{_printed(value[name])}" for name in sorted(value))
        return f"map[{' '.join(entries)}]"
    return "<no value>" if value is None else str(value)


class _Evaluation:
    """One walk over a template."""

    def __init__(self, text: str, root: _Record, budget: _Budget) -> None:
        self._text = text
        self._root = root
        self._budget = budget
        self._chars = 0
        self._written: list[str] = []

    def run(self, nodes: Sequence[syntax.Node]) -> str:
        self._walk(nodes, self._root, {"$": self._root})
        return "".join(self._written)

    def _failure(self, at: syntax.Expression, reason: str) -> TemplateError:
        place = syntax.place(self._text, at.position)
        story = f'executing "expansion" at <{at.source}>: {reason}'
        return TemplateError(f"template: {place}: {syntax.one_line(story)}")

    def _write(self, text: str) -> None:
        self._budget.take_chars(len(text))
        self._chars += len(text)
        if self._chars > EXPANSION_CHARS_MAX:
            raise TemplateError(
                f"template: expansion: the result is longer than {EXPANSION_CHARS_MAX} characters"
            )
        self._written.append(text)

    def _walk(
        self, nodes: Sequence[syntax.Node], dot: Value, variables: Mapping[str, Value]
    ) -> None:
        scope = dict(variables)
        for node in nodes:
            self._budget.take_step()
            if isinstance(node, syntax.Text):
                self._write(node.text)
            elif isinstance(node, syntax.If):
                value = self._value(node.condition, dot, scope)
                self._walk(node.then if _is_true(value) else node.otherwise, dot, scope)
            elif isinstance(node, syntax.Range):
                self._walk_range(node, dot, scope)
            elif node.variable:
                scope[node.variable] = self._value(node.pipeline, dot, scope)
            else:
                self._write(_printed(self._value(node.pipeline, dot, scope)))

    def _walk_range(self, node: syntax.Range, dot: Value, variables: Mapping[str, Value]) -> None:
        values = self._value(node.pipeline, dot, variables)
        if not isinstance(values, Mapping):
            raise self._failure(node.pipeline, f"range can't iterate over {_printed(values)}")
        for name in sorted(values):
            self._budget.take_step()
            scope = dict(variables)
            if node.value:
                scope[node.value] = values[name]
            if node.key:
                # With one variable only, it takes the value.
                scope[node.key] = name if node.value else values[name]
            self._walk(node.body, values[name], scope)
        if not values:
            self._walk(node.otherwise, dot, variables)

    def _value(
        self, expression: syntax.Expression, dot: Value, variables: Mapping[str, Value]
    ) -> Value:
        self._budget.take_step()
        if isinstance(expression, syntax.Literal):
            return expression.value
        if isinstance(expression, syntax.Call):
            arguments = [self._value(item, dot, variables) for item in expression.arguments]
            return self._call(expression, arguments)
        value = dot
        if isinstance(expression.base, str):
            if expression.base not in variables:
                raise TemplateError(
                    f"template: {syntax.line_of(self._text, expression.position)}: "
                    f'undefined variable "{expression.base}"'
                )
            value = variables[expression.base]
        elif expression.base is not None:
            value = self._value(expression.base, dot, variables)
        for name in expression.fields:
            value = self._field(expression, value, name)
        return value

    def _field(self, expression: syntax.Expression, value: Value, name: str) -> Value:
        if isinstance(value, _Record) and name in value.fields:
            return value.fields[name]
        if isinstance(value, Mapping):
            if name in value:
                return value[name]
            raise self._failure(expression, f'map has no entry for key "{name}"')
        raise self._failure(expression, f"can't evaluate field {name} in type {_type_of(value)}")

    def _call(self, call: syntax.Call, arguments: Sequence[Value]) -> Value:
        fewest, most, function = _FUNCTIONS[call.function]
        if len(arguments) < fewest or (most is not None and len(arguments) > most):
            wanted = f"{fewest}" if most == fewest else f"at least {fewest}"
            raise self._failure(
                call,
                f"wrong number of args for {call.function}: want {wanted} got {len(arguments)}",
            )
        try:
            return function(arguments)
        except _WrongArgument as error:
            raise self._failure(call, f"error calling {call.function}: {error}") from error


class _WrongArgument(Exception):
    """Of a function; becomes a TemplateError where the place in the text is known."""


def _join(arguments: Sequence[Value]) -> str:
    """The first is the separator (SwarmKit, template/template.go)."""
    words = []
    for argument in arguments:
        if not isinstance(argument, str):
            raise _WrongArgument(f"wrong type for value; expected string; got {_type_of(argument)}")
        words.append(argument)
    # A value may be given to a variable and joined with itself, again and again.
    chars = sum(map(len, words[1:])) + len(words[0]) * max(len(words) - 2, 0)
    if chars > EXPANSION_CHARS_MAX:
        raise _WrongArgument(f"the result is longer than {EXPANSION_CHARS_MAX} characters")
    return words[0].join(words[1:])


def _index(arguments: Sequence[Value]) -> Value:
    """A key that is not there gives the empty string, as Go's zero value."""
    value = arguments[0]
    for key in arguments[1:]:
        if not isinstance(value, Mapping):
            raise _WrongArgument(f"can't index item of type {_type_of(value)}")
        if not isinstance(key, str):
            raise _WrongArgument(f"value has type {_type_of(key)}; should be string")
        value = value.get(key, "")
    return value


def _length(arguments: Sequence[Value]) -> int:
    [value] = arguments
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping):
        return len(value)
    raise _WrongArgument(f"len of type {_type_of(value)}")


def _equal(arguments: Sequence[Value]) -> bool:
    """True if the first equals any of the others."""
    for argument in arguments:
        if not isinstance(argument, str | int):
            raise _WrongArgument("invalid type for comparison")
        if type(argument) is not type(arguments[0]):
            raise _WrongArgument("incompatible types for comparison")
    return arguments[0] in arguments[1:]


def _and(arguments: Sequence[Value]) -> Value:
    return next((value for value in arguments if not _is_true(value)), arguments[-1])


def _or(arguments: Sequence[Value]) -> Value:
    return next((value for value in arguments if _is_true(value)), arguments[-1])


_FUNCTIONS: Final[dict[str, tuple[int, int | None, Callable[[Sequence[Value]], Value]]]] = {
    "and": (1, None, _and),
    "eq": (2, None, _equal),
    "index": (1, None, _index),
    "join": (1, None, _join),
    "len": (1, 1, _length),
    "ne": (2, 2, lambda arguments: not _equal(arguments)),
    "not": (1, 1, lambda arguments: not _is_true(arguments[0])),
    "or": (1, None, _or),
}
"""By name: the fewest and the most arguments, and what it does."""
