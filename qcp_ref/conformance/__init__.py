"""The conformance kit: check an implementation of your own against the definitions of the book.

An adapter (:class:`Adapter`) of a few lines names the implementation's functions; the cases, their
exact expectations and their proven tolerances come with the package; ``python -m
qcp_ref.conformance my_adapter:impl`` runs them and says, level by level, what is right and what is
not. :func:`suite` puts the same cases into a test suite of one's own.

The folders are the questions: ``cases`` says what is asked, ``judging`` whether a result is right,
``faults`` how much the cases see, and ``running`` runs an implementation. ``cases`` and ``judging``
know of the package nothing but the index loops (:mod:`qcp_ref.loops`), and nothing of the
implementation: neither of ours, whose adapter is in ``reference``, nor of one that is tested.
"""

from qcp_ref.conformance.adapter import Adapter, Unsupported
from qcp_ref.conformance.judging.judge import judge
from qcp_ref.conformance.judging.verdict import Judgement
from qcp_ref.conformance.running.pytest_suite import suite
from qcp_ref.conformance.running.report import Report, Result
from qcp_ref.conformance.running.session import run

__all__ = ["Adapter", "Judgement", "Report", "Result", "Unsupported", "judge", "run", "suite"]
