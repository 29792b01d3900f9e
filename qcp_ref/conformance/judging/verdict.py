"""What is said of a result: right or not, in which way wrong, and by how much.

Checked by tests/conformance/judging/test_judge.py.
"""

from typing import NamedTuple

__all__ = ["Judgement"]


class Judgement(NamedTuple):
    """The verdict on one result: outcome, what went wrong in one word, error / bound, a sentence.

    The outcome is 'pass', 'fail', or 'suspect': within the proof, but above anything measured.
    """

    outcome: str
    word: str = ""
    margin: float = 0.0
    says: str = ""
