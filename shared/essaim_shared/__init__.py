"""What masters, agents and the command line have in common.

Nothing here imports any of them. Values and pure functions, but for the clock, the
configuration reader and the transports, which are the edges every process needs.
"""

__version__ = "0.1.0"
