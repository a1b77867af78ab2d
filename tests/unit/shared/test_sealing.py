"""Seals: who opens them, what they are bound to, and what they give away."""

import subprocess
import sys
from pathlib import Path

import pytest

from essaim_shared.errors import ConfigError
from essaim_shared.sealing import (
    DataKey,
    SealError,
    load_data_key,
    load_key_pair,
    make_key_pair_file,
    new_data_key_text,
    new_key_pair,
    open_with,
    seal_to,
    write_private,
)

SECRET = b"open sesame"
HERE, ELSEWHERE = b"service a", b"service b"


def test_a_data_key_opens_what_it_sealed_in_the_same_place_only() -> None:
    key = DataKey(bytes(32))
    sealed = key.seal(SECRET, HERE)
    assert key.open(sealed, HERE) == SECRET
    with pytest.raises(SealError, match="moved from another place"):
        key.open(sealed, ELSEWHERE)


def test_another_data_key_is_named_and_not_called_damage() -> None:
    one, other = DataKey(bytes(32)), DataKey(bytes(31) + b"\1")
    with pytest.raises(SealError, match=f"{one.id.hex()}.*{other.id.hex()}"):
        other.open(one.seal(SECRET, HERE), HERE)


def test_the_same_secret_never_looks_the_same() -> None:
    key, pair = DataKey(bytes(32)), new_key_pair()
    assert key.seal(SECRET, HERE) != key.seal(SECRET, HERE)
    assert seal_to(pair.public_text, SECRET, HERE) != seal_to(pair.public_text, SECRET, HERE)


def test_any_changed_byte_and_any_cut_is_noticed() -> None:
    key, pair = DataKey(bytes(32)), new_key_pair()
    for sealed, opened in (
        (key.seal(SECRET, HERE), lambda damaged: key.open(damaged, HERE)),
        (
            seal_to(pair.public_text, SECRET, HERE),
            lambda damaged: open_with(pair, damaged, HERE),
        ),
    ):
        for position in range(len(sealed)):
            changed = bytearray(sealed)
            changed[position] ^= 1
            with pytest.raises(SealError):
                opened(bytes(changed))
            with pytest.raises(SealError):
                opened(sealed[:position])


def test_only_its_receiver_opens_what_is_sealed_to_a_key() -> None:
    receiver, other = new_key_pair(), new_key_pair()
    sealed = seal_to(receiver.public_text, SECRET, HERE)
    assert open_with(receiver, sealed, HERE) == SECRET
    for pair, context in ((other, HERE), (receiver, ELSEWHERE)):
        with pytest.raises(SealError):
            open_with(pair, sealed, context)


@pytest.mark.parametrize("announced", ["", "!", "AAAA", "A" * 43 + "=", "ä", "A" * 1000])
def test_a_node_that_announces_no_key_gets_nothing(announced: str) -> None:
    """`A…=` is 32 zero bytes: a point of low order."""
    with pytest.raises(SealError, match="no usable key"):
        seal_to(announced, SECRET, HERE)


def test_neither_a_seal_nor_a_key_pair_shows_what_is_secret() -> None:
    pair = new_key_pair()
    assert SECRET not in DataKey(bytes(32)).seal(SECRET, HERE)
    assert SECRET not in seal_to(pair.public_text, SECRET, HERE)
    assert repr(pair) == f"KeyPair(public={pair.public_text!r})"


def test_a_key_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    write_private(path, new_data_key_text().encode())
    assert path.stat().st_mode & 0o777 == 0o600
    key = load_data_key(path)
    assert load_data_key(path).open(key.seal(SECRET, HERE), HERE) == SECRET


def test_a_private_file_is_on_disk_with_its_name(tmp_path: Path) -> None:
    """Else a loss of power brings the file back that it has replaced."""
    path = tmp_path / "own.pem"
    program = (
        "import os, sys; from pathlib import Path; from essaim_shared import sealing; "
        "force, path = os.fsync, Path(sys.argv[1]); "
        "os.fsync = lambda number: (print(os.readlink(f'/proc/self/fd/{number}'), path.exists()), "
        "force(number)); "
        "sealing.write_private(path, b'key')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [f"{path}.new False", f"{tmp_path} True"]


def test_a_key_pair_file_is_made_by_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "seal_key"
    subprocess.run([sys.executable, "-m", "essaim_shared.sealing", str(path)], check=True)
    assert path.stat().st_mode & 0o777 == 0o600
    pair = load_key_pair(path)
    assert open_with(pair, seal_to(pair.public_text, SECRET, HERE), HERE) == SECRET


def test_a_key_pair_is_announced_without_the_library(tmp_path: Path) -> None:
    """It is 12 MB of every agent's memory otherwise."""
    path = tmp_path / "seal_key"
    make_key_pair_file(path)
    program = (
        "import sys; from pathlib import Path; from essaim_shared.sealing import load_key_pair; "
        "print(load_key_pair(Path(sys.argv[1])).public_text); "
        "assert not any(name.startswith('cryptography') for name in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == load_key_pair(path).public_text


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (new_data_key_text(), 0o640, "others may read this key: run chmod 600"),
        ("not base64!", 0o600, "holds no key in base64"),
        ("AAAA\n", 0o600, "holds 3 bytes, a key has 32"),
        ("", 0o600, "holds 0 bytes"),
        (None, 0o600, "No such file"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_named(tmp_path, content, mode, words) -> None:
    path = tmp_path / "seal.key"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=words) as refused:
        load_data_key(path)
    assert str(path) in str(refused.value)
