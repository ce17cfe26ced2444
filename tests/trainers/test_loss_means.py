import json

import torch

from tests.cli.conftest import call, train_flags
from trainers.loss_means import LossMeans


def test_a_mean_is_over_the_steps_that_had_a_loss():
    means = LossMeans()
    for always, sometimes in ((1.0, float("nan")), (2.0, 3.0), (6.0, float("nan")), (3.0, 4.0)):
        means.add("always", torch.tensor(always))
        means.add("sometimes", torch.tensor(sometimes))
        means.add("never", torch.tensor(float("nan")))
    assert means.take() == {"always": 3.0, "sometimes": 3.5}
    assert means.take() == {}


def test_losses_of_exits_that_take_turns_are_logged(tmp_path):
    more = ["--exit_loss_curriculum", "rotational", "--logging_steps", "4", "--save_strategy", "no"]
    assert call(*train_flags(tmp_path, *more)) == 0
    (entry, *_) = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert {"exit_1_loss", "exit_2_loss", "exit_3_loss"} <= set(entry)
