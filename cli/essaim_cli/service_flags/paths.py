"""Where the settings of a service stand in its specification, and words that flags share."""

TEMPLATE = "TaskTemplate"
CONTAINER = f"{TEMPLATE}.ContainerSpec"
RESOURCES = f"{TEMPLATE}.Resources"
RESTART = f"{TEMPLATE}.RestartPolicy"
HEALTH = f"{CONTAINER}.Healthcheck"

DURATION = "DURATION"
COUNT = "COUNT"
