"""The work that ``benchmarks/run.py`` times: one class per contestant, one method per kind of work.

A method takes the parameters of the work, prepares its data and returns what is timed: a function
of the number of steps. Seconds per step are the difference of two such calls, so that preparation
inside a library's entry point does not count. Every contestant lives in a process of its own, and
imports its library there.
"""

import importlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

Timed = Callable[[int], object]


def tensor(shape: tuple[int, ...]) -> np.ndarray:
    """Return the tensor that all contestants decompose; time does not depend on its entries."""
    return np.random.default_rng(1).standard_normal(shape)


def factors(shape: tuple[int, ...], rank: int, dtype: str = "float64") -> list[np.ndarray]:
    """Return the factors that all contestants start from."""
    rng = np.random.default_rng(2)
    return [(rng.standard_normal((side, rank)) / np.sqrt(side)).astype(dtype) for side in shape]


def normal_equations(side: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the F and G of one factor, as ALS would meet them, and well conditioned."""
    M = np.random.default_rng(3).standard_normal((rank, rank))
    G = M @ M.T / rank + np.eye(rank)
    return factors((side,), rank)[0] @ G, G


class Contestant:
    """A library and the work it can do; what it cannot do it has no method for."""

    package = "numpy"

    def start(self, threads: int) -> None:
        """Import the library; the limits of OpenBLAS and OpenMP are in the environment."""

    def version(self) -> str:
        """Return the version of the library."""
        return version(self.package)


class NumPy(Contestant):
    """The rates of the machine, as NumPy reaches them."""

    def gemm(self, n: int, dtype: str) -> Timed:
        """Multiply square matrices."""
        A = np.random.default_rng(4).standard_normal((n, n)).astype(dtype)
        C = np.empty_like(A)
        return repeated(lambda: np.matmul(A, A, out=C))

    def copy(self, n: int) -> Timed:
        """Copy an array; what is read and what is written count as bytes."""
        source, target = np.ones(n), np.empty(n)
        return repeated(lambda: np.copyto(target, source))

    def admm_step(self, side: int, rank: int, bits: int) -> Timed:
        """Do the product of one step, and nothing else."""
        del bits
        F, G = normal_equations(side, rank)
        return repeated(lambda: F @ G)

    descent = admm_step


class Reference(Contestant):
    """The package itself."""

    package = "qcp-ref"

    def start(self, threads: int) -> None:
        """Import the package."""
        self.q = importlib.import_module("qcp_ref")

    def als(self, shape: tuple[int, ...], rank: int) -> Timed:
        """Sweep over the modes."""
        X, start = tensor(shape), self.q.CP(factors(shape, rank))
        return lambda n: self.q.cp_als(X, rank, init=start, max_sweeps=n, stop="none")

    def admm_step(self, side: int, rank: int, bits: int) -> Timed:
        """Step with the exact scale chosen anew."""
        F, G = normal_equations(side, rank)
        grid, start = self.q.Grid(bits), factors((side,), rank)[0]

        def project(V: np.ndarray) -> np.ndarray:
            return self.q.project(V, grid)

        return lambda n: self.q.admm(F, G, project, start=start, max_steps=n, tol=0.0)

    def scale(self, size: int, bits: int, rule: str = "mse-exact") -> Timed:
        """Choose the exact scale from nothing."""
        x, grid = np.random.default_rng(5).standard_normal(size), self.q.Grid(bits)
        return repeated(lambda: self.q.choose_scale(x, grid, rule=rule))

    def descent(self, side: int, rank: int, bits: int) -> Timed:
        """Let all rows descend once; private, because no public function stops after one pass."""
        descent = importlib.import_module("qcp_ref.factors.descent")
        F, G = normal_equations(side, rank)
        grid, start = self.q.Grid(bits), factors((side,), rank)[0]
        scale = self.q.choose_scale(start, grid).scale
        V = descent.in_levels(self.q.quantize(start, grid, scale), grid)
        steps = descent.in_steps(F, G, grid, scale)
        noise = 0.35 * np.random.default_rng(6).standard_normal(V.shape)
        return repeated(lambda: descent.descent_pass(V.copy(), steps, noise))

    def conv(self, channels: int, side: int, rank: int, batch: int) -> Timed:
        """Run the factorized convolution in float32."""
        x, cp = image(channels, side, batch), self.q.CP(kernel(channels, rank))
        return repeated(lambda: self.q.cp_conv2d(x, cp, kernel_size=3, padding=1))

    def best(self, shape: tuple[int, ...], rank: int, bits: int, sweeps: int) -> Timed:
        """Factorize with method 'best'; ``self.split`` has the seconds of each stage."""
        clock, grid, X = (
            importlib.import_module("time").perf_counter,
            self.q.Grid(bits),
            tensor(shape),
        )

        def run(n: int) -> None:
            self.split, last = {}, clock()

            def note(stage: str, sweep: int, figure: float) -> None:
                nonlocal last
                now = clock()
                self.split[stage] = self.split.get(stage, 0.0) + now - last
                last = now

            for _ in range(n):
                self.q.factorize(X, rank, grid, rng=7, sweeps=sweeps, callback=note)

        return run


class TensorLy(Contestant):
    """Its CP by alternating least squares, without a stop rule."""

    package = "tensorly"

    def start(self, threads: int) -> None:
        """Import the function that is timed."""
        self.decomposition = importlib.import_module("tensorly.decomposition")

    def als(self, shape: tuple[int, ...], rank: int) -> Timed:
        """Sweep over the modes."""
        X, start = tensor(shape), (np.ones(rank), factors(shape, rank))
        options = {"init": start, "tol": None, "normalize_factors": False}
        return lambda n: self.decomposition.parafac(X, rank, n_iter_max=n, **options)


class PyTTB(Contestant):
    """Its CP by alternating least squares, with a stop rule that never holds."""

    package = "pyttb"

    def start(self, threads: int) -> None:
        """Import the package."""
        self.ttb = importlib.import_module("pyttb")

    def als(self, shape: tuple[int, ...], rank: int) -> Timed:
        """Sweep over the modes."""
        X, start = self.ttb.tensor(tensor(shape)), self.ttb.ktensor(factors(shape, rank))
        options = {"init": start, "stoptol": -1.0, "printitn": 0}
        return lambda n: self.ttb.cp_als(X, rank, maxiters=n, **options)


class Torch(Contestant):
    """PyTorch on the CPU: the same sweep written with it, and its convolutions."""

    package = "torch"

    def start(self, threads: int) -> None:
        """Import the package."""
        self.t = importlib.import_module("torch")
        self.t.set_num_threads(threads)

    def als(self, shape: tuple[int, ...], rank: int) -> Timed:
        """Sweep with two large products, Cholesky, the error, and balanced columns."""
        t, (I, J, K) = self.t, shape
        X = t.from_numpy(tensor(shape))
        size = t.linalg.norm(X)

        def solve(F: Any, G: Any) -> Any:
            return t.cholesky_solve(F.T, t.linalg.cholesky(G)).T

        def run(n: int) -> None:
            A, B, C = map(t.from_numpy, factors(shape, rank))
            for _ in range(n):
                own = [B.T @ B, C.T @ C]
                rows = (B[:, None] * C[None]).reshape(J * K, rank)
                A = solve(X.reshape(I, J * K) @ rows, own[0] * own[1])
                T = (A.T @ X.reshape(I, J * K)).reshape(rank, J, K)
                own[0] = A.T @ A
                B = solve(t.bmm(T, C.T[:, :, None])[:, :, 0].T, own[0] * own[1])
                T = t.bmm(B.T[:, None, :], T)[:, 0, :].T
                own[1] = B.T @ B
                G = own[0] * own[1]
                C = solve(T, G)
                error = size**2 - 2 * (T * C).sum() + (G * (C.T @ C)).sum()
                lengths = [t.linalg.norm(M, dim=0) for M in (A, B, C)]
                share = (lengths[0] * lengths[1] * lengths[2]) ** (1 / 3)
                A, B, C = (M * (share / s) for M, s in zip((A, B, C), lengths, strict=True))
            assert n == 0 or error >= -1e-6 * size**2

        return run

    def conv(self, channels: int, side: int, rank: int, batch: int) -> Timed:
        """Run pointwise, depthwise, pointwise."""
        t, (a, b, c) = self.t, kernel(channels, rank)
        x = t.from_numpy(image(channels, side, batch))
        first, last = (t.from_numpy(M.copy())[:, :, None, None] for M in (b.T, a))
        middle = t.from_numpy(c.T.copy()).reshape(rank, 1, 3, 3)
        conv = t.nn.functional.conv2d

        def run() -> None:
            with t.inference_mode():
                conv(conv(conv(x, first), middle, padding=1, groups=rank), last)

        return repeated(run)


class DenseTorch(Torch):
    """PyTorch's convolution with a dense kernel of the same size."""

    als = None  # type: ignore[assignment]

    def conv(self, channels: int, side: int, rank: int, batch: int) -> Timed:
        """Run the layer that is not factorized."""
        del rank
        t, shape = self.t, (channels, channels, 3, 3)
        x = t.from_numpy(image(channels, side, batch))
        W = t.from_numpy(tensor(shape).astype("float32"))

        def run() -> None:
            with t.inference_mode():
                t.nn.functional.conv2d(x, W, padding=1)

        return repeated(run)


class OnnxRuntime(Contestant):
    """ONNX Runtime with the three convolutions as a graph."""

    package = "onnxruntime"

    def start(self, threads: int) -> None:
        """Import the runtime and what makes its graphs."""
        self.ort = importlib.import_module("onnxruntime")
        self.options = self.ort.SessionOptions()
        self.options.intra_op_num_threads = threads

    def conv(self, channels: int, side: int, rank: int, batch: int) -> Timed:
        """Run pointwise, depthwise, pointwise."""
        onnx = importlib.import_module("onnx")
        help_, numbers = onnx.helper, onnx.numpy_helper
        a, b, c = kernel(channels, rank)
        weights = {
            "first": b.T[:, :, None, None],
            "middle": c.T.reshape(rank, 1, 3, 3),
            "last": a[:, :, None, None],
        }
        nodes = [
            help_.make_node("Conv", ["x", "first"], ["y"]),
            help_.make_node("Conv", ["y", "middle"], ["z"], group=rank, pads=[1, 1, 1, 1]),
            help_.make_node("Conv", ["z", "last"], ["out"]),
        ]
        shape = [batch, channels, side, side]
        ends = [help_.make_tensor_value_info(name, 1, shape) for name in ("x", "out")]
        stored = [numbers.from_array(np.ascontiguousarray(w), n) for n, w in weights.items()]
        graph = help_.make_graph(nodes, "cp", ends[:1], ends[1:], stored)
        opsets = [help_.make_opsetid("", 17)]
        model = help_.make_model(graph, opset_imports=opsets, ir_version=8)
        session = self.ort.InferenceSession(model.SerializeToString(), self.options)
        feed = {"x": image(channels, side, batch)}
        return repeated(lambda: session.run(None, feed))


CONTESTANTS: dict[str, type[Contestant]] = {
    "numpy": NumPy,
    "qcp_ref": Reference,
    "tensorly": TensorLy,
    "pyttb": PyTTB,
    "torch": Torch,
    "torch dense": DenseTorch,
    "onnxruntime": OnnxRuntime,
}


def image(channels: int, side: int, batch: int) -> np.ndarray:
    """Return the images that a convolution gets."""
    shape = (batch, channels, side, side)
    return np.random.default_rng(8).standard_normal(shape).astype(np.float32)


def kernel(channels: int, rank: int) -> list[np.ndarray]:
    """Return a_out, a_in and a_kernel of a 3x3 layer."""
    return factors((channels, channels, 9), rank, "float32")


def repeated(function: Callable[[], object]) -> Timed:
    """Return a function that does it a number of times."""

    def run(n: int) -> None:
        for _ in range(n):
            function()

    return run
