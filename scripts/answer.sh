#!/usr/bin/env bash
# Question answering: trains a model from nothing, at last on its own texts, and evaluates every static exit and
# softmax exits over THRESHOLDS. Without settings, questions about the embedded corpus' reports. What an earlier call
# has finished is reused.
#   MODEL=save/t5 DATASET=rajpurkar/squad OUTPUT_DIR=save/squad bash scripts/answer.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

FOLDER=${OUTPUT_DIR:-save/answer}
export PYTHON TASK=question_answering
export MAX_SOURCE_LENGTH=${MAX_SOURCE_LENGTH:-384} MAX_TARGET_LENGTH=${MAX_TARGET_LENGTH:-32}
export MAX_EVAL_SAMPLES=${MAX_EVAL_SAMPLES-200}
MODEL=${MODEL:-$FOLDER/model}         # a checkpoint of that name is evaluated, otherwise it is trained

source scripts/train_and_sweep.sh
