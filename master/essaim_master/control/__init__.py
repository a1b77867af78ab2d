"""The leader's control loops: from what was asked for to who runs what, and back.

In order of reading: `index` (what the loops look up quickly), `worklist` (what has to be looked
at), `orchestrator` with `restart` and `reaper` (services to tasks), `scheduler` (tasks to nodes),
`allocator` (addresses), `planner` (those together: one slice of work, one batch of writes), then
`leader` (the driver), and for the agents `sessions`, `liveness`, `reports`, `assignments` and
their driver `dispatcher`.

Everything but the drivers (`leader`, `guarded`, `dispatcher`, `batching`, `figures_cache`,
`network_reports`) decides only: state in, writes out.
"""
