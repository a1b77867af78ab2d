"""`python -m essaim_cli.lab`: the lab's commands without the rest of the CLI."""

from essaim_cli.lab.commands import lab

if __name__ == "__main__":
    lab(prog_name="essaim lab")
