"""Train a T5 with an exit after every decoder layer on a translation task, and evaluate its exits.

    python run_translation.py --model_shape deep-small --train_file train.json \
        --source_lang de --target_lang en --do_train --output_hidden_states_decoder True \
        --learning_rate 1e-3 --output_dir save/de_en
"""

import sys

from runner import main
from util.task_arguments import TranslationArguments

if __name__ == "__main__":
    sys.exit(main(TranslationArguments))
