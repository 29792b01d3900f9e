"""Train the bundled Fashion-MNIST network and write qcp_ref/app/data/.

To reproduce: install the development extra (PyTorch) and Debian's package dataset-fashion-mnist,
then run the command recorded in qcp_ref/app/data/manifest.json. On two cores it takes about a
quarter of an hour. A checkpoint is written after every epoch and a second call resumes from it. The
schedule is fixed beforehand and the last epoch is what is exported: the test images choose nothing.

Equal arrays give equal files: NumPy's archives carry no time stamps. The weights themselves are
repeatable on one machine with one version of PyTorch, not across machines.
"""

import argparse
import gzip
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MEAN, STD = 0.2860, 0.3530
CALIBRATION_PER_CLASS, TEST_IMAGES, STORED_LOGITS = 100, 2000, 100
THREADS = 2  # fixed, because the order of PyTorch's sums depends on it
FILES = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]
OUT = Path(__file__).parent.parent / "qcp_ref" / "app" / "data"
PROVENANCE = {
    "images": {
        "source": "Fashion-MNIST by Han Xiao, Kashif Rasul and Roland Vollgraf, Zalando SE, 2017; "
        "Debian package dataset-fashion-mnist",
        "licence": "MIT, see LICENSE-fashion-mnist.txt",
        "calibration": f"{CALIBRATION_PER_CLASS} training images per class, drawn with the seed",
        "test": f"the first {TEST_IMAGES} of the 10,000 test images",
    },
    "weights": {
        "source": "this project's scripts/train_network.py, on all 60,000 training images",
        "licence": "MIT, as the project",
    },
    "logits": f"what PyTorch computes for the first {STORED_LOGITS} test images in float32; "
    "logits64: in float64",
}


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the block's change to its input."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(y + functional.pad(shortcut, (0, 0, 0, 0, self.extra, self.extra)))


class SmallResNet(nn.Module):
    """A stem, three residual blocks, global mean, a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleDict(
            {"conv": nn.Conv2d(1, 16, 3, 1, 1, bias=False), "bn": nn.BatchNorm2d(16)}
        )
        self.block1 = Block(16, 32, 2)
        self.block2 = Block(32, 64, 2)
        self.block3 = Block(64, 64, 1)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of normalized images."""
        x = functional.relu(self.stem["bn"](self.stem["conv"](x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def read_idx(path: Path) -> np.ndarray:
    """Read one gzipped file of the idx format."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">u4", dimensions, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def normalized(images: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Bytes to network input."""
    return ((torch.from_numpy(images.copy()).to(dtype) / 255 - MEAN) / STD)[:, None]


def augmented(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip every second image and shift each by up to two pixels, filling with the background."""
    n = len(batch)
    flip = torch.rand(n, generator=generator) < 0.5
    batch = torch.where(flip[:, None, None, None], batch.flip(3), batch)
    padded = functional.pad(batch, (2, 2, 2, 2), value=-MEAN / STD)
    dy, dx = torch.randint(0, 5, (2, n), generator=generator)
    rows = dy[:, None, None] + torch.arange(28)[None, :, None]
    columns = dx[:, None, None] + torch.arange(28)[None, None, :]
    return padded[torch.arange(n)[:, None, None], 0, rows, columns][:, None]


def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Evaluate in batches."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(500)])


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, args: argparse.Namespace) -> None:
    """Run the fixed schedule: SGD with momentum, one cycle of the learning rate."""
    steps = len(x) // args.batch
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.rate, total_steps=steps * args.epochs, pct_start=0.2
    )
    checkpoint = args.work / "checkpoint.pt"
    settings = {name: getattr(args, name) for name in ("epochs", "batch", "rate", "seed")}
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != settings:
            raise SystemExit(f"{checkpoint} was written with {state['settings']}; remove it")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    for epoch in range(first, args.epochs):
        model.train()
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(args.seed * 1000 + epoch)
        order = torch.randperm(len(x), generator=generator)
        total = 0.0
        for step in range(steps):
            index = order[step * args.batch : (step + 1) * args.batch]
            loss = functional.cross_entropy(
                model(augmented(x[index], generator)), y[index], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"epoch {epoch + 1}/{args.epochs}: loss {total / steps:.4f}, "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
            "settings": settings,
        }
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, object]:
    """Write one archive under a temporary name, rename it, describe it."""
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "arrays": {
            name: {
                "shape": list(a.shape),
                "dtype": str(a.dtype),
                "sha256": hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest(),
            }
            for name, a in arrays.items()
        },
    }


def export(model: nn.Module, data: list[np.ndarray], args: argparse.Namespace) -> dict[str, object]:
    """Evaluate on all test images, write both archives, return the manifest."""
    train_x, train_y, test_x, test_y = data
    output = logits(model, normalized(test_x)).numpy()
    hits = output.argmax(axis=1) == test_y
    weights = {
        name: value.numpy().copy()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    model.double()
    rng = np.random.default_rng([args.seed, 2000])
    chosen = [
        rng.choice(np.flatnonzero(train_y == label), CALIBRATION_PER_CLASS, replace=False)
        for label in range(10)
    ]
    calibration = np.sort(np.concatenate(chosen))
    images = {
        "calibration_images": train_x[calibration],
        "calibration_labels": train_y[calibration],
        "test_images": test_x[:TEST_IMAGES],
        "test_labels": test_y[:TEST_IMAGES],
        "logits": output[:STORED_LOGITS],
        "logits64": logits(model, normalized(test_x[:STORED_LOGITS], torch.float64)).numpy(),
    }
    command = ["python scripts/train_network.py"]
    command += [f"--{name} {getattr(args, name)}" for name in ("epochs", "batch", "rate", "seed")]
    return {
        "files": {
            "network.npz": write_npz(args.out / "network.npz", weights),
            "images.npz": write_npz(args.out / "images.npz", images),
        },
        "correct": {
            f"first {TEST_IMAGES} test images": int(hits[:TEST_IMAGES].sum()),
            f"all {len(hits)} test images": int(hits.sum()),
        },
        "normalization": {"mean": MEAN, "std": STD},
        "training": {
            "command": " ".join(command),
            "epochs": args.epochs,
            "seed": args.seed,
            "threads": THREADS,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "provenance": PROVENANCE,
    }


def main() -> int:
    """Train, evaluate on all test images, export."""
    parser = argparse.ArgumentParser(description="Train and export the bundled network.")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--work", type=Path, default=Path("build/training"), help="checkpoints")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.2, help="largest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(THREADS)
    torch.manual_seed(args.seed)

    data = [read_idx(args.data / f"{name}-ubyte.gz") for name in FILES]
    model = SmallResNet().to(memory_format=torch.channels_last)
    train(model, normalized(data[0]), torch.from_numpy(data[1].astype(np.int64)), args)
    manifest = export(model.to(memory_format=torch.contiguous_format), data, args)
    temporary = args.out / "manifest.json.tmp"
    temporary.write_text(json.dumps(manifest, indent=1) + "\n")
    temporary.replace(args.out / "manifest.json")
    print(manifest["correct"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
