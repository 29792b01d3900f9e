"""Hypothesis profiles and the random generator that tests share.

``dev`` draws new examples every time, ``ci`` the same ones in every run (chosen when CI is set),
``long`` many, ``mutants`` those of ``ci`` without shrinking (scripts/mutation.py);
HYPOTHESIS_PROFILE names one. Warnings are errors: see pyproject.toml.
"""

import os
from zlib import crc32

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from small_demo import shrink

# How fast a machine draws examples is not a property of the code under test.
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
FEW = 60  # examples of a test that does not say how many
settings.register_profile("dev", max_examples=FEW, **COMMON)
settings.register_profile("ci", max_examples=FEW, derandomize=True, print_blob=True, **COMMON)
settings.register_profile("long", max_examples=1000, **COMMON)
settings.register_profile(
    "mutants",
    max_examples=FEW,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
    **COMMON,
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)


@pytest.fixture
def rng(request):
    """Return a generator of its own for each test, the same in every run and in every folder."""
    return np.random.default_rng(crc32(request.node.nodeid.rpartition("/")[2].encode()))


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """Whatever needs all faults is slow."""
    for item in items:
        if "found" in item.fixturenames:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def found():
    """Run all faults and correct variants through all cases, once: it takes many seconds."""
    from qcp_ref.conformance.faults.matrix import matrix

    return matrix()


@pytest.fixture(scope="session")
def demo_result(tmp_path_factory):
    """Run the demo once, small; return its result and what its progress display was told."""
    from qcp_ref.app import demo

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        settings = demo.Settings(out=tmp_path_factory.mktemp("demo"))
        result = demo.run(settings, lambda *row: seen.append(row), lambda text: None)
    return result, seen


@pytest.fixture
def small_demo(monkeypatch):
    """Let the demo work on one layer and few images."""
    shrink(monkeypatch)
