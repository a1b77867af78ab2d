"""Reads the syntax of templates: text with actions between `{{` and `}}`. Pure.

The grammar is the part of Go's text/template that `templates` gives a meaning to:

    action    = pipeline | VARIABLE ":=" pipeline | if | range | comment
    if        = "if" pipeline … { "else if" pipeline … } [ "else" … ] "end"
    range     = "range" [ VARIABLE [ "," VARIABLE ] ":=" ] pipeline … [ "else" … ] "end"
    pipeline  = command { "|" command }       the value before the bar is the last argument
    command   = operand | FUNCTION { operand }
    operand   = ( "." | VARIABLE | "(" pipeline ")" | literal | FUNCTION ) { FIELD }

`{{- ` and ` -}}` take the white space before and after with them.
"""

import re
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

import msgspec

from essaim_shared.errors import TemplateError

LEFT: Final = "{{"
DEPTH_MAX: Final = 16
"""Of blocks and parentheses within one another."""
PIPES_MAX: Final = 64
"""Bars of one action: each puts a call into a call."""

_UNSUPPORTED: Final = {"with", "define", "template", "block", "break", "continue"}
_CLOSE: Final = re.compile(r"\s+-\}\}\s*|\}\}")
_BLANK: Final = re.compile(r"\s*")
_TRIM: Final = re.compile(r"-\s")
_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
_TOKEN: Final = re.compile(
    r"""(?P<field>\.[^\W\d]\w*)|(?P<dot>\.)|(?P<variable>\$\w*)
    |(?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)|(?P<number>[+-]?\d{1,18}(?![\w.]))
    |(?P<word>[^\W\d]\w*)|(?P<declare>:=)|(?P<mark>[|(),])""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r'\\(["\\nrtabfv]|x[0-7][0-9a-fA-F]|u[0-9a-fA-F]{4}|.)', re.DOTALL)
_ESCAPED: Final = dict(zip('"\\nrtabfv', '"\\\n\r\t\a\b\f\v', strict=True))


class Literal(msgspec.Struct, frozen=True):
    value: str | int | bool | None
    position: int
    source: str


class Path(msgspec.Struct, frozen=True):
    """Fields of the dot (base None), of a variable (its name, with the `$`) or of a value."""

    base: "str | Expression | None"
    fields: tuple[str, ...]
    position: int
    """Of the last field, as in Go's messages."""
    source: str


class Call(msgspec.Struct, frozen=True):
    function: str
    arguments: "tuple[Expression, ...]"
    position: int
    source: str


Expression = Literal | Path | Call


class Text(msgspec.Struct, frozen=True):
    text: str


class Output(msgspec.Struct, frozen=True):
    """A value that is written, or given to a variable."""

    pipeline: Expression
    variable: str = ""


class If(msgspec.Struct, frozen=True):
    condition: Expression
    then: "tuple[Node, ...]"
    otherwise: "tuple[Node, ...]"


class Range(msgspec.Struct, frozen=True):
    key: str
    """The first variable, or empty."""
    value: str
    """The second one, or empty."""
    pipeline: Expression
    body: "tuple[Node, ...]"
    otherwise: "tuple[Node, ...]"


Node = Text | Output | If | Range


def parse(text: str, functions: Collection[str]) -> tuple[Node, ...]:
    """The template's nodes. Raises TemplateError for bad syntax and for other functions."""
    reader = _Reader(text, functions)
    nodes, end = reader.block(0)
    if end is not None:
        raise reader.failure(end.position, f"unexpected {{{{{end.words[0].text}}}}}")
    return nodes


def place(text: str, position: int) -> str:
    """`NAME:LINE:COLUMN`; Go counts columns in bytes, from 0."""
    line_start = text.rfind("\n", 0, position) + 1
    return f"{line_of(text, position)}:{len(text[line_start:position].encode())}"


def line_of(text: str, position: int) -> str:
    return f"expansion:{text.count(chr(10), 0, position) + 1}"


def one_line(text: str) -> str:
    """For messages, which may hold a piece of a template with line breaks."""
    return " ".join(text.split())


def quote(text: str) -> str:
    """As Go's %q, for the messages: on one line."""
    return '"' + "".join(_quoted(character) for character in text) + '"'


def _quoted(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


class _Token(NamedTuple):
    kind: str
    text: str
    position: int
    is_glued: bool
    """It follows the token before it without white space."""


class _Action(NamedTuple):
    """What stands between two delimiters."""

    words: tuple[_Token, ...]
    position: int


class _Reader:
    """Cuts a template into text and actions, and builds the blocks."""

    def __init__(self, text: str, functions: Collection[str]) -> None:
        self._text = text
        self._functions = functions
        self._pieces = self._cut()

    def failure(self, position: int, reason: str) -> TemplateError:
        return TemplateError(f"template: {line_of(self._text, position)}: {one_line(reason)}")

    def _cut(self) -> Iterator[str | _Action]:
        text, position = self._text, 0
        while (left := text.find(LEFT, position)) >= 0:
            plain, inside = text[position:left], left + len(LEFT)
            if _TRIM.match(text, inside):
                plain, inside = plain.rstrip(), inside + 1
            if plain:
                yield plain
            comment = _COMMENT.match(text, inside + len(_blank(text, inside)))
            tokens, position = self._tokens(comment.end() if comment else inside)
            if comment is None:
                if not tokens:
                    raise self.failure(inside, "missing value for command")
                yield _Action(tuple(tokens), tokens[0].position)
            elif tokens:
                raise self.failure(inside, "comment ends before closing delimiter")
        if position < len(text):
            yield text[position:]

    def _tokens(self, position: int) -> tuple[list[_Token], int]:
        """The tokens up to the closing delimiter, and the position after it."""
        tokens: list[_Token] = []
        while (close := _CLOSE.match(self._text, position)) is None:
            blank = len(_blank(self._text, position))
            position += blank
            if _CLOSE.match(self._text, position):
                continue
            found = _TOKEN.match(self._text, position)
            if found is None or found.lastgroup is None:
                raise self._bad_character(position)
            tokens.append(_Token(found.lastgroup, found.group(), position, blank == 0))
            position = found.end()
        return tokens, close.end()

    def _bad_character(self, position: int) -> TemplateError:
        if position >= len(self._text):
            return self.failure(position, "unclosed action")
        character = self._text[position]
        if character in '"`':
            return self.failure(position, "unterminated quoted string")
        return self.failure(position, f"unexpected {quote(character)} in command")

    def block(self, depth: int) -> tuple[tuple[Node, ...], _Action | None]:
        """Nodes up to an `else` or `end` of this block, and that action; None: the text's end."""
        if depth > DEPTH_MAX:
            raise TemplateError(f"template: expansion: more than {DEPTH_MAX} nested blocks")
        nodes: list[Node] = []
        for piece in self._pieces:
            if isinstance(piece, str):
                nodes.append(Text(piece))
                continue
            word = piece.words[0].text if piece.words[0].kind == "word" else ""
            if word in ("else", "end"):
                return tuple(nodes), piece
            if word in _UNSUPPORTED:
                raise self.failure(piece.position, f"{{{{{word}}}}} is not supported")
            if word == "if":
                nodes.append(self._if(piece, 1, depth))
            elif word == "range":
                nodes.append(self._range(piece, depth))
            else:
                variables, words = self._declared(piece.words, 1)
                variable = variables[0] if variables else ""
                nodes.append(Output(self._pipeline(words, piece), variable))
        return tuple(nodes), None

    def _if(self, action: _Action, keywords: int, depth: int) -> If:
        condition = self._pipeline(action.words[keywords:], action)
        then, end = self.block(depth + 1)
        if end is not None and [word.text for word in end.words[:2]] == ["else", "if"]:
            # Its `end` is ours too.
            return If(condition, then, (self._if(end, 2, depth + 1),))
        return If(condition, then, self._otherwise(action, end, depth))

    def _range(self, action: _Action, depth: int) -> Range:
        variables, words = self._declared(action.words[1:], 2)
        key, value = (*variables, "", "")[:2]
        pipeline = self._pipeline(words, action)
        body, end = self.block(depth + 1)
        return Range(key, value, pipeline, body, self._otherwise(action, end, depth))

    def _otherwise(self, begin: _Action, end: _Action | None, depth: int) -> tuple[Node, ...]:
        """What follows `else`, if `end` is one; the block must then end."""
        nodes: tuple[Node, ...] = ()
        if end is not None and end.words[0].text == "else" and len(end.words) == 1:
            nodes, end = self.block(depth + 1)
        if end is None:
            raise self.failure(len(self._text), "unexpected EOF")
        if end.words[0].text != "end" or len(end.words) > 1:
            raise self.failure(end.position, f"unexpected {{{{{end.words[0].text}}}}}")
        return nodes

    def _declared(
        self, words: tuple[_Token, ...], most: int
    ) -> tuple[tuple[str, ...], tuple[_Token, ...]]:
        """The variables before `:=`, and the words after it."""
        kinds = [word.kind for word in words]
        if "declare" not in kinds:
            return (), words
        at = kinds.index("declare")
        names = tuple(word.text for word in words[:at] if word.text != ",")
        commas = sum(word.text == "," for word in words[:at])
        if (
            not 1 <= len(names) <= most
            or commas != len(names) - 1
            or any(not name.startswith("$") or name == "$" for name in names)
        ):
            raise self.failure(words[0].position, "unexpected declaration")
        return names, words[at + 1 :]

    def _pipeline(self, words: tuple[_Token, ...], action: _Action) -> Expression:
        parser = _Parser(self, words, action.position, self._text, self._functions)
        return parser.whole()


class _Parser:
    """Builds the expression of one action."""

    def __init__(
        self,
        reader: _Reader,
        words: tuple[_Token, ...],
        position: int,
        text: str,
        functions: Collection[str],
    ) -> None:
        self._reader = reader
        self._words = words
        self._next = 0
        self._pipes = 0
        self._position = position
        self._text = text
        self._functions = functions

    def _peek(self) -> _Token | None:
        return self._words[self._next] if self._next < len(self._words) else None

    def _take(self) -> _Token | None:
        token = self._peek()
        self._next += 1
        return token

    def _source(self, first: int) -> str:
        """The text from the word with this number to the last one that was taken."""
        last = self._words[self._next - 1]
        return self._text[self._words[first].position : last.position + len(last.text)]

    def whole(self) -> Expression:
        pipeline = self._pipeline(0)
        rest = self._peek()
        if rest is not None:
            raise self._reader.failure(rest.position, f'unexpected "{rest.text}" in command')
        return pipeline

    def _pipeline(self, depth: int) -> Expression:
        if depth > DEPTH_MAX:
            raise TemplateError(f"template: expansion: more than {DEPTH_MAX} nested parentheses")
        value = self._command(None, depth)
        while (bar := self._peek()) is not None and bar.text == "|":
            self._take()
            self._pipes += 1
            if self._pipes > PIPES_MAX:
                raise self._reader.failure(bar.position, f"more than {PIPES_MAX} pipes")
            value = self._command(value, depth)
        return value

    def _command(self, piped: Expression | None, depth: int) -> Expression:
        first_number, first = self._next, self._peek()
        arguments: list[Expression] = []
        while (token := self._peek()) is not None and (token.kind, token.text) not in (
            ("mark", "|"),
            ("mark", ")"),
        ):
            arguments.append(self._operand(depth))
        if first is None or not arguments:
            raise self._reader.failure(self._position, "missing value for command")
        head = arguments.pop(0)
        is_call = isinstance(head, Call) and first.kind == "word"
        if is_call and isinstance(head, Call):
            if piped is not None:
                arguments.append(piped)
            return Call(head.function, tuple(arguments), head.position, self._source(first_number))
        if piped is not None:
            raise self._reader.failure(first.position, "non executable command in pipeline")
        if arguments:
            raise self._reader.failure(
                first.position, f"can't give argument to non-function {head.source}"
            )
        return head

    def _operand(self, depth: int) -> Expression:
        number = self._next
        term = self._term(depth)
        fields: list[_Token] = []
        while (token := self._peek()) is not None and token.kind == "field" and token.is_glued:
            fields.append(token)
            self._take()
        if not fields:
            return term
        names = tuple(token.text[1:] for token in fields)
        position, source = fields[-1].position, self._source(number)
        if isinstance(term, Path):
            return Path(term.base, (*term.fields, *names), position, source)
        if isinstance(term, Literal):
            raise self._reader.failure(position, f"unexpected . after term {quote(term.source)}")
        return Path(term, names, position, source)

    def _term(self, depth: int) -> Expression:
        token = self._take()
        if token is None:
            raise self._reader.failure(self._position, "missing value for command")
        kind, text, position, _ = token
        if kind == "field":
            return Path(None, (text[1:],), position, text)
        if kind == "dot":
            return Path(None, (), position, text)
        if kind == "variable":
            return Path(text, (), position, text)
        if kind == "number":
            return Literal(int(text), position, text)
        if kind == "string":
            return Literal(self._unquoted(token), position, text)
        if kind == "word":
            return self._word(token)
        if text == "(":
            inside = self._pipeline(depth + 1)
            closing = self._take()
            if closing is None or closing.text != ")":
                raise self._reader.failure(position, "unclosed left paren")
            return inside
        raise self._reader.failure(position, f'unexpected "{text}" in operand')

    def _word(self, token: _Token) -> Expression:
        constants: dict[str, bool | None] = {"true": True, "false": False, "nil": None}
        if token.text in constants:
            return Literal(constants[token.text], token.position, token.text)
        if token.text not in self._functions:
            known = ", ".join(sorted(self._functions))
            raise self._reader.failure(
                token.position, f'function "{token.text}" not defined (there are {known})'
            )
        return Call(token.text, (), token.position, token.text)

    def _unquoted(self, token: _Token) -> str:
        inside = token.text[1:-1]
        if token.text[0] == "`":
            return inside

        def meant(found: re.Match[str]) -> str:
            escape = found.group(1)
            if escape[0] in "xu" and len(escape) > 1:
                character = chr(int(escape[1:], 16))
                if not "\ud800" <= character <= "\udfff":  # no halves of surrogate pairs
                    return character
            if escape not in _ESCAPED:
                raise self._reader.failure(token.position, "invalid syntax")
            return _ESCAPED[escape]

        return _ESCAPE.sub(meant, inside)


def _blank(text: str, position: int) -> str:
    """The white space at this position."""
    found = _BLANK.match(text, position)
    return found.group() if found else ""
