"""What a list looks like: Docker's tables, `--format`, `-q`, `-o json`. Pure.

A row maps the names of Docker's templates (`.ID`, `.Name`, …) to text.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from essaim_cli.errors import usage

Row = Mapping[str, str]

COLUMN_GAP = 3
SHORT_ID_LENGTH = 12

_PLACEHOLDER = re.compile(r"\{\{\s*(json\s+)?\.([A-Za-z0-9_.]*)\s*\}\}")
_ESCAPES = {r"\t": "\t", r"\n": "\n"}


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Sorts `node-2` before `node-10`."""
    return [
        (0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part
    ]


def short_id(identifier: str, no_trunc: bool) -> str:
    return identifier if no_trunc else identifier[:SHORT_ID_LENGTH]


def truncate(text: str, length_max: int) -> str:
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, as Go's tabwriter makes them."""
    lines = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    gap = " " * COLUMN_GAP
    return "\n".join(
        gap.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def is_table(template: str | None) -> bool:
    """Whether a list of this `--format` has columns."""
    return not template or template == "table" or template.startswith("table ")


def render_list(
    rows: Sequence[Row], columns: Mapping[str, str], template: str | None, quiet: bool
) -> str:
    """The text of a list. `columns`: template name → heading, in the default order.

    `template`: None or `table` for the default, `json` for an object a line, `table TEMPLATE`, or
    a Go template of `{{.Name}}` and `{{json .Name}}`.
    """
    if quiet:
        return "\n".join(row["ID"] for row in rows)
    if not template or template == "table":
        return table(list(columns.values()), [[row[name] for name in columns] for row in rows])
    if template == "json":
        return "\n".join(json.dumps(dict(row)) for row in rows)
    if is_table(template):
        return _template_table(rows, columns, template.removeprefix("table "))
    return "\n".join(render_template(template, row) for row in rows)


def render_template(template: str, value: Any) -> str:
    """A Go template over a JSON value: `{{.A.B}}` and `{{json .A}}`; others are refused."""

    def replace(match: re.Match[str]) -> str:
        found = _lookup(value, match[2])
        return json.dumps(found) if match[1] else _text(found)

    for escape, character in _ESCAPES.items():
        template = template.replace(escape, character)
    if "{{" in _PLACEHOLDER.sub("", template):
        raise usage(
            f"template {template!r} is not understood: use {{{{.Name}}}} or {{{{json .Name}}}}"
        )
    return _PLACEHOLDER.sub(replace, template)


def _template_table(rows: Sequence[Row], columns: Mapping[str, str], template: str) -> str:
    cells = re.split(r"\\t|\t", template)
    headings = [
        _PLACEHOLDER.sub(lambda match: columns.get(match[2], match[2].upper()), cell)
        for cell in cells
    ]
    return table(headings, [[render_template(cell, row) for cell in cells] for row in rows])


def _lookup(value: Any, path: str) -> Any:
    for name in path.split("."):
        if not name:
            continue
        if not isinstance(value, Mapping) or name not in value:
            raise usage(f"template: there is no field {name!r} here")
        value = value[name]
    return value


def _text(value: Any) -> str:
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value)
    return str(value)
