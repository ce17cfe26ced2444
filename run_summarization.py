"""Train a T5 with an exit after every decoder layer on a summarization task, and evaluate its exits.

    python run_summarization.py --model_shape small --dataset_name embedded \
        --source_prefix "summarize: " --do_train --output_hidden_states_decoder True \
        --intermediate_loss_fn weighted_ce --learning_rate 1e-3 --output_dir save/small
    python run_summarization.py --model_name_or_path save/small --dataset_name embedded \
        --source_prefix "summarize: " --do_eval --predict_with_generate --deploy_scenario True \
        --use_early_exit True --exit_conf_type softmax --exit_conf_threshold 0.9 \
        --output_dir save/softmax_0.9

Or with one JSON or YAML file of the same names: `python run_summarization.py settings.yaml`.
"""

import sys

from runner import main
from util.arguments import DataArguments

if __name__ == "__main__":
    sys.exit(main(DataArguments))
