"""The bus server beside a master knows whom the state knows, soon and not too often."""

import asyncio
import logging

from essaim_master.bus_users.keeper import LOOK_PERIOD_S, RELOAD_SPACING_S, RELOAD_TIMEOUT_S
from essaim_shared.objects import ClusterSettings
from essaim_shared.trust.roles import Role


async def test_a_newcomer_is_known_once_the_server_has_read_its_file(bench):
    await bench.admit("m1", Role.MASTER)
    bench.start()
    await bench.run(1)
    node = await bench.admit("n1")
    revision = bench.state.revision
    assert not bench.keeper.covers(revision)
    waiting = asyncio.create_task(bench.keeper.wait(revision, 5))
    await bench.run(0.3)
    assert await waiting
    assert bench.server.knows(node.bus_key)
    await bench.remove("n1")
    await bench.until(lambda: not bench.server.knows(node.bus_key))


async def test_a_thousand_that_join_at_once_are_a_few_reloads(bench):
    await bench.admit("m1", Role.MASTER)
    bench.start()
    await bench.run(1)
    before = len(bench.server.loads)
    waiting = []
    for number in range(1000):
        await bench.admit(f"n{number}")
        waiting.append(asyncio.create_task(bench.keeper.wait(bench.state.revision, 10)))
        if number % 100 == 0:
            await bench.run(0.05)
    await bench.run(1)
    assert all(await asyncio.gather(*waiting))
    assert len(bench.server.loads) - before <= 2 + 0.5 / RELOAD_SPACING_S
    assert bench.server.loaded.count("nkey:") == 1001


async def test_other_changes_of_the_state_are_none_of_its_business(bench):
    await bench.admit("m1", Role.MASTER)
    bench.start()
    await bench.run(1)
    before = list(bench.server.loads)
    revision = await bench.write(lambda writes: writes.put(ClusterSettings()))
    assert bench.keeper.covers(revision)
    assert not bench.keeper.covers(revision + 1), "that is not known here yet"
    await bench.run(3)
    assert bench.server.loads == before


async def test_before_anybody_is_known_the_file_of_the_founder_stays(bench):
    bench.server.file = "what cluster init wrote"
    bench.start()
    await bench.run(5)
    assert bench.server.file == "what cluster init wrote"


async def test_a_master_without_a_quorum_does_not_write_its_state_of_yesterday(bench):
    await bench.admit("m1", Role.MASTER)
    bench.cluster.available = False
    bench.start()
    await bench.run(5)
    assert bench.server.file == ""
    bench.cluster.available = True
    await bench.until(lambda: bench.server.loads)


async def test_a_server_that_was_restarted_with_an_earlier_file_is_put_right(bench):
    await bench.admit("m1", Role.MASTER)
    bench.start()
    await bench.run(1)
    wanted = bench.server.loaded
    bench.server.loaded = "an earlier one"
    await bench.run(LOOK_PERIOD_S + 0.1)
    assert bench.server.loaded == wanted


async def test_a_server_that_is_down_holds_up_nobody(bench):
    await bench.admit("m1", Role.MASTER)
    bench.server.is_running = False
    bench.start()
    await bench.run(1)
    node = await bench.admit("n1")
    await bench.until(lambda: bench.keeper.covers(bench.state.revision), limit_s=1)
    assert node.bus_key in bench.server.file, "it is what the next one reads"
    assert bench.server.loads == []


async def test_a_server_that_does_not_take_the_file_is_told_of_once_and_tried_again(bench, caplog):
    await bench.admit("m1", Role.MASTER)
    bench.start()
    await bench.run(1)
    bench.server.takes_what_it_reads = False
    node = await bench.admit("n1")
    assert not await asyncio.create_task(_waited(bench, RELOAD_TIMEOUT_S + 1))
    await bench.run(10)
    told = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(told) == 1
    assert "goes on with the users it had" in told[0].getMessage()
    bench.server.takes_what_it_reads = True
    await bench.until(lambda: bench.server.knows(node.bus_key))


async def _waited(bench, seconds):
    waiting = asyncio.create_task(bench.keeper.wait(bench.state.revision, seconds))
    await bench.run(seconds + 0.1)
    return await waiting


async def test_a_process_that_is_no_bus_server_is_not_sent_a_signal(bench, caplog):
    await bench.admit("m1", Role.MASTER)
    bench.server.trouble = "/run/bus.pid names bash, which is no nats-server"
    bench.start()
    await bench.run(6)
    assert "names bash, which is no nats-server" in caplog.text
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


async def test_renewed_certificates_are_read_though_the_users_are_the_same(bench):
    await bench.admit("m1", Role.MASTER)
    bench.start()
    await bench.run(1)
    bench.server.has_old_certificates = True
    bench.keeper.look_again()
    await bench.run(0.3)
    assert not bench.server.has_old_certificates
