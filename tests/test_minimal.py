"""The paper on one page is right: the kit finds nothing, and the errors are those of the book."""

import ast
import os
import re
from pathlib import Path

import numpy as np
import pytest

from qcp_ref import Grid, choose_scale, compress_conv, kernel_to_tensor, minimal
from qcp_ref.app.network import KERNELS, load_network
from qcp_ref.conformance import Adapter
from qcp_ref.conformance.cases.vectors import load
from qcp_ref.conformance.running.session import run

MANY = os.environ.get("HYPOTHESIS_PROFILE") == "long"


def page():
    """An adapter made of the page: what it does not say, the kit does not ask."""
    impl = Adapter("minimal", arith="f64")
    impl.lacks("affine", "bias", "rank-deficient", "refuses", "rule-max-abs", "weights")

    @impl.op
    def quantize(x, scale, zero_point, *, qmin, qmax):
        return minimal.project(x, qmin, qmax, scale)[1].astype(np.int64)

    @impl.op
    def project(x, scale, zero_point, *, qmin, qmax):
        return minimal.project(x, qmin, qmax, scale)[0]

    @impl.op
    def choose_scale(x, *, qmin, qmax, rule):
        return minimal.choose_scale(x, qmin, qmax)

    @impl.op
    def reconstruct(factors, weights):
        return minimal.reconstruct(factors)

    @impl.op
    def balance(factors, weights):
        return minimal.balance(factors)

    @impl.op
    def mttkrp(X, factors, *, mode):
        return minimal.normal_equations(X, factors, mode)[0]

    @impl.op
    def als_update(X, factors, *, mode):
        return minimal.als_update(X, factors, mode)

    @impl.op
    def epc_update(X, factors, delta, *, mode):
        return minimal.epc_update(X, factors, mode, delta)

    @impl.op
    def admm_step(F, G, H, U, rho, scale, *, qmin, qmax):
        step = minimal.admm_step(F, G, H, U, rho, lambda V: minimal.project(V, qmin, qmax, scale))
        return step[:3]

    @impl.op
    def cp_als(X, *, rank, seed):
        factors = minimal.cp_als(X, rank, np.random.default_rng(seed))
        return factors, np.linalg.norm(X - minimal.reconstruct(factors)) / np.linalg.norm(X)

    @impl.op
    def ao_admm(X, *, rank, seed, qmin, qmax):
        start = minimal.epc(X, minimal.cp_als(X, rank, np.random.default_rng(seed)))
        error, codes, scales = minimal.ao_admm(X, start, qmin, qmax)
        return [k.astype(np.int64) for k in codes], np.array(scales), error

    @impl.op
    def cp_conv2d(x, a_out, a_in, a_kernel, bias, *, kernel_size, **options):
        return minimal.cp_conv2d(x, (a_out, a_in, a_kernel), kernel_size, **options)

    return impl


def failures(*ops):
    """What the kit finds wrong, by operation; and that each operation was asked something."""
    impl = page()
    wanted = ops or tuple(impl.ops)
    results = run(impl, [case for case in load() if case["op"] in wanted]).results
    passed = {result.op for result in results if result.outcome == "pass"}
    wrong = [result.id for result in results if result.outcome not in ("pass", "n/a")]
    assert wrong or passed == set(wanted)
    return wrong


@pytest.mark.slow
def test_the_kit_finds_nothing():
    assert failures() == []


def test_where_all_codes_are_zero_any_scale_will_do():
    for x in (np.zeros(3), -np.ones(3)):
        values, codes, scale = minimal.project(x, 0, 7)
        assert scale == choose_scale(x, Grid(3, signed=False)).scale.item() == 1.0
        assert not codes.any() and not values.any()


def test_each_function_of_the_page_is_explained_by_a_chapter():
    package, said = Path(minimal.__file__).parent, []
    for path in package.glob("*/*.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for paragraph in text.split("\n\n"):
            if "``qcp_ref/minimal.py``" in paragraph:
                assert "What breaks there: " in paragraph.replace("\n", " ")
                said += re.findall(r"``(\w+)``", paragraph)
    page = ast.parse(Path(minimal.__file__).read_text(encoding="utf-8"))
    assert sorted(said) == sorted(f.name for f in page.body if isinstance(f, ast.FunctionDef))


FAULTS = {
    "the dual is forgotten": (
        "admm_step",
        lambda F, G, H, U, rho, project: (
            *minimal_step(F, G, H, U, rho, project)[:2],
            U,
        ),
    ),
    "the scale is that of the largest number": (
        "choose_scale",
        lambda x, qmin, qmax: np.abs(x).max() / max(-qmin, qmax),
    ),
    "the bound of the correction is ignored": (
        "epc_update",
        lambda X, factors, n, delta: minimal.als_update(X, factors, n),
    ),
    "the other factors in the opposite order": (
        "normal_equations",
        lambda X, factors, n: normal_equations(X, factors[::-1], len(factors) - 1 - n),
    ),
}
minimal_step, normal_equations = minimal.admm_step, minimal.normal_equations
ASKED = {"normal_equations": "mttkrp"}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_kit_finds_a_planted_fault(monkeypatch, fault):
    name, wrong = FAULTS[fault]
    monkeypatch.setattr(minimal, name, wrong)
    assert failures(ASKED.get(name, name))


@pytest.mark.parametrize("name", KERNELS if MANY else list(KERNELS)[:1])
def test_its_error_is_within_two_per_cent_of_the_authors_recipe(name):
    W = load_network()[f"{name}.weight"]
    theirs = compress_conv(W, rate=2, bits=4, method="authors", rng=1)
    X = np.asarray(kernel_to_tensor(W), dtype=float)
    start = minimal.cp_als(X, theirs.rank, np.random.default_rng(2))
    fit = np.linalg.norm(X - minimal.reconstruct(start))
    corrected = minimal.epc(X, start)
    # The correction keeps the error, and shrinks the components.
    assert np.linalg.norm(X - minimal.reconstruct(corrected)) <= fit * (1 + 1e-9)
    sizes = [np.prod([(A**2).sum(0) for A in part], axis=0).sum() for part in (start, corrected)]
    assert sizes[1] < sizes[0]
    error, codes, scales = minimal.ao_admm(X, corrected, -8, 7)
    factors = [s * k for s, k in zip(scales, codes, strict=True)]
    difference = np.linalg.norm(X - minimal.reconstruct(factors)) / np.linalg.norm(X)
    assert error == pytest.approx(difference, rel=1e-12)
    assert all(np.isin(k, np.arange(-8, 8)).all() for k in codes)
    assert error <= 1.02 * theirs.error
