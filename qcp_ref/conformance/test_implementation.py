"""The tests that ``pytest --pyargs qcp_ref.conformance --qcp-impl ...`` runs."""

from collections.abc import Mapping
from typing import Any

from qcp_ref.conformance.running.pytest_suite import report_of

__all__ = ["test_case"]


def test_case(qcp_run: Any, qcp_case: Mapping[str, Any]) -> None:
    """One case of the suite."""
    report_of(qcp_run.run(qcp_case))
