"""Compose files: from their text to the networks and services of a stack.

The same files mean the same as for `docker stack deploy` (docker/cli, cli/compose): `document`
reads YAML, `interpolation` puts variables in, `service_shape` and `file_shape` check what is there
and bring it to one long form, `merging` lays several files over each other, `conversion` makes
Docker's JSON of it. Only `files` touches the disk.
"""
