"""What the JSON edge takes, refuses and says."""

import msgspec
import pytest
from msgspec import UNSET

from essaim_master.http.json_edge import decode_object, decode_spec, field_of, says_nothing
from essaim_shared.errors import InvalidRequest
from essaim_shared.spec import NodeSpec, ServiceSpec


def decode(body, spec_type=ServiceSpec):
    return decode_spec(decode_object(body, "service spec"), spec_type, "service spec")


def service(**container):
    return msgspec.json.encode({"TaskTemplate": {"ContainerSpec": {"Image": "x", **container}}})


def refusal(body):
    with pytest.raises(InvalidRequest) as caught:
        decode(body)
    text = str(caught.value)
    assert "\n" not in text
    return text


# What `docker service create --name web --replicas 3 --init=false busybox sleep 1d` posts.
DOCKER_CLI_BODY = b"""{"Name":"web","Labels":{},"TaskTemplate":{"ContainerSpec":{"Image":
"busybox:latest","Args":["sleep","1d"],"Init":false,"DNSConfig":{},"Isolation":"default",
"Privileges":{"CredentialSpec":null,"SELinuxContext":null}},
"Resources":{"Limits":{},"Reservations":{}},"RestartPolicy":{"Condition":"on-failure",
"Delay":1500000000,"MaxAttempts":3},"Placement":{"Platforms":[{"Architecture":"amd64",
"OS":"linux"}]},"ForceUpdate":0,"Networks":null},"Mode":{"Replicated":{"Replicas":3}},
"UpdateConfig":null,"EndpointSpec":{"Mode":"vip","Ports":[]}}"""


def test_a_body_of_the_docker_cli_becomes_a_spec() -> None:
    spec = decode(DOCKER_CLI_BODY)
    assert spec.name == "web"
    assert spec.replicas == 3
    assert spec.task.container.args == ("sleep", "1d")
    assert spec.task.container.init is False
    assert spec.task.container.isolation == "default"
    assert spec.task.restart_policy.delay == 1_500_000_000
    assert spec.task.placement.platforms[0].architecture == "amd64"
    assert spec.endpoint.mode == "vip"


def test_keys_match_without_regard_to_case_as_in_go() -> None:
    body = b"""{"name":"w","tasktemplate":{"CONTAINERSPEC":{"image":"x","tty":true}},
        "mode":{"replicated":{"replicas":2}}}"""
    spec = decode(body)
    assert (spec.name, spec.replicas, spec.task.container.tty) == ("w", 2, True)


def test_label_names_are_data_and_keep_their_case() -> None:
    assert decode(service(Labels={"Tier": "A", "tier": "b"})).task.container.labels == {
        "Tier": "A",
        "tier": "b",
    }


@pytest.mark.parametrize("nothing", [None, False, 0, "", [], {}, {"A": None, "B": {"C": []}}])
def test_an_unknown_field_that_says_nothing_is_passed_over(nothing) -> None:
    assert says_nothing(nothing)
    assert decode(service(Ambitions=nothing)).task.container.image == "x"


@pytest.mark.parametrize("something", [True, 1, "x", [0], {"A": "b"}, {"A": [{}]}])
def test_an_unknown_field_that_says_something_is_refused_by_its_full_name(something) -> None:
    assert refusal(service(Ambitions=something)) == (
        'unknown field "TaskTemplate.ContainerSpec.Ambitions": Essaim does not support it yet'
    )


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (
            b'{"TaskTemplate":{"ContainerSpec":{"Image":"x"},"Nets":[{"Target":"n"}]}}',
            "TaskTemplate.Nets",
        ),
        (
            b'{"TaskTemplate":{"ContainerSpec":{"Image":"x"}},"UpdateConfig":{"Colour":1}}',
            "UpdateConfig.Colour",
        ),
        (b'{"EndpointSpec":{"Ports":[{"Host":"a"}]}}', "EndpointSpec.Ports[0].Host"),
        (
            b'{"TaskTemplate":{"Placement":{"Platforms":[{"OS":"linux"},{"Variant":"v7"}]}}}',
            "TaskTemplate.Placement.Platforms[1].Variant",
        ),
        (b'{"Replicas":3}', "Replicas"),
    ],
)
def test_the_name_of_an_unknown_field_is_its_path(body, name) -> None:
    assert f'unknown field "{name}"' in refusal(body)


