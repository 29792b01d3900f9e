"""The script that trained the bundled network, as a module."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def training_script():
    pytest.importorskip("torch", reason="PyTorch, the third opinion, comes with the dev extra")
    spec = importlib.util.spec_from_file_location("train", ROOT / "scripts" / "train_network.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script
