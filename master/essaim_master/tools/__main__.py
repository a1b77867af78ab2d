"""`python -m essaim_master.tools backup|check|restore|recover|log|dump`."""

import argparse
import sys
from pathlib import Path

from essaim_master.at_rest.backup_file import sealed_look
from essaim_master.config import load_master_config
from essaim_master.tools.backup import CheckedBackup, backup_files, check_backup, restore_backup
from essaim_master.tools.inspect import add_commands
from essaim_master.tools.recovery import go_on_alone, survey
from essaim_shared.errors import ConfigError, EssaimError
from essaim_shared.sealing import DataKey, load_data_key


def main(words: list[str] | None = None) -> int:
    """The exit status: 1, after one line, when it could not be done."""
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.run(arguments) or 0)
    except (EssaimError, OSError) as error:
        print(f"essaim: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="essaim-master-tools", description=__doc__)
    commands = parser.add_subparsers(required=True)
    backup = commands.add_parser("backup", help="Write a stopped master's state into a file.")
    backup.add_argument("file", type=Path)
    backup.add_argument("--data-dir", type=Path, required=True)
    backup.add_argument("--unencrypted", action="store_true", help="Whoever has it can read it.")
    backup.set_defaults(run=_backup)
    check = commands.add_parser("check", help="Check a backup by its hash.")
    check.add_argument("file", type=Path)
    check.set_defaults(run=_check)
    for command in (backup, check):
        command.add_argument("--seal-key-file", type=Path, help="The key that all masters share.")
    restore = commands.add_parser("restore", help="Make this master's first disk from a backup.")
    restore.add_argument("file", type=Path)
    restore.add_argument(
        "--seal-key-file", type=Path, help="Another one than the configuration names."
    )
    restore.set_defaults(run=_restore)
    recover = commands.add_parser("recover", help="Go on alone, when a majority is lost for good.")
    recover.add_argument("--yes", action="store_true", help="Do it, rather than only look.")
    recover.set_defaults(run=_recover)
    add_commands(commands)
    for command in (restore, recover):
        command.add_argument("--config", type=Path, required=True, metavar="MASTER.TOML")
        command.add_argument("--data-dir", type=Path, help="Another one than the file names.")
    return parser


def _backup(arguments: argparse.Namespace) -> None:
    key = _key_of(arguments)
    if (key is None) != arguments.unencrypted:
        raise ConfigError(
            "a backup is sealed with the key that all masters share: name its file with "
            "--seal-key-file, or ask for an open one with --unencrypted, not both"
        )
    _show(arguments.file, backup_files(arguments.data_dir, arguments.file, key))


def _check(arguments: argparse.Namespace) -> None:
    key = _key_of(arguments)
    seen = sealed_look(arguments.file)
    if seen is None or key is not None:
        _show(arguments.file, check_backup(arguments.file, key))
        return
    print(
        f"{arguments.file}: cluster {seen.cluster_id}, sealed with the key {seen.key_id.hex()}, "
        f"{seen.size_bytes} bytes, whole; with --seal-key-file the state inside is checked too"
    )


def _key_of(arguments: argparse.Namespace, otherwise: str = "") -> DataKey | None:
    path = arguments.seal_key_file or (Path(otherwise) if otherwise else None)
    return None if path is None else load_data_key(path)


def _restore(arguments: argparse.Namespace) -> None:
    config = load_master_config(arguments.config)
    data_dir = arguments.data_dir or Path(config.data_dir)
    # An open backup needs no key, so a missing file of it is no hindrance.
    key = None if sealed_look(arguments.file) is None else _key_of(arguments, config.seal_key_file)
    identity = restore_backup(arguments.file, config, data_dir, key)
    _show(arguments.file, check_backup(arguments.file, key))
    print(
        f"restored into {data_dir} as {identity.member_id} of cluster {identity.cluster_id}, "
        f"incarnation {identity.incarnation}. Restore the same file on every other master of the "
        "list, then start them all"
    )


def _recover(arguments: argparse.Namespace) -> int:
    config = load_master_config(arguments.config)
    data_dir = arguments.data_dir or Path(config.data_dir)
    found = survey(data_dir, config)
    print(
        f"{found.identity.member_id}: last entry {found.last_index} of term {found.last_term}, "
        f"committed {found.commit}; voters {', '.join(found.configuration.voters)}; "
        f"reachable {', '.join(found.reachable) or 'none'}"
    )
    if not arguments.yes and not found.can_have_quorum:
        print(
            "nothing was changed. If this survivor has the highest term, and within it the "
            "highest entry, let it go on alone with --yes; the others must then begin anew under "
            "new ids"
        )
        return 0
    identity = go_on_alone(data_dir, found)
    print(
        f"{identity.member_id} goes on alone, incarnation {identity.incarnation}: start it, then "
        "add other masters under new ids, with this incarnation in their configuration"
    )
    return 0


def _show(path: Path, backup: CheckedBackup) -> None:
    header, footer = backup
    print(
        f"{path}: cluster {header.cluster_id}, entry {header.metadata.index} of term "
        f"{header.metadata.term}, {footer.size_bytes} bytes, sha256 {footer.state_hash.hex()}"
    )


if __name__ == "__main__":
    sys.exit(main())