def test_a_null_means_not_given() -> None:
    body = b"""{"Name":null,"Labels":null,"TaskTemplate":{"Resources":null,
        "ContainerSpec":{"Image":"x","Env":null,"Init":null}}}"""
    spec = decode(body)
    assert (spec.name, spec.labels, spec.task.container.env) == ("", {}, ())
    assert spec.task.container.init is None


def test_in_an_essaim_field_null_and_absent_differ() -> None:
    body = b'{"TaskTemplate":{"ContainerSpec":{"Image":"x"},"RestartPolicy":{"BackoffMax":%b}%b}}'
    absent = decode(body.replace(b'"BackoffMax":%b', b"").replace(b"%b", b""))
    cleared = decode(body % (b"null", b',"StopWhenCutOff":null'))
    given = decode(body % (b"7", b',"StopWhenCutOff":9'))
    assert absent.task.restart_policy.backoff_max is UNSET
    assert absent.task.stop_when_cut_off is UNSET
    assert cleared.task.restart_policy.backoff_max is None
    assert cleared.task.stop_when_cut_off is None
    assert (given.task.restart_policy.backoff_max, given.task.stop_when_cut_off) == (7, 9)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "invalid JSON: the request has no body, a service spec is expected"),
        (b"  \n", "invalid JSON: the request has no body, a service spec is expected"),
        (b"[]", "invalid JSON: a service spec is an object, got an array"),
        (b"null", "invalid JSON: a service spec is an object, got null"),
        (b'"x"', "invalid JSON: a service spec is an object, got a string"),
        (b"true", "invalid JSON: a service spec is an object, got a boolean"),
        (b"12", "invalid JSON: a service spec is an object, got a number"),
        (b"[" * 200_000, "invalid JSON: nested too deeply"),
        (b'{"a":' * 100_000, "invalid JSON: nested too deeply"),
    ],
)
def test_what_is_not_an_object_is_refused(body, sentence) -> None:
    assert refusal(body) == sentence


@pytest.mark.parametrize(
    "body", [b"{", b"\xff\xfe", b'{"Name":"\\ud800"}', b'{"a":1}x', b"{'a':1}", b'{"a":NaN}']
)
def test_what_is_not_json_is_refused(body) -> None:
    assert refusal(body).startswith("invalid JSON: ")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"Image": 3}, '"TaskTemplate.ContainerSpec.Image": expected `str`, got `int`'),
        ({"Env": "A=b"}, '"TaskTemplate.ContainerSpec.Env": expected `array`, got `str`'),
        ({"Env": ["A", 3]}, '"TaskTemplate.ContainerSpec.Env[1]": expected `str`, got `int`'),
        ({"TTY": 1}, '"TaskTemplate.ContainerSpec.TTY": expected `bool`, got `int`'),
        ({"StopGracePeriod": 1.5}, "TaskTemplate.ContainerSpec.StopGracePeriod"),
        ({"DNSConfig": []}, "TaskTemplate.ContainerSpec.DNSConfig"),
        ({"Isolation": "no"}, 'value "no" of the field "TaskTemplate.ContainerSpec.Isolation"'),
        ({"StopGracePeriod": 2**63}, "holds a number outside 64 bits"),
        ({"OomScoreAdj": -(2**63) - 1}, "holds a number outside 64 bits"),
        ({"Sysctls": {"a": 1}}, "TaskTemplate.ContainerSpec.Sysctls"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_its_path(fields, sentence) -> None:
    assert sentence in refusal(service(**fields))


def test_a_missing_image_field_is_named() -> None:
    assert refusal(b'{"TaskTemplate":{"ContainerSpec":{}}}') == (
        'invalid service spec: "TaskTemplate.ContainerSpec": object missing required field `Image`'
    )


def test_a_field_given_twice_in_two_spellings_is_refused() -> None:
    assert refusal(b'{"Name":"a","name":"b"}') == 'the field "Name" is given twice'


def test_an_endless_unknown_object_is_refused_without_recursion() -> None:
    body = b'{"X":' + b'{"a":' * 400 + b"{}" + b"}" * 400 + b"}"
    assert 'unknown field "X"' in refusal(body)


def test_a_node_spec_is_read_the_same_way() -> None:
    spec = decode(b'{"role":"manager","AVAILABILITY":"drain","Labels":{"a":"b"}}', NodeSpec)
    assert (spec.role, spec.availability, spec.labels) == ("manager", "drain", {"a": "b"})


def test_field_of_prefers_the_exact_key() -> None:
    assert field_of({"mode": 1, "Mode": 2}, "Mode") == 2
    assert field_of({"MODE": 1}, "Mode") == 1
    assert field_of({}, "Mode") is None
