"""The small project in which the rules' planted faults stand."""

import pytest
from planted import write


@pytest.fixture
def project(tmp_path):
    """Return a small project that obeys every rule."""
    write(tmp_path)
    return tmp_path
