"""What do all certificates share? Checks with proven bounds, reading, bounds of rounding errors.

A check is an error, its bound, and the size that no right implementation was seen to exceed; a
verdict is that of the first check that fails. Everything is computed in rational numbers; only the
bounds know of roundings, namely of those of the declared arithmetic (the theory page of the kit
proves them).

Checked by tests/conformance/judging/test_certificates.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from math import isqrt, prod
from operator import sub
from typing import Any, NamedTuple

from qcp_ref import loops
from qcp_ref.conformance.dyadic import flat_numbers, fractions
from qcp_ref.conformance.judging.verdict import Judgement
from qcp_ref.conformance.spec import Arithmetic

__all__ = [
    "FLOATS", "INTEGERS", "USUAL", "Check", "Refused", "declared", "each", "error_steps",
    "forming_growth", "given_of", "gradient_check", "growth", "guarded", "norm", "normal_growth",
    "plus_diagonal", "problem", "read", "read_result", "read_results", "refuse", "refuse_outside",
    "root", "solving", "square_of", "verdict",
]  # fmt: skip

Case = Mapping[str, Any]
Info = Mapping[str, Any]  # what the adapter declares
Matrix = Any  # nested lists of fractions

_READS = 8  # at most this often is a number rounded to a shorter type on its way through products
_ROOM = 10  # for solves by orthogonal matrices, whose proofs leave a constant open
USUAL = 20  # times rank * u: solves were seen to stay below, see the tests
FLOATS = ("f32", "f64")
INTEGERS = [f"{sign}{bits}" for sign in "iu" for bits in (8, 16, 32, 64)]


class Refused(Exception):
    """Carries the verdict on a result that cannot be judged by its numbers."""


class Check(NamedTuple):
    """An error, its proven bound, and a size that no correct implementation was seen to exceed."""

    what: str
    error: Fraction
    bound: Fraction
    usual: Fraction | None = None

    @property
    def margin(self) -> Fraction:
        """The error in units of its bound."""
        return self.error / self.bound if self.bound else Fraction(10**9 * (self.error > 0))


def verdict(checks: Iterable[Check], says: str | Callable[[], str] = "") -> Judgement:
    """Return the verdict on the first check that fails, else on the worst one.

    Checks after one that fails are not computed; ``says`` may be computed if none fails.
    """
    margin, suspect = Fraction(-1), ""
    for check in checks:
        if check.margin > 1:
            size = float(min(check.margin, Fraction(10**9)))
            times = f": {size:.3g} times the proven bound" if check.bound else ""
            return Judgement("fail", "wrong-value", size, check.what + times)
        margin = max(margin, check.margin)
        if check.usual is not None and check.error > check.usual:
            suspect = suspect or f"{check.what}: larger than ever measured"
    if suspect:
        return Judgement("suspect", "", float(margin), suspect)
    return Judgement("pass", "", float(margin), says if isinstance(says, str) else says())


# --- reading --------------------------------------------------------------------------------------


def given_of(case: Case) -> dict[str, Any]:
    """Return all inputs as fractions."""
    return {name: read(part) for name, part in case["in"].items()}


def read(part: Any) -> Any:
    """Return numbers as fractions, lists of arrays as lists of them."""
    return [read(one) for one in part] if isinstance(part, list) else part and fractions(part)


def refuse(wrong: bool, word: str, says: str) -> None:
    """End a judgement with a word and a sentence, if something is wrong."""
    if wrong:
        raise Refused("fail", word, 0.0, says)


def guarded(certificate: Callable[[Case, Any, Info], Judgement]) -> Callable[..., Judgement]:
    """Return a certificate whose refusals are verdicts."""

    def judged(case: Case, out: Any, info: Info) -> Judgement:
        try:
            return certificate(case, out, info)
        except Refused as refusal:
            return Judgement(*refusal.args)

    return judged


def read_result(
    name: str,
    part: Any,
    shape: Sequence[int],
    kinds: Sequence[str],
    numbers: Callable[[Any], Any] = fractions,
) -> Any:
    """Read one array of the result by ``numbers``, if it has the shape and one of the types."""
    found = part["s"] if isinstance(part, dict) else "a list"
    refuse(found != list(shape), "wrong-shape", f"{name}: {found}, expected {list(shape)}")
    kind = part["t"]
    refuse(kind not in kinds, "wrong-dtype", f"{name}: {kind}, expected {' or '.join(kinds)}")
    return numbers(part)


def read_results(
    name: str,
    parts: Any,
    shapes: Sequence[Any],
    kinds: Sequence[str],
    numbers: Callable[[Any], Any] = fractions,
) -> list[Any]:
    """Read a list of arrays, each as :func:`read_result` does."""
    wrong = not isinstance(parts, list) or len(parts) != len(shapes)
    refuse(wrong, "wrong-shape", f"{name}: expected a list of {len(shapes)} arrays")
    pairs = enumerate(zip(parts, shapes, strict=True))
    return [read_result(f"{name}[{i}]", *pair, kinds, numbers) for i, pair in pairs]


# --- arithmetic -----------------------------------------------------------------------------------


def declared(info: Info) -> Arithmetic:
    """Return the arithmetic that the adapter declares."""
    return Arithmetic.of(info["arith"])


def growth(n: int, info: Info) -> Fraction:
    """Bound the relative error of ``n`` roundings in the declared arithmetic."""
    inputs, u, *_ = declared(info)
    # gamma_n = n u / (1 - n u)  :eq:`bounds-gamma`; inputs of a shorter type are rounded before
    return (1 + inputs) ** _READS * (1 + n * u / (1 - n * u)) - 1


def solving(rank: int, info: Info) -> Fraction:
    """Bound the relative backward error of a solve."""
    # s = 10 R gamma_{3R+1} / (1 - R gamma_{R+1})  :eq:`conformance-solve`
    proven = rank * growth(3 * rank + 1, info) / (1 - rank * growth(rank + 1, info))
    return _ROOM * proven


def root(q: Fraction) -> Fraction:
    """Square root, rounded down by less than one part in ``2**60``."""
    shift = 64 + q.denominator.bit_length()
    return Fraction(isqrt(q.numerator * q.denominator << 2 * shift), q.denominator << shift)


def square_of(X: Any) -> Fraction:
    """Sum of the squares of all entries, of a tensor of any order."""
    return Fraction(sum(x * x for x in flat_numbers(X)))


def norm(X: Any) -> Fraction:
    """Norm of all entries, rounded down by less than one part in ``2**60``."""
    return root(square_of(X))


def each(function: Callable[..., Any], *matrices: Matrix) -> Matrix:
    """Apply a function to the entries of matrices of one shape."""
    rows = zip(*matrices, strict=True)
    return [[function(*entries) for entries in zip(*row, strict=True)] for row in rows]


def plus_diagonal(G: Matrix, diagonal: Sequence[Fraction]) -> Matrix:
    """Add numbers to the diagonal of a matrix."""
    return [[g + (r == s) * diagonal[r] for s, g in enumerate(row)] for r, row in enumerate(G)]


# --- least squares --------------------------------------------------------------------------------


def problem(X: Any, factors: Sequence[Matrix], mode: int) -> tuple[Matrix, Matrix]:
    """Return ``M`` and ``K`` of the least-squares problem ``min norm(M - A K^T)`` of a mode."""
    others = [A for n, A in enumerate(factors) if n != mode]
    return loops.unfold(X, mode), loops.khatri_rao(others)


def normal_growth(factors: Sequence[Matrix], mode: int, info: Info) -> Fraction:
    """Relative size of all errors in forming and solving the normal equations."""
    sides = [len(A) for n, A in enumerate(factors) if n != mode]
    return forming_growth(sides, len(factors[0][0]), info)


def forming_growth(sides: Sequence[int], rank: int, info: Info) -> Fraction:
    """Relative size of these errors, by the sides of the other modes and the rank."""
    # t = (1 + gamma_{P + 2d})^2 (1 + s) - 1  :eq:`conformance-gradient`
    forming = 1 + growth(prod(sides) + 2 * len(sides), info)
    return forming**2 * (1 + solving(rank, info)) - 1


def gradient_check(X: Any, factors: Sequence[Matrix], mode: int, A: Matrix, info: Info) -> Check:
    """Check that the gradient vanishes up to rounding."""
    # ||(M - A K^T) K|| <= t ||K|| (||M|| + ||A|| ||K||)  :eq:`conformance-gradient`
    M, K = problem(X, factors, mode)
    transposed = [list(column) for column in zip(*K, strict=True)]
    gradient = loops.matmul(each(sub, M, loops.matmul(A, transposed)), K)
    size = norm(K) * (norm(M) + norm(A) * norm(K))
    usual = growth(USUAL * len(transposed), info) * size
    bound = normal_growth(factors, mode, info) * size
    return Check(f"gradient of mode {mode}", norm(gradient), bound, usual)


def refuse_outside(codes: Sequence[Fraction], case: Case) -> None:
    """End a judgement if codes are not in the range of the case."""
    low, high = case["options"]["qmin"], case["options"]["qmax"]
    wrong = min(codes) < low or max(codes) > high
    refuse(wrong, "wrong-value", f"codes: outside {low} to {high}")


def error_steps(shape: Sequence[int], rank: int) -> int:
    """Count roundings on the way to an error, by :eq:`als-error` or by the difference."""
    return 2 * prod(shape) + (rank + 1) * (sum(shape) + rank) + 6 * len(shape)
