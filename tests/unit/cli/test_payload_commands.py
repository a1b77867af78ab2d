"""`essaim secret …` and `essaim config …`: what is sent, what is shown, lost answers."""

import base64

import pytest
from click.testing import CliRunner
from support.scripted_master import BREAK, Refusal

from essaim_cli.__main__ import run
from essaim_cli.main import cli

ID = "p" * 25
KINDS = ("secret", "config")
DATA = b"\x00s3cret\xff"


def b64(data):
    return base64.b64encode(data).decode()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return str(path)


def stored(name="pass", **spec):
    return {
        "ID": ID,
        "Version": {"Index": 7},
        "CreatedAt": "2020-01-01T00:00:00Z",
        "UpdatedAt": "2020-01-02T00:00:00Z",
        "Spec": {"Name": name, "Labels": {}, **spec},
        "DataVersion": 2,
        "DataVersions": [1, 2],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_create_sends_the_file_as_it_is_and_prints_the_id(masters, capsys, kind, file) -> None:
    host, master = masters({f"POST /{kind}s/create": [{"ID": ID}]})
    assert run(["--host", host, kind, "create", "-l", "a=1", "--label", "b", "pass", file]) == 0
    assert capsys.readouterr().out == f"{ID}\n"
    body = {"Name": "pass", "Labels": {"a": "1", "b": ""}, "Data": b64(DATA)}
    assert master.bodies(f"POST /{kind}s/create") == [body]


@pytest.mark.parametrize("kind", KINDS)
def test_create_reads_standard_input(masters, kind) -> None:
    host, master = masters({f"POST /{kind}s/create": [{"ID": ID}]})
    words = ["--host", host, kind, "create", "pass", "-"]
    assert CliRunner().invoke(cli, words, input=DATA).exit_code == 0
    (body,) = master.bodies(f"POST /{kind}s/create")
    assert body["Data"] == b64(DATA)


@pytest.mark.parametrize("kind", KINDS)
def test_update_says_the_number_and_who_rolls_to_it(masters, capsys, kind, file) -> None:
    route = f"POST /essaim/{kind}s/pass/data"
    answer = {"ID": ID, "DataVersion": 3, "Changed": True, "Services": ["api", "web"]}
    host, master = masters({route: [answer, {**answer, "Changed": False}]})
    assert run(["--host", host, kind, "update", "pass", file]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{kind} pass: version 3\n"
    assert printed.err == "Services that follow roll to it: api, web\n"
    assert master.bodies(route) == [{"Data": b64(DATA)}]
    assert run(["--host", host, kind, "update", "pass", file]) == 0
    assert capsys.readouterr().out == f"{kind} pass has this data already: version 3\n"


def test_newer_data_whose_answer_was_lost_is_sent_again(masters, capsys, file) -> None:
    route = "POST /essaim/secrets/pass/data"
    answer = {"ID": ID, "DataVersion": 2, "Changed": False, "Services": []}
    host, lost, _ = masters({route: [BREAK]}, {route: [answer]})
    assert run(["--host", host, "secret", "update", "pass", file]) == 0
    assert len(lost.heard) == 1
    assert "version 2" in capsys.readouterr().out


@pytest.mark.parametrize(("data", "code", "printed"), [(DATA, 0, f"{ID}\n"), (b"other", 1, "")])
def test_a_config_whose_answer_was_lost_is_known_by_its_data(
    masters, capsys, file, data, code, printed
) -> None:
    taken = Refusal(409, "config pass already exists")
    create = "POST /configs/create"
    found = stored(Data=b64(data))
    host, _, _ = masters({create: [BREAK]}, {create: [taken], "GET /configs/pass": [found]})
    assert run(["--host", host, "config", "create", "pass", file]) == code
    assert capsys.readouterr().out == printed


def test_a_secret_whose_answer_was_lost_cannot_be_known(masters, capsys, file) -> None:
    create = "POST /secrets/create"
    taken = Refusal(409, "secret pass already exists")
    script = {create: [taken], "GET /secrets/pass": [stored()]}
    host, _, _ = masters({create: [BREAK]}, script)
    assert run(["--host", host, "secret", "create", "pass", file]) == 1
    assert "essaim secret update pass makes sure of its data" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_there_or_too_long(masters, capsys, kind, tmp_path) -> None:
    host, master = masters({f"POST /{kind}s/create": [Refusal(400, "less than")]})
    assert run(["--host", host, kind, "create", "pass", str(tmp_path / "gone")]) == 1
    assert "gone: No such file or directory" in capsys.readouterr().err
    assert master.heard == []
    large = tmp_path / "large"
    large.write_bytes(bytes(3_000_000))
    assert run(["--host", host, kind, "create", "pass", str(large)]) == 1
    (body,) = master.bodies(f"POST /{kind}s/create")
    assert len(base64.b64decode(body["Data"])) <= 1000 * 1024


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("create pass", "Missing argument"),
        ("create --driver vault pass x", "Essaim keeps the data itself, sealed"),
        ("create --template-driver golang pass x", "into variables"),
        ("inspect", "Missing argument"),
        ("rm", "Missing argument"),
        ("ls -f x", "write KEY=VALUE"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_meant_is_told_before_anything_is_sent(
    masters, capsys, kind, words, said
) -> None:
    host, master = masters({})
    assert run(["--host", host, kind, *words.split()]) == 125
    assert said in capsys.readouterr().err
    assert master.heard == []


def test_lists(masters, capsys) -> None:
    found = [stored("db-10"), {**stored("db-2"), "ID": "q" * 25}]
    host, _ = masters({"GET /secrets": [found], "GET /configs": [found]})
    assert run(["--host", host, "secret", "ls"]) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["ID", "NAME", "DRIVER", "CREATED", "UPDATED", "VERSION"]
    assert first.startswith(f"{'q' * 25}   db-2 ")
    assert second.startswith(f"{ID}   db-10 ")
    assert run(["--host", host, "config", "ls"]) == 0
    heading, *_ = capsys.readouterr().out.splitlines()
    assert heading.split() == ["ID", "NAME", "CREATED", "UPDATED", "VERSION"]
    assert run(["--host", host, "config", "list", "-q"]) == 0
    assert capsys.readouterr().out == f"{'q' * 25}\n{ID}\n"
    template = "{{.Name}} {{.DataVersion}}"
    assert run(["--host", host, "secret", "ls", "--format", template]) == 0
    assert capsys.readouterr().out == "db-2 2\ndb-10 2\n"


def test_inspect(masters, capsys) -> None:
    shown = stored(Labels={"a": "1"}, Data=b64(b"x: 1\n"))
    host, _ = masters(
        {"GET /configs/a": [shown], "GET /configs/b": [Refusal(404, "config b not found")]}
    )
    assert run(["--host", host, "config", "inspect", "--pretty", "a"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"ID:              {ID}",
        "Name:            pass",
        "Labels:",
        " - a=1",
        "Created at:      2020-01-01T00:00:00Z",
        "Updated at:      2020-01-02T00:00:00Z",
        "Version:         2",
        "Kept versions:   1, 2",
        "Data:",
        "x: 1",
        "",
    ]
    assert run(["--host", host, "config", "inspect", "-f", "{{.Spec.Name}}", "b", "a"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "pass\n"
    assert printed.err == "Error: config b not found\n"
    assert run(["--host", host, "config", "inspect", "--pretty", "-f", "x", "a"]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_rm_goes_on_after_an_error(masters, capsys, kind) -> None:
    used = Refusal(400, f"{kind} 'b' is in use by the following service: web")
    host, _ = masters({f"DELETE /{kind}s/a": [None], f"DELETE /{kind}s/b": [used],
                       f"DELETE /{kind}s/c": [None]})  # fmt: skip
    assert run(["--host", host, kind, "rm", "a", "b", "c"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "a\nc\n"
    assert printed.err == f"Error: {used.message}\n"


def test_a_service_whose_answer_was_lost_is_known_with_its_secrets(masters, capsys) -> None:
    """Masters add ids and numbers, and have an order of their own."""

    def reference(name, **more):
        file = {"Name": name, "UID": "0", "GID": "0", "Mode": 0o444}
        return {"SecretName": name, "File": file, **more}

    container = {
        "Image": "img:1",
        "Secrets": [
            reference(name, SecretID="s" * 25, DataVersion=number)
            for name, number in (("a", 4), ("b", 1))
        ],
    }
    found = {"Name": "web", "TaskTemplate": {"ContainerSpec": container}}
    found["Mode"] = {"Replicated": {"Replicas": 1}}
    create = "POST /services/create"
    taken = Refusal(409, "service web already exists")
    script = {create: [taken], "GET /services/web": [{"ID": ID, "Spec": found}]}
    words = ["service", "create", "-d", "--name", "web", "--secret", "b", "--secret", "a", "img:1"]
    host, _, _ = masters({create: [BREAK]}, script)
    assert run(["--host", host, *words]) == 0
    assert capsys.readouterr().out == f"{ID}\n"
