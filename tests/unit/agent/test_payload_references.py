"""What a spec says of secrets and configs, before any of it becomes a path."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from essaim_agent.executor import Refused
from essaim_agent.payloads.references import (
    FILES_PER_TASK_MAX,
    PayloadKey,
    directory_of,
    file_mounts,
    keys_of,
    wanted_files,
)
from essaim_shared.container_spec import (
    ConfigReference,
    ContainerSpec,
    ReferencedFile,
    SecretReference,
)

ID = "0123456789abcdefghijklmno"
OTHER_ID = "z" * 25
DIRECTORY = Path("/run/essaim/secrets")


def secret(name: str = "password", **parts: Any) -> SecretReference:
    file = parts.pop("file", ReferencedFile(name=name))
    fields = {"secret_id": ID, "secret_name": name, "data_version": 1, **parts}
    return SecretReference(file=file, **fields)


def config(name: str = "nginx.conf", **parts: Any) -> ConfigReference:
    fields = {"config_id": OTHER_ID, "config_name": name, "data_version": 3, **parts}
    return ConfigReference(file=ReferencedFile(name=name), **fields)


def with_secrets(*secrets: SecretReference) -> ContainerSpec:
    return ContainerSpec(image="busybox", secrets=secrets)


def test_secrets_come_before_configs_each_in_the_order_of_the_spec() -> None:
    container = ContainerSpec(
        image="busybox", secrets=(secret("b"), secret("a")), configs=(config(),)
    )
    files = wanted_files(container)
    assert [file.title for file in files] == ['secret "b"', 'secret "a"', 'config "nginx.conf"']
    assert keys_of(files) == (PayloadKey("secret", ID, 1), PayloadKey("config", OTHER_ID, 3))


@pytest.mark.parametrize(
    ("name", "in_secrets", "in_configs"),
    [
        ("x", "/run/secrets/x", "/x"),
        ("sub/x", "/run/secrets/sub/x", "/sub/x"),
        ("./sub//x", "/run/secrets/sub/x", "/sub/x"),
        ("/etc/app/x", "/etc/app/x", "/etc/app/x"),
        ("//etc/x", "/etc/x", "/etc/x"),
        ("..x", "/run/secrets/..x", "/..x"),
    ],
)
def test_relative_names_have_a_place_of_their_own_and_absolute_ones_stay(
    name: str, in_secrets: str, in_configs: str
) -> None:
    container = ContainerSpec(image="busybox", secrets=(secret(name),), configs=(config(name),))
    assert [file.target for file in wanted_files(container)] == [in_secrets, in_configs]


@pytest.mark.parametrize(
    "name", ["", "/", "..", "../x", "a/../../x", "/a/../x", "a\0b", "x" * 5000]
)
def test_a_name_that_is_no_path_of_a_file_is_refused(name: str) -> None:
    with pytest.raises(Refused, match=r'^secret "password": .* is no path of a file$') as refusal:
        wanted_files(with_secrets(secret(file=ReferencedFile(name=name))))
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "../../../../etc/passwd/xxxxx",
        "0" * 24,
        "0" * 26,
        "A" * 25,
        "0123456789abcdefghijklm/o",
        ID + "\n",
    ],
)
def test_an_id_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(Refused, match=r'^secret "password": .* is no id$'):
        wanted_files(with_secrets(secret(secret_id=bad)))


@pytest.mark.parametrize("number", [UNSET, None, -1])
def test_a_reference_without_a_number_of_its_data_is_refused(number: Any) -> None:
    with pytest.raises(Refused, match="has no data version"):
        wanted_files(with_secrets(secret(data_version=number)))


def test_a_reference_without_a_file_is_refused() -> None:
    with pytest.raises(Refused, match=r'^secret "password" names no file$'):
        wanted_files(with_secrets(secret(file=None)))


@pytest.mark.parametrize("owner", ["root", "", "-1", "4294967295", "1.5", "0x10", "１"])
@pytest.mark.parametrize("what", ["uid", "gid"])
def test_an_owner_is_a_number(what: str, owner: str) -> None:
    file = msgspec.structs.replace(ReferencedFile(name="x"), **{what: owner})
    with pytest.raises(Refused, match=f'^secret "password": {what} .* is not a number'):
        wanted_files(with_secrets(secret(file=file)))


@pytest.mark.parametrize("mode", [-1, 0o1000, 0o4755, 2**40])
def test_a_mode_is_one_of_reading_writing_and_running(mode: int) -> None:
    with pytest.raises(Refused, match=r"mode .* is not in 0\.\.0o777"):
        wanted_files(with_secrets(secret(file=ReferencedFile(name="x", mode=mode))))


def test_owner_and_mode_are_as_asked() -> None:
    file = ReferencedFile(name="x", uid="1000", gid="4294967294", mode=0o440)
    [wanted] = wanted_files(with_secrets(secret(file=file)))
    assert (wanted.uid, wanted.gid, wanted.mode) == (1000, 4294967294, 0o440)


def test_a_task_is_given_a_bounded_number_of_files() -> None:
    many = tuple(secret(f"s{number}") for number in range(FILES_PER_TASK_MAX + 1))
    assert len(wanted_files(with_secrets(*many[:-1]))) == FILES_PER_TASK_MAX
    with pytest.raises(Refused, match=f"a task can be given {FILES_PER_TASK_MAX}"):
        wanted_files(with_secrets(*many))


def test_the_engine_is_told_paths_without_a_word_of_the_user() -> None:
    container = ContainerSpec(image="busybox", secrets=(secret(),), configs=(config("/etc/n"),))
    assert file_mounts(container, "task1", DIRECTORY) == [
        {
            "Type": "bind",
            "Source": "/run/essaim/secrets/task1/secret-0",
            "Target": "/run/secrets/password",
            "ReadOnly": True,
        },
        {
            "Type": "bind",
            "Source": "/run/essaim/secrets/task1/config-1",
            "Target": "/etc/n",
            "ReadOnly": True,
        },
    ]
    assert file_mounts(ContainerSpec(image="busybox"), "../any", DIRECTORY) == []


@pytest.mark.parametrize("task_id", ["", ".", "..", "../x", "a/b", ".x", "a\0", "x" * 129, "a.new"])
def test_a_task_whose_id_is_no_name_of_a_directory_has_none(task_id: str) -> None:
    with pytest.raises(Refused, match="is no id of a task"):
        directory_of(DIRECTORY, task_id)
