#!/usr/bin/env bash
# Evaluates exact drafts, whose text is full depth's: DRAFT_LAYERS × MAX_DRAFT, and VERIFY="lenient" or another.
# Finished points are skipped when it is started again; the table is in OUTPUT_DIR/sweep.md and .csv.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

MODEL=${MODEL:-$TRAINED_MODEL}
OUTPUT_DIR=${OUTPUT_DIR:-save/drafts}
DRAFT_LAYERS=${DRAFT_LAYERS:-1 2}
MAX_DRAFT=${MAX_DRAFT:-4 6 8}
VERIFY=${VERIFY:-exact}

# shellcheck disable=SC2086 # lists of words
"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" "${EVAL_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --static_exit_layer $DRAFT_LAYERS --verify "$VERIFY" --max_draft $MAX_DRAFT --sweep True \
  "$@"
