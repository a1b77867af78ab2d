"""The files of the log: order of syncs, a full disk, a failing disk, kill -9."""

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from essaim_master.raft.messages import Configuration, HardState
from essaim_master.wal.files import DiskLogFiles
from essaim_master.wal.log import SPARE_ATTEMPT_EVERY_BATCHES, SPARE_FILE, Wal
from essaim_master.wal.records import Identity, WalBatch
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId

APPENDS_MAX = 1000


def fill(bench, wal, first: int, batches: int) -> int:
    for _ in range(batches):
        wal.append([WalBatch(bench.entries(first, first + 4, size_bytes=500))])
        first += 5
    return first


def append_until_error(bench, wal, written: int) -> int:
    """Raises what the log raises; the entries acknowledged are in `bench.acknowledged`."""
    for _ in range(APPENDS_MAX):
        bench.acknowledged = written - 1
        written = fill(bench, wal, written, 1)
    return written


def test_an_append_is_one_write_and_one_sync(bench):
    wal, _ = bench.open()
    wal._spare.result()  # Its making must not come between.
    bench.files.calls.clear()
    wal.append([WalBatch(bench.entries(1, 50)), WalBatch(bench.entries(51, 60))])
    (segment,) = bench.segments()
    assert bench.files.calls == [f"write_at {segment}", f"sync_data {segment}"]
    wal.close()


def test_a_segment_has_its_name_only_when_its_beginning_is_durable(bench):
    """Then the directory is synced, before any entry goes into it (etcd issue 6368)."""
    wal, _ = bench.open()
    fill(bench, wal, 1, 8)
    wal.close()
    calls = [call for call in bench.files.calls if not call.startswith("close")]
    second = bench.segments()[1]
    renamed = calls.index(f"rename {SPARE_FILE} {second}")
    assert calls[renamed - 2 : renamed] == [f"write_at {SPARE_FILE}", f"sync_data {SPARE_FILE}"]
    assert calls[renamed + 1] == "sync_directory"
    assert f"write_at {second}" not in calls[: renamed + 1]


def test_half_made_segments_are_removed_at_the_next_start(bench):
    bench.recover()
    bench.files.create(SPARE_FILE, 100)
    wal, _ = bench.open()
    wal.close()
    assert bench.files.calls.count(f"remove {SPARE_FILE}") >= 1


def test_on_a_full_disk_the_spare_segment_is_still_there(bench, caplog):
    wal, _ = bench.open()
    wal._spare.result()
    bench.files.fail("create", errno.ENOSPC, times=100)
    with pytest.raises(OSError, match="No space") as caught:
        append_until_error(bench, wal, 1)
    assert caught.value.errno == errno.ENOSPC
    assert wal.is_short_of_space
    assert "ALARM" in caplog.text
    wal.close()
    assert len(bench.segments()) == 2
    assert bench.acknowledged > 30
    assert len(bench.recover(bench.files.twin()).entries) == bench.acknowledged


def test_space_that_comes_back_ends_the_alarm(bench):
    wal, _ = bench.open()
    wal._spare.result()
    bench.files.fail("create", errno.ENOSPC)
    written = fill(bench, wal, 1, 8)
    wal._preparer.submit(int).result()  # The failed attempt is over.
    written = fill(bench, wal, written, 1)
    assert wal.is_short_of_space
    for _ in range(SPARE_ATTEMPT_EVERY_BATCHES):
        wal.append([WalBatch(hard_state=HardState(1, None, 0))])
    wal._preparer.submit(int).result()
    wal.append([WalBatch(hard_state=HardState(1, None, 0))])
    assert not wal.is_short_of_space
    wal.close()


@pytest.mark.parametrize("operation", ["write_at", "sync_data", "rename", "sync_directory"])
def test_a_failed_operation_is_raised_and_nothing_of_it_was_acknowledged(bench, operation):
    wal, _ = bench.open()
    written = fill(bench, wal, 1, 3)
    bench.files.fail(operation, errno.EIO)
    with pytest.raises(OSError, match="Input/output") as caught:
        append_until_error(bench, wal, written)
    assert caught.value.errno == errno.EIO
    wal.close()
    for seed in range(5):
        print(f"seed {seed}")
        found = bench.files.crash(random.Random(seed))
        assert len(bench.recover(found).entries) >= bench.acknowledged


