"""Large buffers are used again instead of being mapped and cleared each time."""

import subprocess
import sys

PROGRAM = """
import resource
from essaim_master.malloc import keep_large_buffers

assert keep_large_buffers()
pieces = [b"x" * 200_000] * 4
b"".join(pieces)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    parts = [piece + b"y" for piece in pieces]
    joined = b"".join(parts)
    del parts, joined
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES_OF_ALL_BUFFERS = 100 * 2 * 800_000 // 4096


def test_a_hundred_large_buffers_cost_the_pages_of_a_few():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < PAGES_OF_ALL_BUFFERS / 20
