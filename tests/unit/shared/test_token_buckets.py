"""Token buckets: how often somebody may ask."""

from essaim_shared.token_buckets import TokenBuckets


def test_a_burst_is_taken_at_once_and_then_one_at_a_time():
    buckets = TokenBuckets(rate_per_s=10.0, burst=3.0)
    assert [buckets.take("ann", 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.1]
    assert buckets.take("ann", 100.05) > 0
    assert buckets.take("ann", 100.11) == 0
    assert buckets.take("ann", 100.12) > 0


def test_one_who_asks_too_often_costs_others_nothing():
    buckets = TokenBuckets(rate_per_s=1.0, burst=1.0)
    assert buckets.take("ann", 0.0) == 0
    assert buckets.take("ann", 0.0) > 0
    assert buckets.take("bob", 0.0) == 0


def test_a_refusal_takes_no_token():
    buckets = TokenBuckets(rate_per_s=1.0, burst=1.0)
    buckets.take("ann", 0.0)
    waits = [buckets.take("ann", 0.5) for _ in range(100)]
    assert waits == [0.5] * 100
    assert buckets.take("ann", 1.0) == 0


def test_a_pause_never_fills_a_bucket_beyond_its_burst():
    buckets = TokenBuckets(rate_per_s=10.0, burst=2.0)
    buckets.take("ann", 0.0)
    assert [buckets.take("ann", 1e6) for _ in range(3)] == [0.0, 0.0, 0.1]


def test_whoever_asked_longest_ago_is_forgotten_first():
    buckets = TokenBuckets(rate_per_s=1.0, burst=1.0, buckets_max=2)
    for name in ("ann", "bob", "ann", "cid"):
        buckets.take(name, 0.0)
    assert buckets.take("ann", 0.0) > 0
    assert buckets.take("bob", 0.0) == 0


def test_what_costs_more_than_there_is_empties_the_bucket():
    buckets = TokenBuckets(rate_per_s=1.0, burst=3.0)
    assert buckets.take("ann", 0.0, cost=5) == 0
    assert buckets.take("ann", 0.0) == 1.0
    assert buckets.take("ann", 1.0) == 0


def test_what_is_remembered_is_bounded_and_the_busy_ones_stay():
    buckets = TokenBuckets(rate_per_s=1.0, burst=1.0, buckets_max=50)
    buckets.take("busy", 0.0)
    for number in range(200):
        buckets.take(f"others {number}", 0.0)
        assert buckets.take("busy", 0.0) > 0
    assert len(buckets) == 50