def test_a_closed_log_takes_nothing(bench):
    wal, _ = bench.open()
    wal.close()
    with pytest.raises(OSError, match="closed"):
        wal.append([WalBatch(bench.entries(1, 1))])


class TestOnDisk:
    def test_it_writes_real_files_and_reads_them_back(self, bench, tmp_path):
        files = DiskLogFiles(tmp_path / "wal")
        wal, _ = Wal.open(files, bench.identity, 32 * 1024)
        entries = bench.entries(1, 300, size_bytes=300)
        for start in range(0, 300, 10):
            wal.append([WalBatch(entries[start : start + 10], HardState(1, None, start))])
        wal.close()
        wal, recovered = Wal.open(DiskLogFiles(tmp_path / "wal"), bench.identity, 32 * 1024)
        wal.close()
        assert recovered == (HardState(1, None, 290), entries, None)
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "wal").iterdir()} == {0o600}

    def test_a_batch_of_more_buffers_than_one_call_takes(self, bench, tmp_path):
        wal, _ = Wal.open(DiskLogFiles(tmp_path), bench.identity, 1024 * 1024)
        entries = bench.entries(1, 1500, size_bytes=9)
        wal.append([WalBatch([entry]) for entry in entries])
        wal.close()
        wal, recovered = Wal.open(DiskLogFiles(tmp_path), bench.identity)
        wal.close()
        assert recovered.entries == entries

    def test_two_masters_can_not_use_one_directory(self, bench, tmp_path):
        wal, _ = Wal.open(DiskLogFiles(tmp_path), bench.identity, 4096)
        with pytest.raises(ConfigError, match=f"another master is running on {tmp_path}"):
            Wal.open(DiskLogFiles(tmp_path), bench.identity, 4096)
        wal.close()

    def test_a_full_file_system_ends_the_log_and_loses_nothing(self, bench, tmp_path):
        """A tmpfs of 160 KiB: two segments of 64 KiB fit, the third does not."""
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(tmp_path)], check=True
        )
        try:
            wal, _ = Wal.open(DiskLogFiles(tmp_path), bench.identity, 64 * 1024)
            with pytest.raises(OSError, match="No space"):
                append_until_error(bench, wal, 1)
            wal.close()
            assert bench.acknowledged > 125
            (tmp_path / SPARE_FILE).unlink(missing_ok=True)
            wal, recovered = Wal.open(DiskLogFiles(tmp_path), bench.identity, 64 * 1024)
            wal.close()
            assert len(recovered.entries) == bench.acknowledged
        finally:
            subprocess.run(["umount", str(tmp_path)], check=True)

    def test_acknowledged_entries_survive_kill_9(self, tmp_path):
        """A writer that says each index after its sync is killed in the midst, five times."""
        script = Path(__file__).with_name("wal_writer_process.py")
        acknowledged = 0
        for _ in range(5):
            process = subprocess.Popen(
                [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            for _ in range(60):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                if line.endswith("\n"):
                    acknowledged = int(line)
            process.stdout.close()
            assert process.wait() == -signal.SIGKILL
            identity = Identity("c", MemberId("m1"), Configuration((MemberId("m1"),)))
            wal, recovered = Wal.open(DiskLogFiles(tmp_path), identity, 64 * 1024)
            wal.close()
            assert len(recovered.entries) >= acknowledged
            assert all(
                entry.data == entry.index.to_bytes(8, "big") * (1 + entry.index % 100)
                for entry in recovered.entries
            )
        assert acknowledged >= 300
        assert os.listdir(tmp_path)


@pytest.mark.parametrize("seed", range(10))
def test_what_a_start_counts_on_survives_the_power_cut_after_it(bench, seed):
    """A killed process leaves its last write in the kernel's memory: the next one reads it, and
    may acknowledge it. Found by the simulator: kill, start, power cut."""
    print(f"seed {seed}")
    wal, _ = bench.open()
    fill(bench, wal, 1, 1)
    bench.files.fail("sync_data", errno.EIO)  # As if it had been killed between the two calls.
    with pytest.raises(OSError, match="Input/output"):
        fill(bench, wal, 6, 1)
    wal.close()
    counted_on = bench.recover()
    assert len(counted_on.entries) == 10
    assert bench.recover(bench.files.crash(random.Random(seed))) == counted_on
