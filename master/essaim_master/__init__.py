"""The master: Raft member, replicated state, HTTP API and, on the leader, the control loops."""
