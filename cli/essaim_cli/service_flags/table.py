"""All flags, in the order in which `--help` shows them."""

from essaim_cli.flag_kinds import Flag
from essaim_cli.service_flags import container, life, service

FLAGS: tuple[Flag, ...] = (
    *service.SERVICE,
    *service.PLACEMENT,
    *service.RESOURCE_FLAGS,
    *container.PROCESS,
    *container.FILES,
    *container.NETWORKING,
    *container.SECURITY,
    *life.LOGGING,
    *life.HEALTH_CHECKS,
    *life.RESTARTS,
    *life.UPDATES,
    *life.SCHEDULES,
)
