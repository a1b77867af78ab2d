"""Compose files of the tests, loaded as the command line does, with an environment of their own."""

from pathlib import Path

import pytest

from essaim_cli.compose.conversion import stack_of
from essaim_cli.compose.document import read_document
from essaim_cli.compose.files import load_files
from essaim_cli.compose.loading import load

SAMPLES = Path(__file__).with_name("samples")
ENVIRONMENT = {"HOME": "/users/me", "FROM_CALLER": "yes", "CALLERS_TOO": "2"}


def no_file(path):
    raise FileNotFoundError(2, "No such file or directory", path)


@pytest.fixture
def compose():
    """Loads the text of files, which stand in /stack."""

    def load_texts(*texts, environment=ENVIRONMENT, read_text=no_file, **options):
        documents = [read_document(text.encode()) for text in texts]
        return load(documents, "/stack", environment, read_text, **options)

    return load_texts


@pytest.fixture
def service(compose):
    """The specification of the service `web` with these keys, of the stack `s`."""

    def spec_of(text, top="", **options):
        image = "" if text.startswith("image:") else "image: img\n"
        lines = "".join(f"    {line}\n" for line in (image + text).splitlines())
        whole = f"services:\n  web:\n{lines}{top}\n"
        (spec,) = stack_of("s", compose(whole, **options), no_file).services
        return spec

    return spec_of


@pytest.fixture
def sample():
    """Sample files as one, with a variable or two."""

    def load_samples(*names, **environment):
        return load_files([str(SAMPLES / name) for name in names], {**ENVIRONMENT, **environment})

    return load_samples
