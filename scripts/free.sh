#!/usr/bin/env bash
# FREE's recipe (Bae et al. 2023) end to end: trains one shallow exit and full depth with distillation of hidden
# states (LOSS: one of the shallowdeep objectives), then decodes with that exit and parallel drafts, by FREE's flags.
# What an earlier call has finished is reused; another THRESHOLD or ROLLBACK adds a row to the table in
# OUTPUT_DIR/eval/sweep.md and .csv. Further arguments go to training, and those that are not of training to evaluation.
# Without settings: a small T5 from random weights on the embedded corpus; for a checkpoint, with low-rank updates:
#   MODEL=google-t5/t5-large DATASET=abisee/cnn_dailymail DATASET_CONFIG=3.0.0 LEARNING_RATE=1e-4 LORA_RANK=64 \
#     SHALLOW_LAYER=6 bash scripts/free.sh
set -euo pipefail
source "$(dirname "$0")/settings.sh"
export PYTHON

FOLDER=${OUTPUT_DIR:-save/free}
SHALLOW_LAYER=${SHALLOW_LAYER:-2}
LOSS=${LOSS:-shallowdeep_kd_dyna}
ALPHA=${ALPHA:-0.5}
LORA_RANK=${LORA_RANK:-}              # empty: all weights are trained
LORA_TARGETS=${LORA_TARGETS:-q k v o wi wo}

FLAGS=(--shallow_exit_layer "$SHALLOW_LAYER")
[ "$LOSS" = shallowdeep_ce ] || FLAGS+=(--distill_layer_alpha "$ALPHA")
# shellcheck disable=SC2206 # a list of words
[ -z "$LORA_RANK" ] || FLAGS+=(--use_lora True --lora_rank "$LORA_RANK" --lora_target_modules $LORA_TARGETS)

if [ ! -e "$FOLDER/model/train_results.json" ]; then
  OUTPUT_DIR=$FOLDER/model OWN_TEXT_STEPS=0 LOSS=$LOSS bash scripts/train.sh "${FLAGS[@]}" "$@"
fi
source scripts/evaluation_flags.sh "$@"
MODEL=$FOLDER/model OUTPUT_DIR=$FOLDER/eval SHALLOW_LAYER=$SHALLOW_LAYER \
  bash scripts/shallow_deep.sh --sweep True "${EVALUATION_FLAGS[@]}"
