"""The replicated key-value state machine: transactions, a global revision, watches."""
