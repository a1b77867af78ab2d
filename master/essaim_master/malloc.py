"""How glibc hands out large buffers, set for a process that needs them all the time.

By default a buffer over 128 KiB (later some more) is mapped for itself and given back when it is
freed, so the kernel clears each of its pages anew: filling such a buffer then costs fifteen times
the copying. A busy master makes thousands of them a second: asyncio reads into 256 KiB, and a
batch of entries is encoded, joined and written in one piece.
"""

import ctypes

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
"""Of mallopt(3)."""

HEAP_BUFFER_BYTES_MAX = 4 * 1024 * 1024
"""Up to this size buffers come from the heap: more than any frame between masters."""
FREE_BYTES_KEPT_MAX = 16 * 1024 * 1024
"""What may stay unused at the end of the heap before it is given back."""


def keep_large_buffers() -> bool:
    """Set it for this process; False where the C library has no such setting (musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    has_set_mapping: int = mallopt(M_MMAP_THRESHOLD, HEAP_BUFFER_BYTES_MAX)
    has_set_trimming: int = mallopt(M_TRIM_THRESHOLD, FREE_BYTES_KEPT_MAX)
    return bool(has_set_mapping and has_set_trimming)
