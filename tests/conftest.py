"""Tests run offline, on one small machine, and leave nothing behind."""

import os
import tempfile
from pathlib import Path

import pytest

_caches = tempfile.TemporaryDirectory(prefix="early-exit-tests-")
os.environ.update(
    HF_HOME=_caches.name,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    MPLCONFIGDIR=_caches.name,
)

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# A model step takes milliseconds to hundreds of them; only wrong answers are failures.
settings.register_profile("project", deadline=None, max_examples=30, database=None)
settings.load_profile("project")


# Folders and files whose tests train models, run entry points or benchmarks, or build the wheel.
_SLOW = ("cli", "benchmarks", "trainers", "test_wheel.py", "test_widen.py")


def pytest_collection_modifyitems(items):
    """Marks these as slow: `-m "not slow"` leaves them out."""
    tests = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(tests) and item.path.relative_to(tests).parts[0] in _SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def two_threads():
    """For the compiled kernels, which share work among as many as torch has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
