"""`essaim kv …` as a user types it, each its own process, against a real master's API."""

import asyncio
import json
import os
import sys

import click
import pytest

from essaim_cli.kv_text import bytes_of, compare_of, key_query, operation_of, text_of
from essaim_master.kv.commands import Compact, Delete, Put, Transaction
from essaim_master.state.writes import Writes
from essaim_master.versions import CLUSTER_VERSION
from essaim_shared.objects import ClusterVersion

TIMEOUT_S = 20.0


@pytest.fixture
async def master(master):
    """All masters understand keys of users."""
    writes = Writes()
    writes.put(ClusterVersion(version=CLUSTER_VERSION))
    await master.write(writes)
    return master


async def start(master, *arguments, stdin=asyncio.subprocess.PIPE):
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "essaim_cli",
        "kv",
        *arguments,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ESSAIM_HOST": f"unix://{master.socket}"},
    )


async def feed(master, data, *arguments):
    process = await start(master, *arguments)
    out, err = await asyncio.wait_for(process.communicate(data), TIMEOUT_S)
    assert process.returncode == 0, err
    return out


async def next_line(process):
    return await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S)


async def write(master, *operations):
    return await master.cluster.commit(Transaction(then=operations), 1.0)


async def test_put_get_list_and_delete(master):
    assert await master.ok("kv", "put", "a/1", "one") == ""
    await master.ok("kv", "put", "a/2", "two words")
    assert await master.ok("kv", "get", "a/1") == "one\n"
    assert await master.ok("kv", "get", "a/", "--prefix") == "a/1\tone\na/2\ttwo words\n"
    assert await master.ok("kv", "ls", "a") == "a/1\na/2\n"
    assert await master.ok("kv", "put", "a/1", "uno", "--prev-kv") == "one\n"
    (pair,) = json.loads(await master.ok("kv", "get", "a/1", "-o", "json"))
    assert (pair["Value"], pair["Version"]) == ("uno", 2)
    assert await master.ok("kv", "get", "a/1", "--revision", str(pair["Created"])) == "one\n"
    assert await master.ok("kv", "del", "a/", "--prefix") == "2\n"
    missing = await master.run("kv", "get", "a/1")
    assert (missing.code, missing.out, missing.err) == (1, "", "Error: no key 'a/1'\n")


async def test_values_and_keys_are_bytes(master):
    value = bytes(range(256))
    assert await feed(master, value, "put", "bin") == b""
    assert await feed(master, b"", "get", "bin") == value + b"\n"
    key = b"k\xff/"
    await feed(master, b"v", "put", key)
    assert await feed(master, b"", "get", "k", "--prefix") == key + b"\tv\n"
    assert await feed(master, b"", "get", key) == b"v\n"


async def test_a_long_list_comes_in_pages_of_one_revision(master):
    for first in range(0, 2500, 125):
        numbers = range(first, first + 125)
        await write(master, *(Put(b"/kv/p/%05d" % number, b"") for number in numbers))
    await write(master, Put(b"/kv/q", b""))
    lines = (await master.ok("kv", "ls", "p/")).split()
    assert lines == [f"p/{number:05d}" for number in range(2500)]
    assert len((await master.ok("kv", "ls", "p/", "--limit", "1200")).split()) == 1200
    assert len((await master.ok("kv", "ls")).split()) == 2501


async def test_a_transaction_in_words_and_in_json(master):
    words = ["--if", "lock version = 0", "--then", "put lock 'me too'", "--else", "get lock"]
    assert await master.ok("kv", "txn", *words) == "SUCCESS\n"
    assert await master.ok("kv", "txn", *words) == "FAILURE\nlock\tme too\n"
    body = {"Then": [{"Op": "delete", "Key": "lock", "PrevKV": True}]}
    out = await feed(master, json.dumps(body).encode(), "txn", "-o", "json")
    assert json.loads(out)["Results"][0]["Deleted"] == 1
    bad = await master.run("kv", "txn", "--if", "lock colour = red")
    assert bad.code == 125
    assert "invalid compare" in bad.err
    assert (await master.run("kv", "txn")).code == 125


async def test_a_watch_tells_changes_as_they_happen_and_earlier_ones_on_demand(master):
    first = await write(master, Put(b"/kv/w/1", b"x"))
    process = await start(master, "watch", "w/", "--prefix", "--revision", str(first.revision))
    assert await next_line(process) == b"PUT\tw/1\tx\n"
    await write(master, Put(b"/kv/other", b""), Put(b"/kv/w/2", b"\xff"), Delete(b"/kv/w/1"))
    assert await next_line(process) == b"PUT\tw/2\t\xff\n"
    assert await next_line(process) == b"DELETE\tw/1\n"
    process.terminate()
    await process.wait()


