"""Train a T5 with an exit after every decoder layer to answer questions about a text, and evaluate its exits.

    python run_question_answering.py --model_name_or_path t5-small --dataset_name rajpurkar/squad \
        --do_train --output_hidden_states_decoder True --learning_rate 1e-4 --output_dir save/answers
"""

import sys

from runner import main
from util.task_arguments import AnswerArguments

if __name__ == "__main__":
    sys.exit(main(AnswerArguments))
