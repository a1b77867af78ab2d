"""The documents against the program: links lead somewhere, flags are all there, commands parse."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from essaim_cli.main import cli
from essaim_cli.service_flags.table import FLAGS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FLAG_TABLE = ROOT / "docs/reference/service-create.md"
THREAT_MODEL = ROOT / "docs/explanation/security.md"
PROVED_BY = "shown by"
"""Heads the last column of the tables whose every line a test shows."""
WAIT_FLAGS = {"detach", "quiet", "timeout"}
"""Of both commands, beside the table of their flags."""
SHELL = (">", "<", "|")
"""From such a word on an example is the shell's."""
PROMPTS = ("$ essaim ", "# ./essaim ")


def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(document: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def commands_in(text: str) -> list[str]:
    """Command lines of `essaim` in the examples, without prompt; a line may go on after a `\\`."""
    whole = text.replace("\\\n", " ")
    lines = [
        line
        for block in re.findall(r"```console\n(.*?)```", whole, re.DOTALL)
        for line in block.splitlines()
    ]
    return [
        line.removeprefix(prompt) for line in lines for prompt in PROMPTS if line.startswith(prompt)
    ]


def parse(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    """Raises as the command line would, and runs nothing."""
    try:
        context = command.make_context(command.name, list(words), parent=parent)
    except click.BadParameter as error:
        if "does not exist" in error.message:
            return  # A file of the reader's machine; that there is such an option is known by now.
        raise
    if isinstance(command, click.Group):
        known = command.list_commands(context)
        place = next((place for place, word in enumerate(words) if word in known), 0)
        _, child, rest = command.resolve_command(context, words[place:])
        assert child is not None, f"none of {words} is a command of {command.name}"
        parse(child, rest, context)


EXAMPLES = [
    pytest.param(line, id=f"{document.stem}: {line[:60]}")
    for document in DOCUMENTS
    for line in commands_in(document.read_text())
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_are_there(document: Path) -> None:
    assert list(dead_links(document)) == []


def test_the_reference_of_flags_has_each_flag_and_no_other() -> None:
    rows = [line.split("|")[1] for line in FLAG_TABLE.read_text().splitlines() if "| `--" in line]
    named = set(re.findall(r"`--([a-z-]+)`", " ".join(rows)))
    # The table of updates says once what holds for rollbacks too.
    named |= {f"rollback-{name.removeprefix('update-')}" for name in named if "update-" in name}
    assert named - {"rollback-steps"} == {flag.name for flag in FLAGS} | WAIT_FLAGS


@pytest.mark.parametrize("line", EXAMPLES)
def test_commands_of_examples_parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    ours = next((place for place, word in enumerate(words) if word in SHELL), len(words))
    parse(cli, words[:ours])


def test_an_example_that_is_wrong_is_noticed() -> None:
    (line,) = commands_in("```console\n$ essaim service create \\\n    --replica 3 web\n```\n")
    with pytest.raises(click.ClickException):
        parse(cli, shlex.split(line))


def test_every_line_of_the_threat_model_is_shown_by_a_test_that_exists() -> None:
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    tables = [
        table.splitlines()
        for table in re.findall(r"(?:^\|.*\n)+", THREAT_MODEL.read_text(), re.MULTILINE)
    ]
    lines = [line for table in tables if f"| {PROVED_BY} |" in table[0] for line in table[2:]]
    assert len(lines) > 40, "the tables were not found"
    unproved = [
        line
        for line in lines
        if (named := re.fullmatch(r"\|.*\| `(test_\w+)` \|", line)) is None or named[1] not in tests
    ]
    assert unproved == []
