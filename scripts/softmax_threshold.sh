#!/usr/bin/env bash
# Evaluates softmax exits over thresholds: THRESHOLDS="0.5 0.9". MIN_LAYER is the first layer to leave after.
# Finished thresholds are skipped when it is started again; the table is in OUTPUT_DIR/sweep.md and .csv.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

MODEL=${MODEL:-$TRAINED_MODEL}
OUTPUT_DIR=${OUTPUT_DIR:-save/softmax_threshold}
THRESHOLDS=${THRESHOLDS:-0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 0.95 1.0}
MIN_LAYER=${MIN_LAYER:-0}

# shellcheck disable=SC2086 # THRESHOLDS is a list of words
"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" "${EVAL_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --use_early_exit True --exit_conf_type softmax --exit_min_layer "$MIN_LAYER" \
  --exit_conf_threshold $THRESHOLDS --sweep True \
  "$@"
