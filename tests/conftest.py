"""Hypothesis profiles and the random generator that tests share.

``dev`` draws new examples every time, ``ci`` the same ones in every run (chosen when CI is set),
``long`` many; HYPOTHESIS_PROFILE names one. Warnings are errors: see pyproject.toml.
"""

import os
from zlib import crc32

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# How fast a machine draws examples is not a property of the code under test.
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", **COMMON)
settings.register_profile("ci", derandomize=True, print_blob=True, **COMMON)
settings.register_profile("long", max_examples=1000, **COMMON)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)


@pytest.fixture
def rng(request):
    """Return a generator of its own for each test, the same in every run."""
    return np.random.default_rng(crc32(request.node.nodeid.encode()))
