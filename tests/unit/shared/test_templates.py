"""Templates in specs, after SwarmKit's template/context_test.go and Go's text/template."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from essaim_shared.container_spec import ContainerSpec, Mount, MountDriver, VolumeOptions
from essaim_shared.errors import InvalidRequest, TemplateError
from essaim_shared.templates import (
    EXPANSION_CHARS_MAX,
    TemplateContext,
    check_container,
    check_template,
    expand,
    expand_container,
)

CONTEXT = TemplateContext(
    service_id="serviceID",
    service_name="serviceName",
    service_labels={"tier": "front", "empty": "", "com.example.zone": "b"},
    node_id="nodeID",
    node_hostname="mynode",
    architecture="x86_64",
    os="linux",
    task_id="taskID",
    task_name="serviceName.10.taskID",
    task_slot="10",
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", ""),
        ("no template }} { {", "no template }} { {"),
        ("{{.Service.ID}}/{{.Service.Name}}", "serviceID/serviceName"),
        ("{{.Node.ID}}/{{.Node.Hostname}}", "nodeID/mynode"),
        ("{{.Node.Platform.Architecture}}-{{.Node.Platform.OS}}", "x86_64-linux"),
        ("{{.Task.ID}} {{.Task.Name}} {{.Task.Slot}}", "taskID serviceName.10.taskID 10"),
        ("{{.Service.Labels.tier}}", "front"),
        ("{{.Service.Labels.empty}}|", "|"),
        ('{{index .Service.Labels "com.example.zone"}}', "b"),
        ('{{index .Service.Labels "there is none"}}|', "|"),
        ('{{join "-" .Service.Name .Task.Slot}}', "serviceName-10"),
        ('{{join ","}}', ""),
        ('{{.Task.Slot | join "-" "a"}}', "a-10"),
        ('{{(index .Service.Labels "tier") | join "/" "x"}}', "x/front"),
        ("{{ .Task.Slot }}", "10"),
        ("a  {{- .Task.Slot -}}  b", "a10b"),
        ("a {{/* nothing */}} b", "a  b"),
        ("a {{- /* nothing */ -}} b", "ab"),
        ("{{if .Service.Labels.empty}}yes{{else}}no{{end}}", "no"),
        ('{{if eq .Task.Slot "9" "10"}}yes{{end}}', "yes"),
        ('{{if eq .Task.Slot "1"}}a{{else if ne .Task.Slot "1"}}b{{else}}c{{end}}', "b"),
        ('{{if and .Task.ID (not (index .Service.Labels "no"))}}yes{{end}}', "yes"),
        ('{{or (index .Service.Labels "no") "other"}}', "other"),
        ("{{len .Service.Labels}}", "3"),
        (
            "{{range $k, $v := .Service.Labels}}{{$k}}={{$v}},{{end}}",
            "com.example.zone=b,empty=,tier=front,",
        ),
        ("{{range .Service.Labels}}<{{.}}{{$.Task.Slot}}>{{end}}", "<b10><10><front10>"),
        ("{{range $v := .Service.Labels}}{{$v}};{{end}}", "b;;front;"),
        ("{{$slot := .Task.Slot}}{{$slot}}{{$slot}}", "1010"),
        ("{{.Service.Labels}}", "map[com.example.zone:b empty: tier:front]"),
        ("{{.Node.Platform}}", "{x86_64 linux}"),
        (r'{{"quoted \"}}\" \\ \t\u00e9"}}', 'quoted "}}" \\ \té'),
        ("{{`raw \\n`}}", "raw \\n"),
        ("{{true}} {{42}}", "true 42"),
        ("{{.Task.Slot}}\n{{.Task.ID}}", "10\ntaskID"),
    ],
)
def test_a_template_is_filled_in_as_go_does(template: str, expected: str) -> None:
    assert expand(template, CONTEXT) == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{{.Foo}}",
            'template: expansion:1:2: executing "expansion" at <.Foo>: '
            "can't evaluate field Foo in type *template.Context",
        ),
        (
            "é{{.Node.Foo}}",
            'template: expansion:1:9: executing "expansion" at <.Node.Foo>: '
            "can't evaluate field Foo in type "
            "struct { ID string; Hostname string; Platform template.Platform }",
        ),
        (
            "a\n{{.Task.ID.X}}",
            'template: expansion:2:10: executing "expansion" at <.Task.ID.X>: '
            "can't evaluate field X in type string",
        ),
        (
            "{{.Service.Labels.none}}",
            'template: expansion:1:17: executing "expansion" at <.Service.Labels.none>: '
            'map has no entry for key "none"',
        ),
        ("{{.Service.ID", "template: expansion:1: unclosed action"),
        ("{{", "template: expansion:1: unclosed action"),
        ("{{}}", "template: expansion:1: missing value for command"),
        ("{{.Task.ID | }}", "template: expansion:1: missing value for command"),
        ('{{"a}}', "template: expansion:1: unterminated quoted string"),
        (r'{{"\q"}}', "template: expansion:1: invalid syntax"),
        (r'{{"\ud800"}}', "template: expansion:1: invalid syntax"),
        ("{{.Task.ID !}}", 'template: expansion:1: unexpected "!" in command'),
        ("{{.Task.ID .Task.ID}}", "can't give argument to non-function .Task.ID"),
        ('{{.Task.ID | "x"}}', "non executable command in pipeline"),
        ("{{(.Task.ID}}", "unclosed left paren"),
        ("{{.Task\n.Foo `\n`}}", "can't give argument to non-function .Task"),
        ("{{join `a` (len\n.Task.ID)}}", "got int"),
        ("{{" + "9" * 5000 + "}}", 'unexpected "9" in command'),
        ("{{.Task.ID}}" * 10_000, "longer than"),
        ("{{.Task.ID)}}", 'unexpected ")" in command'),
        ("{{if .Task.ID}}", "template: expansion:1: unexpected EOF"),
        ("{{end}}", "template: expansion:1: unexpected {{end}}"),
        ("{{if .Task.ID}}{{else}}{{else}}{{end}}", "unexpected {{else}}"),
        ("{{$x}}", 'template: expansion:1: undefined variable "$x"'),
        ("{{$ := .Task}}", "unexpected declaration"),
        ("{{range .Task.ID}}{{end}}", "range can't iterate over taskID"),
        ("{{join}}", "wrong number of args for join: want at least 1 got 0"),
        ('{{join "a" .Service}}', "error calling join: wrong type for value; expected string"),
        ('{{index .Task "ID"}}', "error calling index: can't index item of type struct"),
        ("{{eq .Task.Slot 10}}", "incompatible types for comparison"),
        ("{{with .Task}}{{end}}", "{{with}} is not supported"),
        ("{{env `X`}}", 'template: expansion:1: function "env" not defined'),
        ("{{'x'}}", 'unexpected "\'" in command'),
        ("{{" + "(" * 40 + ".Task" + ")" * 40 + "}}", "nested parentheses"),
        ("{{if true}}" * 40 + "{{end}}" * 40, "nested blocks"),
    ],
)
def test_a_wrong_template_is_refused_in_gos_words(template: str, reason: str) -> None:
    with pytest.raises(TemplateError) as refusal:
        expand(template, CONTEXT)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert isinstance(refusal.value, InvalidRequest)


def test_the_result_is_bounded() -> None:
    many = msgspec.structs.replace(CONTEXT, service_labels={"long": "x" * 10_000})
    with pytest.raises(TemplateError, match=f"longer than {EXPANSION_CHARS_MAX}"):
        expand("{{.Service.Labels.long}}" * 7, many)


def test_loops_within_loops_end() -> None:
    labels = {f"name{number}": "" for number in range(100)}
    deep = "{{range .Labels}}".replace(".Labels", "$.Service.Labels") * 8 + "{{end}}" * 8
    with pytest.raises(TemplateError, match="steps"):
        expand(deep, msgspec.structs.replace(CONTEXT, service_labels=labels))


def test_a_round_of_a_loop_counts_though_nothing_is_done_in_it() -> None:
    labels = {f"name{number}": "" for number in range(1_000)}
    idle = "{{range .Service.Labels}}{{range $.Service.Labels}}{{end}}{{end}}"
    with pytest.raises(TemplateError, match="steps"):
        expand(idle, msgspec.structs.replace(CONTEXT, service_labels=labels))


def test_a_variable_that_is_joined_with_itself_stays_bounded() -> None:
    doubled = '{{$a := "12345678"}}' + '{{$a := join "" $a $a}}' * 60
    with pytest.raises(TemplateError, match=f"longer than {EXPANSION_CHARS_MAX}"):
        expand(doubled, CONTEXT)


@pytest.mark.parametrize(
    "deep",
    [
        '{{"x"' + "|len" * 3_000 + "}}",
        '{{"x"' + "|join" * 3_000 + "}}",
        "{{" + "(" * 16 + '"x"' + ('|join "a"' * 60 + ")") * 16 + "}}",
    ],
)
def test_calls_within_calls_end(deep: str) -> None:
    with pytest.raises(TemplateError, match="pipes"):
        expand(deep, CONTEXT)


def test_all_templates_of_a_container_share_one_bound() -> None:
    """Thousands of small ones must not stop a master for seconds."""
    labels = {f"name{number}": "x" * 100 for number in range(500)}
    many = msgspec.structs.replace(CONTEXT, service_labels=labels)
    steps = ContainerSpec(image="i", env=("A={{range .Service.Labels}}{{end}}",) * 100)
    with pytest.raises(TemplateError, match="steps"):
        expand_container(steps, many)
    chars = ContainerSpec(image="i", env=("A={{.Service.Labels}}",) * 100)
    with pytest.raises(TemplateError, match="characters in all"):
        expand_container(chars, many)
    few = ContainerSpec(image="i", env=("A={{.Service.Labels}}",) * 10)
    assert len(expand_container(few, many).env) == 10


def test_a_name_of_the_environment_is_no_template_and_its_value_is() -> None:
    container = ContainerSpec(image="i", env=("{{.Not}}=foo", "BARE", "ID={{.Task.ID}}=="))
    assert expand_container(container, CONTEXT).env == ("{{.Not}}=foo", "BARE", "ID=taskID==")


def test_mounts_are_templates_in_source_target_labels_and_driver_options() -> None:
    options = VolumeOptions(
        labels={"{{.Name}}": "{{.Task.Slot}}"},
        driver_config=MountDriver(name="{{local}}", driver_options={"o": "{{.Node.ID}}"}),
    )
    mount = Mount(source="v-{{.Task.Slot}}", target="/{{.Node.ID}}", volume_options=options)
    [expanded] = expand_container(ContainerSpec(image="i", mounts=(mount,)), CONTEXT).mounts
    assert expanded == Mount(
        source="v-10",
        target="/nodeID",
        volume_options=VolumeOptions(
            labels={"{{.Name}}": "10"},
            driver_config=MountDriver(name="{{local}}", driver_options={"o": "nodeID"}),
        ),
    )


def test_nothing_else_of_a_container_is_a_template() -> None:
    container = ContainerSpec(
        image="{{i}}", command=("{{c}}",), args=("{{a}}",), labels={"{{l}}": "{{m}}"}, user="{{u}}"
    )
    assert expand_container(container, CONTEXT) == container


@pytest.mark.parametrize(
    ("container", "start"),
    [
        (
            ContainerSpec(image="i", env=("A={{.X}}",)),
            'expanding env failed: expanding env "A={{.X}}": template: expansion:1:2: ',
        ),
        (ContainerSpec(image="i", hostname="{{.X}}"), "expanding hostname failed: template: "),
        (
            ContainerSpec(image="i", mounts=(Mount(source="{{.X}}", target="/a"),)),
            'expanding mounts failed: expanding mount source "{{.X}}": template: ',
        ),
        (
            ContainerSpec(image="i", mounts=(Mount(target="{{.X}}"),)),
            'expanding mounts failed: expanding mount target "{{.X}}": template: ',
        ),
        (
            ContainerSpec(
                image="i",
                mounts=(Mount(target="/a", volume_options=VolumeOptions(labels={"a": "{{.X}}"})),),
            ),
            "expanding mounts failed: expanding volume labels: "
            'expanding map entry "a"="{{.X}}": template: ',
        ),
    ],
)
def test_the_refusal_names_the_field_as_swarm_does(container: ContainerSpec, start: str) -> None:
    with pytest.raises(TemplateError) as refusal:
        check_container(container, "web")
    assert str(refusal.value).startswith(start)


def test_a_new_service_may_speak_of_any_label_until_its_own_are_known() -> None:
    check_template("{{.Service.Labels.mine}}")
    check_template("{{.Service.Labels.mine}}", {"mine": "1"})
    with pytest.raises(TemplateError, match="no entry for key"):
        check_template("{{.Service.Labels.mine}}", {})


WORDS = "{{ }} {{- -}} /* */ := $x .Task .Service.Labels index join if else end range"
PIECES = st.sampled_from([*WORDS.split(), *"|(),.$`\\ \n1é", '"'])


@settings(max_examples=500, print_blob=True)
@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_expanded_or_refused_in_one_line(text: str) -> None:
    refusal = ""
    try:
        expand(text, CONTEXT)
    except TemplateError as error:
        refusal = str(error)
    assert "\n" not in refusal
