"""Typed objects above the key-value map: a read view on every master, and writes as values."""
