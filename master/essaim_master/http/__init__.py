"""Docker's swarm API, served by every master (design, section 3).

Read in this order: `json_edge` (bytes to specs), `service_requests` (what a request means),
`docker_objects` (objects to Docker's shapes), `filters` and `lookup`, then `api` (what handlers
share), one file of handlers per resource, `app` (routes and errors), `server` (sockets).
"""
