#!/usr/bin/env bash
# Evaluates exits by trained heads over thresholds: HEADS="MLP" THRESHOLDS="0.5 0.9". MODEL is what
# confidence_classifier_training.sh wrote. Finished settings are skipped when it is started again.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

MODEL=${MODEL:-save/confidence_classifier}
OUTPUT_DIR=${OUTPUT_DIR:-save/confidence_classifier_eval}
HEADS=${HEADS:-vanilla_classifier,MLP,transformer_MLP_64,transformer_MLP_512,transformer_linear_64,transformer_linear_512}
THRESHOLDS=${THRESHOLDS:-0.3 0.5 0.7 0.8 0.9 0.95 0.99 1.0}
MIN_LAYER=${MIN_LAYER:-1}

# shellcheck disable=SC2086 # THRESHOLDS is a list of words
"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" "${EVAL_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --use_early_exit True --exit_conf_type "$HEADS" --exit_min_layer "$MIN_LAYER" \
  --exit_conf_threshold $THRESHOLDS --sweep True \
  "$@"
