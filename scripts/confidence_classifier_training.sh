#!/usr/bin/env bash
# Trains exit heads on a trained model, which stays as it is, and reports by layer how well they tell
# agreement with full depth. HEADS names them, separated by commas: they are trained together.
# Head training has its own defaults (rate 1e-3, cosine, no clipping); further flags go to the entry point.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

MODEL=${MODEL:-$TRAINED_MODEL}
OUTPUT_DIR=${OUTPUT_DIR:-save/confidence_classifier}
HEADS=${HEADS:-vanilla_classifier,MLP,transformer_MLP_64,transformer_MLP_512,transformer_linear_64,transformer_linear_512}
HEAD_LOSS=${HEAD_LOSS:-independent}
BATCH_SIZE=${BATCH_SIZE:-16}
EPOCHS=${EPOCHS:-1}
MAX_TRAIN_SAMPLES=${MAX_TRAIN_SAMPLES:-}
[ -z "$MAX_TRAIN_SAMPLES" ] || DATA_FLAGS+=(--max_train_samples "$MAX_TRAIN_SAMPLES")

"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --do_train --train_meta_cm_head --output_hidden_states_decoder \
  --exit_conf_type "$HEADS" --exit_head_loss "$HEAD_LOSS" \
  --per_device_train_batch_size "$BATCH_SIZE" --num_train_epochs "$EPOCHS" \
  "${EVAL_FLAGS[@]}" \
  --save_strategy no --logging_steps 50 --report_to none \
  "$@"
