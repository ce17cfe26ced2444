"""Tests run offline, on one small machine, and leave nothing behind."""

import os
import tempfile

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
settings.register_profile("fast", settings.get_profile("project"), max_examples=5)
settings.load_profile("project")


# Folders, files and tests that train models, run entry points or benchmarks, build the wheel, or take
# seconds.
_SLOW = {
    "benchmarks",
    "cli",
    "test_wheel.py",
    "test_widen.py",
    "trainers",
    "early_exit/test_bounds.py::test_a_false_alarm_has_at_most_the_chance_that_was_allowed",
    "early_exit/test_native.py::test_a_forked_process_has_threads_of_its_own",
    "early_exit/test_native.py::test_without_a_compiler_torch_decodes",
    "early_exit/test_screen.py::test_on_a_trained_model_it_rarely_needs_the_whole_head",
    "early_exit/test_sequential.py::test_false_acceptance_however_often_one_looks",
    "models/test_calibrated.py::test_a_configuration_of_an_earlier_version_generates",
    "models/test_calibrated.py::test_what_changes_tokens_warns_by_name_and_still_exits",
    "models/test_drafts.py::test_all_are_what_the_plain_loop_gives",
    "models/test_engine_page.py::test_the_page_s_way_of_decoding_does_what_it_says",
    "models/test_exit_adapters.py",
    "models/test_generate_options.py::test_a_row_that_is_all_padding_decodes_as_in_transformers",
    "models/test_generate_options.py::test_threads_share_a_model",
    "models/test_generation.py::test_exits_off_gives_the_tokens_of_generate",
    "models/test_perturbed_decoder.py",
    "models/test_pipeline.py::test_every_byte_that_decoding_uses_is_seen",
    "models/test_readable.py",
    "models/test_sampled_drafts.py::test_exact_drafts_draw_the_texts_of_full_depth",
    "models/test_sampled_drafts.py::test_the_engine_draws_what_the_plain_loop_does",
    "models/test_sampled_drafts.py::test_the_plain_loop_draws_them_too",
    "models/test_t5.py::test_weights_that_a_checkpoint_lacks_are_drawn_as_in_transformers",
    "util/test_plots.py::test_command_line",
    "util/test_tasks.py::test_the_embedded_questions_have_their_answer_in_the_report",
    "util/test_tokenizer.py",
    "cli/test_bad_input.py::test_the_process_exits_with_2",
}
# Files whose tests are slow only where they need a trained model: bad input, and docs that are current.
_SLOW_WITH_A_MODEL = {"cli/test_bad_input.py", "cli/test_readme.py"}


def pytest_configure(config):
    """With `-m "not slow"` property-based tests draw fewer examples."""
    if config.option.markexpr == "not slow":
        settings.load_profile("fast")


def pytest_collection_modifyitems(items):
    """Marks tests as slow: `-m "not slow"` leaves them out."""
    for item in items:
        file, *test = item.nodeid.removeprefix("tests/").split("::")
        own = {file, f"{file}::{test[0].partition('[')[0]}"}
        folder_counts = file not in _SLOW_WITH_A_MODEL or "model" in item.fixturenames
        if _SLOW & (own | {file.partition("/")[0]} if folder_counts else own):
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
