"""`essaim`, and `python -m essaim_cli`."""

import sys

import click

from essaim_cli.errors import EXIT_USAGE
from essaim_cli.main import cli

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    try:
        result = cli.main(arguments, prog_name="essaim", standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "essaim"
        click.echo(f"Error: {error.format_message()}\nSee '{path} --help'.", err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        return error.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
