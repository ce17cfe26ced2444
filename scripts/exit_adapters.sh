#!/usr/bin/env bash
# Trains exit adapters on a model whose exits were never trained: a linear map for each exit, to full depth's
# predictions. The model stays as it is. Evaluation tells by exit how often it chooses as full depth does, before
# and after. Training has the defaults of exit heads (rate 1e-3, cosine, no clipping); OWN_TEXT=True trains on
# what full depth writes for the training documents instead of the data's own texts.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

MODEL=${MODEL:-$TRAINED_MODEL}
OUTPUT_DIR=${OUTPUT_DIR:-save/exit_adapters}
RANK=${RANK:-}                        # of each map; empty: full
OWN_TEXT=${OWN_TEXT:-False}
BATCH_SIZE=${BATCH_SIZE:-16}
EPOCHS=${EPOCHS:-1}
MAX_STEPS=${MAX_STEPS:--1}
SAVE_STEPS=${SAVE_STEPS:-200}

RANK_FLAGS=()
[ -z "$RANK" ] || RANK_FLAGS=(--exit_adapter_rank "$RANK")

"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --do_train --train_exit_adapters True --train_on_own_text "$OWN_TEXT" "${RANK_FLAGS[@]}" \
  --per_device_train_batch_size "$BATCH_SIZE" --num_train_epochs "$EPOCHS" --max_steps "$MAX_STEPS" \
  "${EVAL_FLAGS[@]}" \
  --save_steps "$SAVE_STEPS" --save_total_limit 1 --logging_steps 50 --report_to none \
  "$@"
