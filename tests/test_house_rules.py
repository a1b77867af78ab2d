"""The house rules of CONTRIBUTING.md, each as a test of its own.

Style, types and import contracts are judged by their own programs, with the configuration in
pyproject.toml; what no such program knows is checked here on the syntax trees.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("master/essaim_master", "agent/essaim_agent", "shared/essaim_shared", "cli/essaim_cli")

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60

IMPORTERS: dict[str, tuple[str, ...]] = {
    "nats": ("shared/essaim_shared/nats_connection", "shared/essaim_shared/nats_transport"),
    "docker": ("agent/essaim_agent/docker_",),
    "msgpack": ("master/essaim_master/inspection",),
    "pyroute2": ("agent/essaim_agent/overlay/",),
    "psutil": ("agent/essaim_agent/metrics/",),
    "uvicorn": ("master/essaim_master/http/", "agent/essaim_agent/metrics/"),
    "rich": ("cli/essaim_cli/",),
    "click": ("cli/essaim_cli/",),
    "cryptography": ("shared/essaim_shared/sealing", "shared/essaim_shared/trust/"),
    "nkeys": ("shared/essaim_shared/trust/bus_keys",),
    "dnslib": ("agent/essaim_agent/dns/",),
    "yaml": ("cli/essaim_cli/compose/",),
}
"""Which files may import an outside library: everybody else sees a type of ours."""

CODECS = {"msgpack", "dnslib", "yaml"}
"""Libraries that turn values into values: a pure module may be their importer."""

CLOCK_FILES = ("shared/essaim_shared/clock.py", "cli/essaim_cli/pace.py")


def package_files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def modules_of_tests() -> list[Path]:
    return sorted((ROOT / "tests").rglob("*.py"))


def text_files() -> Iterator[Path]:
    """Every text file that belongs to the project, by the places where such files stand."""
    tops = ("agent", "bench", "cli", "deploy", "docs", "master", "requirements", "shared", "tests")
    for top in (*tops, "tools", "vagrant", ".ci"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                yield path
    for path in sorted(ROOT.iterdir()):
        if path.is_file() and path.name != ".git":
            yield path


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """`master/essaim_master/kv/__init__.py` → `essaim_master.kv`."""
    _, *parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def complaints_of(*command: str) -> str:
    """What a checker prints when it objects; nothing when it is content."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}"


def test_ruff_has_no_complaint() -> None:
    complaints = complaints_of("ruff", "check", ".")
    assert not complaints, complaints


def test_every_file_is_formatted() -> None:
    complaints = complaints_of("ruff", "format", "--check", ".")
    assert not complaints, complaints


@pytest.mark.timeout(600)
def test_types_hold_under_mypy_strict() -> None:
    complaints = complaints_of("mypy")
    assert not complaints, complaints


def test_import_contracts_hold() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in package_files()}
    assert not {name: count for name, count in lengths.items() if count > FILE_LINES_MAX}


def test_every_function_fits_on_a_screen() -> None:
    long = [
        f"{relative(path)}:{node.lineno} {node.name} has {length} lines"
        for path in package_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module


def test_each_outside_library_has_one_importer() -> None:
    strangers = [
        f"{relative(path)}:{line} imports {name}"
        for path in package_files()
        for line, name in imported_names(path)
        if (allowed := IMPORTERS.get(name.partition(".")[0])) is not None
        and not relative(path).startswith(allowed)
    ]
    assert not strangers


def pure_files() -> list[Path]:
    """The modules that call themselves so."""
    return [
        path
        for path in package_files()
        if re.search(r"\bPure[.;]|: pure\b", ast.get_docstring(ast.parse(path.read_text())) or "")
    ]


def test_modules_that_call_themselves_pure_stand_in_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (listed,) = [
        tuple(contract["source_modules"])
        for contract in contracts["contracts"]
        if contract["name"].startswith("what decides")
    ]
    missing = [
        relative(path)
        for path in pure_files()
        if not f"{module_of(path)}.".startswith(tuple(f"{name}." for name in listed))
    ]
    assert not missing


def test_modules_that_call_themselves_pure_are() -> None:
    """Values in, values out. The import contracts hold the list; this holds everybody's word."""
    effects = {"asyncio", "time", "os", "subprocess", "threading", "shutil", "signal"}
    impure = [
        f"{relative(path)}:{line} imports {name}"
        for path in pure_files()
        for line, name in imported_names(path)
        if name.partition(".")[0] in effects | IMPORTERS.keys() - CODECS
    ]
    assert not impure


def test_only_the_clock_reads_the_clock() -> None:
    readers = [
        f"{relative(path)}:{line} imports {name}"
        for path in package_files()
        for line, name in imported_names(path)
        if name == "time" and relative(path) not in CLOCK_FILES
    ]
    assert not readers


def test_no_error_is_swallowed_whole() -> None:
    """No bare except, no `except Exception`: a typed error, or a stop with numbers."""
    swallowed = [
        f"{relative(path)}:{node.lineno}"
        for path in package_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
        )
    ]
    assert not swallowed


def test_nothing_is_left_for_later() -> None:
    """Unfinished work stands in the tracker, not in the code."""
    words = ("TO" + "DO", "FIX" + "ME", "X" + "XX", "Not" + "Implemented" + "Error")
    pattern = re.compile(rf"\b({'|'.join(words)})\b")
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in [*package_files(), *modules_of_tests()]
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found


def test_nothing_names_the_place_where_it_was_written() -> None:
    places = ("/" + "work/", "/" + "root/", "/" + "home/")
    found = [
        f"{relative(path)}:{number}: {line.strip()[:120]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if any(place in line for place in places)
    ]
    assert not found


def test_requirements_are_locked_by_hash_and_name_no_registry() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text()
        assert "://" not in text, relative(path)
        assert "--index-url" not in text, relative(path)
        pins = re.findall(r"^[a-zA-Z0-9].*$", text, re.MULTILINE)
        assert pins, relative(path)
        assert all(re.search(r"==.*\\$", pin) for pin in pins), relative(path)


def test_tests_neither_mock_nor_skip_nor_sleep() -> None:
    words = ("Magic" + "Mock", "monkey" + "patch", "unittest." + "mock", "time." + "sleep")
    marks = ("mark." + "skip", "pytest." + "skip", "mark." + "xfail", "importor" + "skip")
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in modules_of_tests()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if any(word in line for word in (*words, *marks))
    ]
    assert not found


def test_test_modules_have_names_of_their_own() -> None:
    names = [path.name for path in modules_of_tests() if path.name != "conftest.py"]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_decision_record_is_listed_once_and_whole() -> None:
    records = sorted((ROOT / "docs/adr").glob("[0-9][0-9][0-9][0-9]-*.md"))
    listed = re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", (ROOT / "docs/adr/README.md").read_text())
    assert listed == [path.name for path in records]
    for number, path in enumerate(records, start=1):
        assert path.name.startswith(f"{number:04d}-"), f"a gap before {path.name}"
        text = path.read_text()
        for part in ("Date: ", "Status: ", "## Context", "## Decision", "## Consequences"):
            assert part in text, f"{path.name} lacks {part!r}"


def test_every_package_is_typed_and_every_module_says_what_it_is_for() -> None:
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists(), package
    silent = [
        relative(path)
        for path in package_files()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent
