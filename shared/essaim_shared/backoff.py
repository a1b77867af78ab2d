"""How long to wait before trying again."""

import random


def backoff_s(attempt: int, rng: random.Random, first_s: float, most_s: float) -> float:
    """Seconds to wait after failure number `attempt` (the first is 1).

    The ceiling doubles from `first_s` up to `most_s`, and the wait is drawn from its upper half:
    many clients that failed together do not come back together, and none comes back at once.
    ("Equal jitter": M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.)
    """
    if attempt < 1 or not 0 < first_s <= most_s:
        raise ValueError(f"attempt {attempt}, first {first_s} s, most {most_s} s")
    # Past 2**60 the ceiling has been reached long ago; the bound keeps the power a small number.
    ceiling_s = min(most_s, first_s * 2.0 ** min(attempt - 1, 60))
    return ceiling_s * rng.uniform(0.5, 1.0)
