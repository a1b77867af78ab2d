"""A many-host lab on one machine: hosts as network namespaces, each with its own engine.

Read in this order: topology (what a lab is, pure), config_files (what its processes are told),
network and processes (the parts), driver (how they are raised and taken down), commands.
"""
