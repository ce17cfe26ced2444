#!/usr/bin/env bash
# Translation: trains a model from nothing, at last on its own texts, and evaluates every static exit and softmax exits
# over THRESHOLDS. Without settings, English summaries of the embedded corpus into a language made by rule. What an
# earlier call has finished is reused.
#   TRAIN_FILE=train.json VALIDATION_FILE=validation.json SOURCE_LANG=de TARGET_LANG=en bash scripts/translate.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

FOLDER=${OUTPUT_DIR:-save/translate}
export PYTHON TASK=translation SOURCE_LANG=${SOURCE_LANG:-en} TARGET_LANG=${TARGET_LANG:-toy}
export MAX_SOURCE_LENGTH=${MAX_SOURCE_LENGTH:-64} MAX_TARGET_LENGTH=${MAX_TARGET_LENGTH:-64}
export MAX_EVAL_SAMPLES=${MAX_EVAL_SAMPLES-200}
MODEL=${MODEL:-$FOLDER/model}         # a checkpoint of that name is evaluated, otherwise it is trained

source scripts/train_and_sweep.sh