async def test_a_watch_from_what_is_compacted_ends_with_one_line(master):
    done = await write(master, Put(b"/kv/a", b""))
    await write(master, Compact(done.revision))
    failed = await master.run("kv", "watch", "a", "--revision", "1")
    assert failed.code == 1
    assert "compacted" in failed.err
    assert failed.err.count("\n") == 1


async def test_a_watch_goes_on_after_the_master_was_away(master):
    process = await start(master, "watch", "a", "-o", "json")
    while not (await master.run("kv", "status", "-o", "json")).out.count('"Watches": 1'):
        pass
    await write(master, Put(b"/kv/a", b"1"))
    assert json.loads(await next_line(process))["Events"][0]["KV"]["Value"] == "1"
    for connection in master.server.connections:
        connection.transport.abort()
    for value in (b"2", b"3"):
        await write(master, Put(b"/kv/a", value))
    for value in "23":
        assert json.loads(await next_line(process))["Events"][0]["KV"]["Value"] == value
    process.terminate()
    await process.wait()


async def test_leases(master):
    lease = (await master.ok("kv", "lease", "grant", "60", "--id", "7f")).strip()
    assert lease == "7f"
    await master.ok("kv", "put", "mine", "x", "--lease", lease)
    assert await master.ok("kv", "lease", "ls", "-o", "json") == '[{"ID": "7f", "TTL": 60}]\n'
    shown = await master.ok("kv", "lease", "show", lease)
    assert shown.splitlines()[1:] == ["mine"]
    once = await master.ok("kv", "lease", "keep-alive", lease, "--once")
    assert once == "lease 7f lives for 60 s\n"
    assert await master.ok("kv", "lease", "revoke", lease) == "7f\n"
    assert (await master.run("kv", "get", "mine")).code == 1
    gone = await master.run("kv", "lease", "keep-alive", lease)
    assert gone.code == 1
    assert gone.err.count("\n") == 1
    assert (await master.run("kv", "lease", "revoke", "../nodes")).code == 125


async def test_compact_and_status(master):
    await master.ok("kv", "put", "a", "1")
    revision = json.loads(await master.ok("kv", "status", "-o", "json"))["Revision"]
    assert await master.ok("kv", "compact", str(revision)) == f"{revision}\n"
    status = json.loads(await master.ok("kv", "status", "-o", "json"))
    assert status["OldestRevision"] == revision + 1
    assert "QuotaBytes" in await master.ok("kv", "status")
    failed = await master.run("kv", "compact", "99999")
    assert (failed.code, failed.err.count("\n")) == (1, 1)


# Words and bytes


def test_operations_and_compares_in_words():
    assert operation_of("put 'a b' c --lease 7f --prev-kv") == {
        "Op": "put",
        "Key": "a b",
        "Value": "c",
        "Lease": "7f",
        "PrevKV": True,
    }
    assert operation_of("get a/ --prefix --limit 5") == {"Op": "get", "Prefix": "a/", "Limit": 5}
    assert operation_of("del a") == {"Op": "delete", "Key": "a"}
    assert compare_of("k mod > 5") == {
        "Key": "k",
        "Target": "mod",
        "Relation": ">",
        "Number": 5,
    }
    assert compare_of("k value != 'x y'")["Value"] == "x y"
    assert compare_of("k lease = 7f")["Value"] == "7f"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "put a",
        "get",
        "get a b",
        "delete a b",
        "frob a",
        "get a --fast",
        "put 'a",
        "get a --limit x",
    ],
)
def test_operations_that_mean_nothing_are_usage_errors(words):
    with pytest.raises(click.UsageError):
        operation_of(words)


@pytest.mark.parametrize("words", ["", "k", "k mod = x", "k mod >= 1", "k size = 1", "k mod = 1 2"])
def test_compares_that_mean_nothing_are_usage_errors(words):
    with pytest.raises(click.UsageError):
        compare_of(words)


@pytest.mark.parametrize("data", [b"", b"a", "é".encode(), b"\xff", b"\x00\x01"])
def test_bytes_survive_the_way_through_json(data):
    assert bytes_of(json.loads(json.dumps(text_of(data)))) == data


def test_a_key_that_is_no_text_is_asked_for_in_base64():
    assert key_query("a", False) == {"key": "a"}
    assert key_query("a\udcff", True) == {"prefix": "Yf8=", "base64": "1"}
