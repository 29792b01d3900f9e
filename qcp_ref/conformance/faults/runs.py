"""Which wrong runs does the suite have to catch, and which right ones must it never accuse?

A run is a loop around the plain solvers of ``qcp_ref.conformance.faults.solvers``, and a mutant is
that loop with one thing changed: a step, the order, what is kept from sweep to sweep, what is
returned. The letter N stands for runs of least squares, K for those of AO-ADMM.

Checked by tests/conformance/faults/test_faults_runs.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qcp_ref.conformance.faults.catalogue import Fault, lettered, vary
from qcp_ref.conformance.faults.controls import Control
from qcp_ref.conformance.faults.plain import RAW, khatri_rao
from qcp_ref.conformance.faults.solvers import SOLVERS, STEPS

__all__ = ["CONTROLS", "FAULTS", "RUNS"]

_update, _step, _scale = (SOLVERS[op] for op in ("als_update", "admm_step", "choose_scale"))


def _error(X: Any, factors: Any) -> Any:
    size = np.linalg.norm(X)
    return np.asarray(np.linalg.norm(X - RAW["reconstruct"](factors, None)) / (size or 1), X.dtype)


def _normal(X: Any, factors: Any, mode: int) -> tuple[Any, Any]:
    K = khatri_rao([A for n, A in enumerate(factors) if n != mode])
    return np.moveaxis(X, mode, 0).reshape(X.shape[mode], -1) @ K, K.T @ K


def _draw(X: Any, rank: int, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((side, rank)).astype(X.dtype) for side in X.shape]


# --- least squares --------------------------------------------------------------------------------


def _cp_als_run(X: Any, factors: Any, *, sweeps: int, fault: str = "") -> Any:
    new, modes, iterates, errors = list(factors), X.ndim, list[Any](), list[Any]()
    order = {"one mode": [0] * modes, "no sweep": []}.get(fault, [*range(modes)])
    for sweep in range(sweeps):
        old = list(new)
        for mode in order[::-1] if fault == "reversed" else order:
            seen = {"jacobi": old, "restarts": factors if sweep else new}.get(fault, new)
            A = _update(X, seen if fault == "jacobi" else new, mode=mode)
            if fault == "restarts" and sweep:
                A = _update(X, seen, mode=mode)
            norms = np.sqrt((A * A).sum(axis=0))
            new[mode] = A / np.where(norms > 0, norms, 1) if fault == "lost norms" else A
            iterates.append(new[mode])
        iterates += new if fault == "no sweep" else []
        errors.append(_error(X, old if fault == "late error" else new))
    squared = fault == "squared error"
    return iterates, np.array(errors, X.dtype) ** (2 if squared else 1)


def _cp_als(X: Any, *, rank: int, seed: int, fault: str = "") -> Any:
    factors = _draw(X, max(rank, 0), seed)
    if fault == "zero" or rank < 1:
        return [0 * A for A in factors], np.ones((), X.dtype)
    if fault == "no sweep":
        return factors, np.minimum(_error(X, factors), 1)
    if fault == "last only":
        factors[-1] = _update(X, factors, mode=X.ndim - 1)
        return factors, _error(X, factors)
    iterates, errors = _cp_als_run(X, factors, sweeps=20, fault=fault)
    found = iterates[-X.ndim :]
    if fault == "short":
        found = [*found[:-1], found[-1] / 2]
        return found, _error(X, found)
    return found, errors[-1]


# --- AO-ADMM --------------------------------------------------------------------------------------


def _scale_of(V: Any, before: Any, fault: str, **ends: int) -> Any:
    """Choose the scale of a projection; the faults choose it in other ways."""
    if fault == "frozen scale" and before is not None:
        return before
    if fault == "max-abs":
        return _scale(V, rule="max-abs", **ends)
    if fault == "half the codes":
        return _scale(V, qmin=ends["qmin"] // 2, qmax=max(ends["qmax"] // 2, 1))
    return _scale(V, **ends)


def _one_mode(
    problem: tuple[Any, Any], state: tuple[Any, Any, Any], steps: int, fault: str, **ends: int
) -> list[tuple[Any, ...]]:
    """Make the steps of one mode; return each with its weight and scale."""
    (F, G), (H, U, scale), done = problem, state, []
    rho = F.dtype.type(np.trace(G) / (1 if fault == "trace" else len(G)) or 1)
    rho = F.dtype.type(1) if fault == "weight 1" else rho
    inner = ends
    for _ in range(steps):
        before = 0 * U if fault == "fresh dual" else U
        T, _, _ = _step(F, G, H, before, rho, F.dtype.type(1), fault=fault, **ends)
        if fault == "no ADMM":
            T = H
        scale = _scale_of(T - before, scale, fault, **ends)
        if fault == "half the codes":
            inner = {"qmin": ends["qmin"] // 2, "qmax": max(ends["qmax"] // 2, 1)}
        T, new, dual = _step(F, G, H, before, rho, scale, fault=fault, **inner)
        if fault == "no ADMM":
            T, new, dual = H, scale * np.clip(np.rint(H / scale), ends["qmin"], ends["qmax"]), U
        H, U = new, dual
        done.append((T, H, U, rho, scale))
    return done


def _ao_admm_run(
    X: Any, factors: Any, *, sweeps: int, steps: int, qmin: int, qmax: int, fault: str = ""
) -> Any:
    now, modes = list(factors), X.ndim
    duals, scales, done, kept = [0 * A for A in now], [None] * modes, list[Any](), list[Any]()
    for _ in range(sweeps):
        duals = [0 * A for A in now] if fault == "dual anew" else duals
        for mode in range(modes):
            state = now[mode], duals[mode], scales[mode]
            ends = {"qmin": qmin, "qmax": qmax}
            part = _one_mode(_normal(X, now, mode), state, steps, fault, **ends)
            done += part
            _, H, U, _, scale = part[-1]
            if fault != "one mode" or mode == 0:
                now[mode], duals[mode], scales[mode] = H, U, scale
            elif scales[mode] is None:
                now[mode], scales[mode] = H, scale
        kept.append((_error(X, now), list(now), list(scales)))
    errors = np.array([one[0] for one in kept], X.dtype)
    best = {"last": -1, "worst": int(errors.argmax()), "first": 0}.get(fault, int(errors.argmin()))
    error, found, scales = kept[best]
    codes = [np.rint(A / s).astype(np.int64) for A, s in zip(found, scales, strict=True)]
    if fault == "squared error":
        error, errors = error * error, errors * errors
    *lists, rhos, used = zip(*done, strict=True)
    ending = errors, codes, np.array(scales, X.dtype), np.asarray(error, X.dtype)
    return *map(list, lists), np.array(rhos), np.array(used), *ending


def _ao_admm(X: Any, *, rank: int, seed: int, fault: str = "", **ends: int) -> Any:
    factors = RAW["balance"](_cp_als(X, rank=rank, seed=seed)[0], None)
    if fault == "zero" or rank < 1:
        zeros = [np.zeros(A.shape, np.int8) for A in factors]
        return zeros, np.ones(X.ndim, X.dtype), np.ones((), X.dtype)
    *_, codes, scales, error = _ao_admm_run(X, factors, sweeps=8, steps=8, fault=fault, **ends)
    if error > 1:
        return [0 * k for k in codes], scales, np.ones((), X.dtype)
    return codes, scales, error


RUNS: dict[str, Callable[..., Any]] = {
    "cp_als": _cp_als, "ao_admm": _ao_admm, "cp_als_run": _cp_als_run, "ao_admm_run": _ao_admm_run,
}  # fmt: skip

_LEAST_SQUARES = {
    "zero": "returns zeros, error 1",
    "no sweep": "returns the start",
    "last only": "fits the last factor only",
    "short": "halves the last factor",
    "one mode": "updates the first mode again and again",
    "jacobi": "updates each factor from those before the sweep",
    "reversed": "goes through the modes backwards",
    "restarts": "begins each sweep with the start",
    "lost norms": "loses norms when it normalises",
    "late error": "returns the error before the sweep",
    "squared error": "returns the squared error",
}
_ALTERNATING = {
    "zero": "returns zeros, error 1",
    "no ADMM": "rounds the start",
    "one mode": "updates the first mode only, and rounds the others once",
    "dual anew": "starts the duals anew in each sweep",
    "fresh dual": "starts the dual anew in each step",
    "trace": "takes the trace as the weight, not divided by the rank",
    "weight 1": "has the weight 1",
    "frozen scale": "keeps the first scale",
    "max-abs": "takes the scale from the largest entry",
    "half the codes": "uses half of the codes",
    "last": "returns the last sweep",
    "worst": "returns the worst sweep",
    "first": "returns the first sweep",
    "squared error": "returns the squared error",
    **{name: title for name, title in STEPS.items() if name not in ("D03", "D07", "D08")},
}
_WHICH = {
    "cp_als": ("zero", "no sweep", "last only", "short", "squared error"),
    "cp_als_run": ("no sweep", "one mode", "jacobi", "reversed", "restarts", "lost norms",
                   "late error", "squared error"),
    "ao_admm": ("zero", "half the codes", "D09", "squared error"),
    "ao_admm_run": tuple(name for name in _ALTERNATING if name != "zero"),
}  # fmt: skip


def _diverging(run: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
    """Let numbers overflow, as they do where a fault makes a run diverge."""
    with np.errstate(all="ignore"):
        return run(*arrays, **options)


def _faults() -> list[Fault]:
    found = []
    for letter, titles, ops in (
        ("N", _LEAST_SQUARES, ("cp_als", "cp_als_run")),
        ("K", _ALTERNATING, ("ao_admm", "ao_admm_run")),
    ):
        rows = [
            {"id": f"{letter}{k:02}", "ops": [op for op in ops if name in _WHICH[op]], "fault": name,
             "title": title}
            for k, (name, title) in enumerate(titles.items(), 1)
        ]  # fmt: skip
        for name, op, row in lettered(rows):
            function = vary(op, function=partial(_diverging, RUNS[op], fault=row["fault"]))
            found.append(Fault(name, op, row["title"], function))
    return found


FAULTS = tuple(_faults())
CONTROLS = tuple(
    Control(name, op, vary(op, function=function), options)
    for name, options in (("written plainly", {}), ("in float32", {"arith": "f32"}))
    for op, function in RUNS.items()
)
