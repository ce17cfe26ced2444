#!/usr/bin/env bash
# FREE's way of decoding, by its own flags: tokens leave at SHALLOW_LAYER where softmax response is above
# THRESHOLD, and their deeper layers run together later. ROLLBACK=1.5 replaces those whose cross-entropy is higher.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

MODEL=${MODEL:-$TRAINED_MODEL}
OUTPUT_DIR=${OUTPUT_DIR:-save/shallow_deep}
SHALLOW_LAYER=${SHALLOW_LAYER:-2}
THRESHOLD=${THRESHOLD:-0.9}

"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" "${EVAL_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --use_shallow_deep True --shallow_exit_layer "$SHALLOW_LAYER" \
  --shallow2deep_conf_type softmax --shallow2deep_conf_threshold "$THRESHOLD" \
  ${ROLLBACK:+--rollback_conf_threshold "$ROLLBACK"} \
  "$@"
