"""How an agent asks its tasks how they are: start-up, readiness and liveness probes.

`prober` decides (when to ask, what the answers say), `actions` asks over the network, `driver`
carries out.
"""
