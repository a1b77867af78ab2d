"""`--env KEY=VALUE`, `--env KEY` and the lines of an `--env-file`. Pure: the caller's environment
and the files' text are passed in."""

from collections.abc import Iterable, Mapping


def merge_environment(
    settings: Iterable[str], environment: Mapping[str, str], before: Iterable[str] = ()
) -> list[str]:
    """Of duplicates the last wins, in the first one's place; `KEY` alone takes the caller's value,
    and is left out where the caller has none."""
    merged = {variable_name(setting): setting for setting in before}
    for setting in settings:
        key, separator, _ = setting.partition("=")
        if separator:
            merged[key] = setting
        elif key in environment:
            merged[key] = f"{key}={environment[key]}"
    return list(merged.values())


def variable_name(setting: str) -> str:
    return setting.partition("=")[0]


def parse_variable(text: str) -> list[str]:
    if not variable_name(text).strip():
        raise ValueError(f"invalid environment variable: {text}: write KEY=VALUE")
    return [text]


def variables_of_file(text: str) -> list[str]:
    """The settings of an env file: empty lines and those that begin with # say nothing."""
    settings = []
    for line in text.removeprefix("\ufeff").splitlines():
        setting = line.lstrip()
        if not setting or setting.startswith("#"):
            continue
        if any(character.isspace() for character in variable_name(setting)):
            raise ValueError(f"variable '{variable_name(setting)}' contains whitespaces")
        settings += parse_variable(setting)
    return settings
