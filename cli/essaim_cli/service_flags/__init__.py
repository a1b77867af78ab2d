"""The flags of `service create` and `service update`, as data, by theme.

Names, defaults and grammars are those of docker/cli (cli/command/service/opts.go, API 1.52);
"Essaim" marks what Docker does not have. Nothing is sent that was not asked for.
"""

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
