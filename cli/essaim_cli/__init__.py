"""The command line. It speaks HTTP to any master, and imports neither the bus nor an engine.

Start-up time is decided by imports: every subcommand is loaded when it is called.
"""
