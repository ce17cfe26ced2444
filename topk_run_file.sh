#!/usr/bin/env bash
# Top-k token propagation against plain softmax exits and the full model: every THRESHOLDS × TOP_KS, in one table
# with ROUGE, tokens per second, mean layers and the share of tokens whose choice the K have kept, and a picture
# of what asking for confidence costs (from λ = 1, where nothing leaves). Without settings: the embedded corpus,
# whose model is trained first. TOP_KS are 2000, 10000 and 20000 of T5's 32,128 tokens, or as large a part of
# the model's own vocabulary. What is finished is skipped when it is started again.
set -euo pipefail
source "$(dirname "$0")/scripts/settings.sh"
export PYTHON

export MODEL=${MODEL:-$TRAINED_MODEL} OUTPUT_DIR=${OUTPUT_DIR:-save/topk}
THRESHOLDS=${THRESHOLDS:-1.0 0.9 0.5}
MIN_LAYER=${MIN_LAYER:-1}

if [ ! -e "$MODEL/config.json" ] && [ "$MODEL" = "$TRAINED_MODEL" ]; then
  OUTPUT_DIR=$MODEL MODEL='' bash scripts/train.sh
fi
if [ -z "${TOP_KS:-}" ]; then
  TOP_KS=$("$PYTHON" - "$MODEL" <<'PYTHON'
import sys

from transformers import AutoConfig

vocabulary = AutoConfig.from_pretrained(sys.argv[1]).vocab_size
print("none", *(max(1, round(k * vocabulary / 32128)) for k in (2000, 10000, 20000)))
PYTHON
  )
fi
"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" "${EVAL_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" --static_exit_layer last --sweep True "$@"
# Adds to the table of the first call; told to overwrite that, it would start it anew.
# shellcheck disable=SC2086 # lists of words
"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" "${EVAL_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --use_early_exit True --exit_conf_type softmax --exit_min_layer "$MIN_LAYER" \
  --exit_conf_threshold $THRESHOLDS --top_propagation $TOP_KS --sweep True \
  "$@" --overwrite_output_dir False
"$PYTHON" -m util.confidence_plots "$OUTPUT_DIR/sweep.json" --time "$OUTPUT_DIR/confidence_time.png"
