"""Tests run offline, on one small machine, and leave nothing behind."""

import gc
import os
import tempfile
from pathlib import Path

import pytest

_caches = tempfile.TemporaryDirectory(prefix="early-exit-tests-")
# A process of pytest-xdist has its parent's: matplotlib's list of fonts is made once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ.update(HF_HOME=_caches.name, MPLCONFIGDIR=_caches.name)
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
)

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.warm_python import warm_python  # noqa: E402

# A model step takes milliseconds to hundreds of them; only wrong answers are failures.
settings.register_profile("project", deadline=None, max_examples=30, database=None)
settings.register_profile("fast", settings.get_profile("project"), max_examples=5)
settings.load_profile("project")


# Folders and files whose tests train models, run entry points or benchmarks, build the wheel or take
# seconds; single tests that do are marked where they stand.
_SLOW = {
    "benchmarks",
    "cli",
    "test_wheel.py",
    "test_widen.py",
    "trainers",
    "models/test_exit_adapters.py",
    "models/test_perturbed_decoder.py",
    "models/test_readable.py",
    "models/test_sampled_drafts.py",
    "util/test_corpus.py",
    "util/test_report.py",
    "util/test_tokenizer.py",
}
# Files whose tests are slow only where they need a trained model.
_SLOW_WITH_A_MODEL = {"cli/test_readme.py"}


def pytest_configure(config):
    """With `-m "not slow"` property-based tests draw fewer examples."""
    if config.option.markexpr == "not slow":
        settings.load_profile("fast")


def pytest_ignore_collect(collection_path, config):
    """With `-m "not slow"` files without a quick test are not even imported."""
    if config.option.markexpr == "not slow" and collection_path.suffix == ".py":
        file = collection_path.relative_to(Path(__file__).parent).as_posix()
        return True if _is_slow(file) and file not in _SLOW_WITH_A_MODEL else None
    return None


def pytest_collection_modifyitems(items):
    """Marks tests as slow: `-m "not slow"` leaves them out."""
    for item in items:
        file = item.nodeid.removeprefix("tests/").partition("::")[0]
        quick = file in _SLOW_WITH_A_MODEL and "model" not in item.fixturenames
        if _is_slow(file) and not quick:
            item.add_marker(pytest.mark.slow)


def _is_slow(file: str) -> bool:
    return bool(_SLOW & {file, file.partition("/")[0]})


def pytest_collection_finish():
    """What is imported stays: a garbage collection need not look at it, and each training makes one."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def python():
    """Path of a Python that has everything imported, for tests that start processes."""
    with warm_python() as path:
        yield path


@pytest.fixture(scope="module")
def two_threads():
    """For the compiled kernels, which share work among as many as torch has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
