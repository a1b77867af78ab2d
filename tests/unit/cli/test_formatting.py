"""Tables, templates and task lists, against their expected text."""

import json
from datetime import UTC, datetime

import click
import pytest

from essaim_cli.formatting import is_table, natural_key, render_list, render_template, table
from essaim_cli.task_view import TASK_COLUMNS, parse_time, task_rows

COLUMNS = {"ID": "ID", "Name": "NAME"}
ROWS = [{"ID": "abc", "Name": "web"}, {"ID": "d", "Name": "longer-name"}]


def test_columns_are_as_wide_as_their_widest_cell():
    assert table(("ID", "NAME"), [("abc", "web"), ("d", "x")]) == "ID    NAME\nabc   web\nd     x"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (None, "ID    NAME\nabc   web\nd     longer-name"),
        ("table", "ID    NAME\nabc   web\nd     longer-name"),
        ("table {{.Name}}\\t{{.ID}}", "NAME          ID\nweb           abc\nlonger-name   d"),
        ("{{.ID}}: {{ .Name }}", "abc: web\nd: longer-name"),
        ("{{json .Name}}", '"web"\n"longer-name"'),
        ("json", '{"ID": "abc", "Name": "web"}\n{"ID": "d", "Name": "longer-name"}'),
    ],
)
def test_formats(template, text):
    assert render_list(ROWS, COLUMNS, template, quiet=False) == text


def test_quiet_prints_identifiers_alone():
    assert render_list(ROWS, COLUMNS, None, quiet=True) == "abc\nd"


@pytest.mark.parametrize("template", ["{{range .}}", "{{.Name", "{{upper .Name}}"])
def test_a_template_beyond_the_subset_is_refused_not_printed(template):
    with pytest.raises(click.UsageError, match="not understood"):
        render_template(template, ROWS[0])


def test_an_unknown_field_is_named():
    with pytest.raises(click.UsageError, match="'Colour'"):
        render_template("{{.Colour}}", ROWS[0])


def test_nested_objects_are_reached_by_dots():
    value = {"Spec": {"Name": "web", "Labels": {"a": "b"}, "Flag": True, "None": None}}
    assert render_template("{{.Spec.Name}}", value) == "web"
    assert json.loads(render_template("{{json .Spec.Labels}}", value)) == {"a": "b"}
    assert render_template("{{.Spec.Flag}} {{.Spec.None}}", value) == "true <no value>"


def test_a_value_that_looks_like_a_template_is_printed_as_it_is():
    assert render_template("{{.Name}}", {"Name": "{{.ID}}"}) == "{{.ID}}"


def test_names_sort_as_people_count():
    names = ["node-10", "node-2", "node-1", "a", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "node-1", "node-2", "node-10"]


def test_times_with_nanoseconds_are_read():
    assert parse_time("2026-11-20T10:00:00.123456789Z") == datetime(
        2026, 11, 20, 10, 0, 0, 123456, tzinfo=UTC
    )
    assert parse_time("2026-11-20T10:00:00Z") == datetime(2026, 11, 20, 10, tzinfo=UTC)


def task(task_id, slot, created, desired="running", state="running", err=""):
    status = {"Timestamp": "2026-11-20T10:00:00Z", "State": state}
    if err:
        status["Err"] = err
    return {
        "ID": task_id * 25,
        "ServiceID": "s1",
        "Slot": slot,
        "NodeID": "n1",
        "CreatedAt": f"2026-11-20T09:0{created}:00Z",
        "DesiredState": desired,
        "Status": status,
        "Spec": {"ContainerSpec": {"Image": "img:1@sha256:abc"}},
    }


def test_only_tables_mark_the_history_of_a_slot():
    tasks = [task("a", 1, 1), task("b", 1, 1, desired="shutdown", state="failed")]
    now = datetime(2026, 11, 20, 10, 5, tzinfo=UTC)
    rows = task_rows(tasks, {"s1": "web"}, {}, now, no_trunc=False, has_marks=False)
    assert [row["Name"] for row in rows] == ["web.1", "web.1"]
    assert [is_table(template) for template in (None, "table", "table {{.Name}}")] == [True] * 3
    assert [is_table(template) for template in ("json", "{{.Name}}")] == [False] * 2


def test_history_stands_under_the_living_task_of_its_slot():
    tasks = [
        task("a", 10, 1),
        task("b", 2, 1, desired="shutdown", state="failed", err="No such image: " + "x" * 40),
        task("c", 2, 2),
    ]
    now = datetime(2026, 11, 20, 10, 5, tzinfo=UTC)
    rows = task_rows(tasks, {"s1": "web"}, {"n1": "h1"}, now, no_trunc=False)
    assert render_list(rows, TASK_COLUMNS, "{{.Name}}|{{.CurrentState}}|{{.Error}}", False) == (
        "web.2|Running 5 minutes ago|\n"
        ' \\_ web.2|Failed 5 minutes ago|"No such image: xxxxxxxxxxxxxx…"\n'
        "web.10|Running 5 minutes ago|"
    )
    assert rows[0]["ID"] == "c" * 12
    assert rows[0]["Image"] == "img:1"
    assert rows[0]["Node"] == "h1"
