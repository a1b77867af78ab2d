"""What a node and its containers use, measured and shown.

samples      the values that were read (data only)
cgroups      text of cgroup files → readings (pure)
processes    text of /proc files → readings (pure)
rates        two samples → percent (pure)
sampler      reads the files; the only importer of psutil
exposition   samples → Prometheus text under cAdvisor's names (pure)
server       /metrics and /healthz over HTTP
"""
