"""Variables in the values of a compose file: `$NAME`, `${NAME}`, `${NAME:-default}`. Pure.

The operators are those of the Compose specification: `:-` and `-` (a default), `:?` and `?` (an
error), `:+` and `+` (another text), each with `:` also where the variable is empty. What stands
after the operator may hold variables itself. `$$` is a dollar. `.env` is not read, as Docker's
stacks do not.
"""

import re
from collections.abc import Mapping
from typing import Any

from essaim_cli.compose.errors import ComposeError

NESTING_MAX = 8
INTERPOLATED_CHARS_MAX = 4 * 1024 * 1024
"""Of all values of a file together: one variable may be long, and stand in many places."""

_NAME = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_OPERATOR = re.compile(r":?[-?+]")


class Substituted(str):
    """A text that variables were put into: where a number or boolean belongs, it is read as one,
    because YAML could not."""


class Interpolation:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._chars_left = INTERPOLATED_CHARS_MAX

    def apply(self, value: Any, path: str = "") -> Any:
        """A copy with all variables replaced. Raises ComposeError with the path."""
        if isinstance(value, str):
            return self._text(value, path)
        if isinstance(value, dict):
            return {
                key: self.apply(inner, f"{path}.{key}" if path else key)
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [self.apply(inner, f"{path}[{place}]") for place, inner in enumerate(value)]
        return value

    def _text(self, text: str, path: str) -> str:
        if "$" not in text:
            return text
        try:
            replaced, _ = self._until(text, 0, "", 0, is_wanted=True)
        except _MalformedError as error:
            raise ComposeError(
                path,
                f'invalid interpolation format: "{text}": {error}; '
                "you may need to escape any $ with another $",
            ) from error
        except _MissingError as error:
            raise ComposeError(path, str(error)) from error
        return Substituted(replaced)

    def _until(
        self, text: str, start: int, end: str, depth: int, is_wanted: bool
    ) -> tuple[str, int]:
        """The text from `start` with variables replaced, up to `end` (or the end of all), and
        where it ended. What is not wanted, as a default that does not count, is only read over."""
        parts: list[str] = []
        place = start
        while place < len(text) and text[place] != end:
            character = text[place]
            if character != "$":
                parts.append(character)
                place += 1
            elif text[place + 1 : place + 2] == "$":
                parts.append("$")
                place += 2
            elif text[place + 1 : place + 2] == "{":
                found, place = self._braced(text, place + 2, depth + 1, is_wanted)
                parts.append(found)
            elif match := _NAME.match(text, place + 1):
                parts.append(self._value(match[0], is_wanted) or "")
                place = match.end()
            else:
                raise _MalformedError("a $ stands alone")
        return "".join(parts), place

    def _braced(self, text: str, start: int, depth: int, is_wanted: bool) -> tuple[str, int]:
        """`NAME}` or `NAME:-default}`, from behind the opening brace."""
        if depth > NESTING_MAX:
            raise _MalformedError(f"nested deeper than {NESTING_MAX} levels")
        match = _NAME.match(text, start)
        if match is None:
            raise _MalformedError("${ needs the name of a variable")
        value = self._value(match[0], is_wanted)
        operator = _OPERATOR.match(text, match.end())
        if operator is None:
            if text[match.end() : match.end() + 1] != "}":
                raise _MalformedError("a } is missing")
            return value or "", match.end() + 1
        is_there = bool(value) if operator[0][0] == ":" else value is not None
        is_used = is_there == (operator[0][-1] == "+")
        argument, place = self._until(text, operator.end(), "}", depth, is_wanted and is_used)
        if place >= len(text):
            raise _MalformedError("a } is missing")
        if operator[0][-1] == "?" and is_used and is_wanted:
            raise _MissingError(f"required variable {match[0]} is missing a value: {argument}")
        if operator[0][-1] == "+":
            return argument if is_used else "", place + 1
        return argument if is_used else value or "", place + 1

    def _value(self, name: str, is_wanted: bool) -> str | None:
        value = self._environment.get(name)
        if value and is_wanted:
            self._chars_left -= len(value)
            if self._chars_left < 0:
                raise _MissingError("the file is too large with its variables put in")
        return value


class _MalformedError(Exception):
    pass


class _MissingError(Exception):
    pass
