"""The main public functions, once each: what a process without Numba has to do as well."""

import numpy as np

import qcp_ref


def work():
    """Run the main public functions; return numbers by name, the same in any process."""
    rng = np.random.default_rng(7)
    q, found = qcp_ref, {}
    A = rng.standard_normal((9, 12))
    for grid in (q.Grid(4), q.Grid(6), q.Grid(3, mid_rise=True), q.Grid(5, signed=False)):
        for rule in ("mse-exact", "mse-200") if grid.signed else ("mse-exact",):
            name = f"scale {rule} {grid.bits} {grid.mid_rise}"
            found[name] = q.choose_scale(A, grid, rule=rule, axis=1).scale
    found["scale affine"] = q.choose_scale(A, q.Grid(3), rule="mse-exact-affine").scale
    found["bits of codes"] = q.quantize(A, q.Grid(4), 0.25)
    K, F = rng.standard_normal((14, 6)), rng.standard_normal((5, 14))
    for method in ("round", "descent", "babai", "k-best", "sphere"):
        fit = q.solve_rows(3 * F @ K, K.T @ K, q.Grid(4), 1.0, method=method)
        found[f"bits of rows {method}"], found[f"rows {method}"] = fit.codes, fit.objective
    X = rng.standard_normal((6, 5, 9))
    cp = q.random_cp(X.shape, 4, rng=1)
    start = q.QuantizedCP(
        [q.quantize(B, q.Grid(4), 0.5) for B in cp.factors], [np.array(0.5)] * 3, q.Grid(4)
    )
    polished = q.polish(X, start, sweeps=12, rng=0)
    for n, codes in enumerate(polished.cp.codes):
        found[f"bits of polish {n}"] = codes
    x = rng.standard_normal((2, 5, 8, 9))
    for dtype in (np.float64, np.float32):
        y = q.cp_conv2d(x.astype(dtype), _cast(cp, dtype), kernel_size=3, padding=1, stride=2)
        found[f"bits of conv {y.dtype}"] = y
    for method in ("als-round", "authors", "sequential", "best"):
        fit = q.factorize(X, 4, q.Grid(4), method=method, rng=0)
        found[f"error {method}"] = np.array(fit.error)
        fast = {"sweeps": 5} if method == "best" else {}
        layer = q.compress_conv(
            X.reshape(6, 5, 3, 3), rank=4, padding=1, method=method, rng=0, **fast
        )
        found[f"error of layer {method}"] = np.array(layer.error)
        assert np.isfinite(layer.forward(x)).all()
        assert np.isfinite(layer.forward(x.astype(np.float32))).all()
    found["error ao_admm"] = np.array(q.ao_admm(X, 3, q.Grid(4), rng=0).error)
    found["range"] = np.array(q.activation_scale([x], q.Grid(8)).scale)
    return found


def _cast(cp, dtype):
    return qcp_ref.CP([A.astype(dtype) for A in cp.factors])
