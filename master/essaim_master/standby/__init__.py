"""Masters that stand by: on a host, running, and no members of the cluster until they are promoted.

standing by ──the leader added it──▶ member ──it was removed──▶ standing by, under a new name
"""
