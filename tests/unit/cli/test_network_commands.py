"""`essaim network …`: what each flag asks of a master, what is refused before, lost answers."""

import pytest
from support.scripted_master import BREAK, Refusal

from essaim_cli.__main__ import run
from essaim_cli.network_commands import create, created_network

ID = "n" * 25
CREATE = "POST /networks/create"
TAKEN = Refusal(409, "network with name front already exists")


def body_of(*flags):
    given = create.make_context("create", [*flags, "front"]).params
    return created_network(given.pop("name"), given)


def test_nothing_is_sent_that_was_not_asked_for():
    assert body_of() == {"Name": "front", "Driver": "overlay"}


@pytest.mark.parametrize(
    ("flags", "piece"),
    [
        (("-d", "overlay"), {}),
        (("--driver", "bridge"), {"Driver": "bridge"}),
        (("--internal",), {"Internal": True}),
        (("--internal=false",), {}),
        (("--attachable",), {"Attachable": True}),
        (("--ingress",), {"Ingress": True}),
        (("--ipv6",), {"EnableIPv6": True}),
        (("--ipv4",), {}),
        (("--ipv4=false",), {"EnableIPv4": False}),
        (("--scope", "swarm"), {"Scope": "swarm"}),
        (("--config-only",), {"ConfigOnly": True}),
        (("--config-from", "other"), {"ConfigFrom": {"Network": "other"}}),
        (("--label", "a=1", "--label", "b"), {"Labels": {"a": "1", "b": ""}}),
        (("-o", "mtu=1400", "--opt", "encrypted="), {"Options": {"mtu": "1400", "encrypted": ""}}),
        (("-o", "encrypted"), {"Options": {"encrypted": ""}}),
        (("--ipam-driver", "dhcp"), {"IPAM": {"Driver": "dhcp"}}),
        (("--ipam-opt", "a=b"), {"IPAM": {"Driver": "default", "Options": {"a": "b"}}}),
        (
            ("--subnet", "10.5.0.0/16"),
            {"IPAM": {"Driver": "default", "Config": [{"Subnet": "10.5.0.0/16"}]}},
        ),
        (
            (
                *("--subnet", "10.5.0.0/16,10.6.0.9/16", "--ip-range", "10.6.4.0/24"),
                *("--gateway", "10.5.0.1", "--aux-address", "router=10.5.0.9"),
            ),
            {
                "IPAM": {
                    "Driver": "default",
                    "Config": [
                        {
                            "Subnet": "10.5.0.0/16",
                            "Gateway": "10.5.0.1",
                            "AuxiliaryAddresses": {"router": "10.5.0.9"},
                        },
                        {"Subnet": "10.6.0.0/16", "IPRange": "10.6.4.0/24"},
                    ],
                }
            },
        ),
    ],
    ids=str,
)
def test_a_flag_makes_its_piece_of_the_network(flags, piece):
    assert body_of(*flags) == {"Name": "front", "Driver": "overlay", **piece}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("create", 125, "Missing argument 'NETWORK'"),
        ("create --nonsense front", 125, "--nonsense"),
        ("create --subnet 10.5.0.0 front", 125, "invalid CIDR address: 10.5.0.0"),
        ("create --subnet 10.5.0.0/33 front", 125, "invalid CIDR address: 10.5.0.0/33"),
        ("create --ip-range x/8 front", 125, "invalid CIDR address: x/8"),
        ("create --gateway here front", 125, "invalid IP address: here"),
        ("create --aux-address 10.0.0.1 front", 125, "write NAME=ADDRESS"),
        ("create --label =x front", 125, "write KEY=VALUE"),
        ("create --opt = front", 125, "write KEY=VALUE"),
        ("create --internal=maybe front", 125, "write true or false"),
        ("create --gateway 10.5.0.1 front", 1, "must have a corresponding subnet"),
        ("create --subnet 10.5.0.0/16 --subnet 10.5.4.0/24 front", 1, "multiple overlapping"),
        ("create --subnet 10.5.0.0/16 --ip-range 10.6.0.0/24 front", 1,
         "no matching subnet for range 10.6.0.0/24"),
        ("create --subnet 10.5.0.0/16 --gateway 10.6.0.1 front", 1,
         "no matching subnet for gateway 10.6.0.1"),
        ("create --subnet 10.5.0.0/16 --aux-address a=10.6.0.1 front", 1,
         "no matching subnet for aux-address 10.6.0.1"),
        ("create --subnet 10.5.0.0/16,10.6.0.0/16 --ip-range 10.5.1.0/24,10.5.2.0/24 front", 1,
         "cannot configure multiple ranges"),
        ("create --subnet 10.5.0.0/16,10.6.0.0/16 --gateway 10.5.0.1,10.5.0.2 front", 1,
         "cannot configure multiple gateways"),
        ("ls -f driver", 125, "write KEY=VALUE"),
        ("inspect", 125, "Missing argument 'NETWORK...'"),
        ("rm", 125, "Missing argument 'NETWORK...'"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told_before_anything_is_sent(masters, capsys, words, code, said):
    host, master = masters({})
    assert run(["--host", host, "network", *words.split()]) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("Error: ")
    assert said in printed.err
    assert printed.out == ""
    assert master.heard == []


def test_create_prints_the_id_and_the_masters_warning(masters, capsys):
    host, _ = masters({CREATE: [{"Id": ID, "Warning": "the MTU is small"}]})
    assert run(["--host", host, "network", "create", "front"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{ID}\n"
    assert printed.err == "Warning: the MTU is small\n"


def test_a_refusal_is_the_masters_own(masters, capsys):
    host, _ = masters({CREATE: [Refusal(400, "attachable networks are not there yet")]})
    assert run(["--host", host, "network", "create", "--attachable", "front"]) == 1
    assert capsys.readouterr().err == "Error: attachable networks are not there yet\n"


def test_a_network_whose_answer_was_lost_is_found_by_its_name(masters, capsys):
    found = {"Id": ID, "Name": "front", "Driver": "overlay", "Labels": {"a": "1"}}
    host, _, _ = masters({CREATE: [BREAK]}, {CREATE: [TAKEN], "GET /networks/front": [found]})
    assert run(["--host", host, "network", "create", "--label", "a=1", "front"]) == 0
    assert capsys.readouterr().out == f"{ID}\n"


def test_somebody_elses_network_of_that_name_is_not_taken_for_ours(masters, capsys):
    found = {"Id": ID, "Name": "front", "Driver": "overlay", "Internal": True}
    host, _, _ = masters({CREATE: [BREAK]}, {CREATE: [TAKEN], "GET /networks/front": [found]})
    assert run(["--host", host, "network", "create", "front"]) == 1
    assert capsys.readouterr().err == "Error: network with name front already exists\n"


@pytest.mark.parametrize("word", ["rm", "remove"])
def test_rm_goes_on_after_an_error(masters, capsys, word):
    used = Refusal(403, "error while removing network: network b is in use by service web")
    host, _ = masters({"DELETE /networks/a": [None], "DELETE /networks/b": [used],
                       "DELETE /networks/c": [None]})  # fmt: skip
    assert run(["--host", host, "network", word, "a", "b", "c"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "a\nc\n"
    assert printed.err == f"Error: {used.message}\n"


def test_rm_with_force_does_not_mind_what_is_not_there(masters, capsys):
    host, _ = masters({"DELETE /networks/a": [Refusal(404, "network a not found")]})
    assert run(["--host", host, "network", "rm", "-f", "a"]) == 0
    assert capsys.readouterr().err == ""
    assert run(["--host", host, "network", "rm", "a"]) == 1


def test_ls_in_natural_order_and_by_template(masters, capsys):
    found = [
        {"Id": ID, "Name": "net-10", "Driver": "overlay", "Scope": "swarm", "Labels": {"a": "1"}},
        {"Id": "m" * 25, "Name": "net-2", "Driver": "overlay", "Scope": "swarm", "Internal": True},
    ]
    host, _ = masters({"GET /networks": [found]})
    assert run(["--host", host, "network", "ls", "--no-trunc", "-q"]) == 0
    assert capsys.readouterr().out.split() == ["m" * 25, ID]
    template = "{{.Name}} {{.Internal}} {{.Labels}}"
    assert run(["--host", host, "network", "list", "--format", template]) == 0
    assert capsys.readouterr().out == "net-2 true \nnet-10 false a=1\n"


def test_inspect_shows_what_it_found_and_fails_for_the_rest(masters, capsys):
    host, _ = masters({"GET /networks/a": [{"Id": ID, "Name": "a"}],
                       "GET /networks/b": [Refusal(404, "network b not found")]})  # fmt: skip
    assert run(["--host", host, "network", "inspect", "-f", "{{.Id}}", "b", "a"]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{ID}\n"
    assert printed.err == "Error: network b not found\n"


def service(networks):
    return {
        "ID": "s" * 25,
        "Version": {"Index": 3},
        "Spec": {
            "Name": "web",
            "Labels": {},
            "Mode": {"Replicated": {"Replicas": 1}},
            "TaskTemplate": {"ContainerSpec": {"Image": "img:1"}, "Networks": networks},
        },
    }


def test_an_update_finds_networks_by_the_names_that_people_write(masters):
    host, master = masters(
        {
            "GET /networks/front": [{"Id": "f" * 25, "Name": "front"}],
            "GET /networks/back": [{"Id": "b" * 25, "Name": "back"}],
            "GET /networks/kept": [{"Id": "k" * 25, "Name": "kept"}],
            "GET /services/web": [service([{"Target": "f" * 25}, {"Target": "k" * 25}])],
            f"POST /services/{'s' * 25}/update": [{}],
        }
    )
    flags = ["--network-rm", "front", "--network-add", "back"]
    replaced = ["--network-add", "name=kept,alias=db"]
    assert run(["--host", host, "service", "update", "-d", *flags, *replaced, "web"]) == 0
    (sent,) = master.bodies(f"POST /services/{'s' * 25}/update")
    assert sent["TaskTemplate"]["Networks"] == [
        {"Target": "k" * 25, "Aliases": ["db"]},
        {"Target": "b" * 25},
    ]


def test_an_update_with_an_unknown_network_changes_nothing(masters, capsys):
    missing = Refusal(404, "network front not found")
    host, master = masters({"GET /networks/front": [missing], "GET /services/web": [service([])]})
    assert run(["--host", host, "service", "update", "-d", "--network-rm", "front", "web"]) == 1
    assert capsys.readouterr().err == "Error: network front not found\n"
    assert not [route for route, _ in master.heard if route.startswith("POST")]


def test_a_create_whose_answer_was_lost_is_known_though_networks_have_ids(masters, capsys):
    stored = service([{"Target": "f" * 25, "Aliases": ["db"]}])
    host, _, _ = masters(
        {"POST /services/create": [BREAK]},
        {
            "POST /services/create": [Refusal(409, "name conflicts: service web already exists")],
            "GET /services/web": [stored],
            "GET /networks/front": [{"Id": "f" * 25, "Name": "front"}],
        },
    )
    flags = ["--name", "web", "--network", "name=front,alias=db"]
    assert run(["--host", host, "service", "create", "-d", *flags, "img:1"]) == 0
    assert capsys.readouterr().out == f"{'s' * 25}\n"
