#!/usr/bin/env bash
# Evaluates static exits: every token leaves at the same layer. LAYERS is "all" or numbers: LAYERS="1 3 6".
# Finished layers are skipped when it is started again; the table is in OUTPUT_DIR/sweep.md and .csv.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

MODEL=${MODEL:-$TRAINED_MODEL}
OUTPUT_DIR=${OUTPUT_DIR:-save/static_layer}
LAYERS=${LAYERS:-all}

# shellcheck disable=SC2086 # LAYERS is a list of words
"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" "${EVAL_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --static_exit_layer $LAYERS --sweep True \
  "$@"
