"""Where tasks go and how an update walks: preferences, constraints, generic resources, steps."""

import re
from typing import Any

from essaim_cli.grammar.fields import count

Json = dict[str, Any]

STEPS_MAX = 20

_CONSTRAINT = re.compile(r"\s*[^\s=!]+\s*(==|!=)\s*\S.*")


def parse_constraint(text: str) -> list[str]:
    if not _CONSTRAINT.fullmatch(text):
        raise ValueError(f"constraint {text!r}: write KEY==VALUE or KEY!=VALUE")
    return [text]


def parse_preference(text: str) -> list[Json]:
    strategy, separator, argument = text.partition("=")
    if not separator or not strategy or not argument:
        raise ValueError('placement preference must be of the format "<strategy>=<arg>"')
    if strategy != "spread":
        raise ValueError(f"unsupported placement preference {strategy} (only spread is supported)")
    return [{"Spread": {"SpreadDescriptor": argument}}]


def preference_identity(preference: Json) -> str:
    return f"spread={preference['Spread']['SpreadDescriptor']}"


def parse_generic_resource(text: str) -> list[Json]:
    """`KIND=AMOUNT`: a service asks for a number, the scheduler picks which."""
    kind, separator, amount = text.partition("=")
    if not separator or not kind:
        raise ValueError(f"invalid generic-resource format `{text}` expected `name=value`")
    try:
        value = count(amount)
    except ValueError as error:
        raise ValueError(
            f"invalid generic-resource request `{text}`, "
            "Named Generic Resources is not supported for service create or update"
        ) from error
    if value == 0:
        raise ValueError(f"invalid generic-resource request `{text}`: ask for 1 or more")
    return [{"DiscreteResourceSpec": {"Kind": kind, "Value": value}}]


def generic_resource_identity(resource: Json) -> str:
    discrete = resource.get("DiscreteResourceSpec") or resource.get("NamedResourceSpec") or {}
    return str(discrete.get("Kind", ""))


def parse_steps(text: str) -> list[int]:
    """`10%,50%,100%`: growing; every update ends with the whole, said or not."""
    steps = []
    for part in text.split(","):
        number = part.strip().removesuffix("%")
        if not (number.isascii() and number.isdigit()) or not 1 <= int(number) <= 100:
            raise ValueError(f"invalid step {part.strip()!r}: write for example 10%,50%,100%")
        steps.append(int(number))
    if steps[-1] != 100:
        steps.append(100)
    if steps != sorted(set(steps)) or len(steps) > STEPS_MAX:
        raise ValueError(
            f"invalid steps {text!r}: they must grow, as 10%,50%,100% (at most {STEPS_MAX})"
        )
    return steps
