#!/usr/bin/env bash
# Finds the fastest way of decoding whose mean loss stays within δ with probability 1 − ε, checks it on prompts not
# used, and leaves the verdict in OUTPUT_DIR/calibration.json. Under one guarantee it compares exits, lenient and
# parallel drafts over thresholds, and exact drafts, which lose nothing; the cheapest of each that passes is timed.
# GRID="" calibrates the threshold of exits alone. Without settings: the embedded corpus, whose model is trained first. An interrupted run goes on.
#   MODEL=save/e2e-unseen-own VALIDATION_FILE=save/headline/e2e-split/unseen.json DELTAS="0.05 0.1" bash calibration_run.sh
set -euo pipefail
source "$(dirname "$0")/scripts/settings.sh"
export PYTHON

MODEL=${MODEL:-$TRAINED_MODEL}
OUTPUT_DIR=${OUTPUT_DIR:-save/calibration}
MEASURE=${MEASURE:-softmax}
CONSISTENCY=${CONSISTENCY:-textual}   # or risk
DELTAS=${DELTAS:-0.1}
EPSILON=${EPSILON:-0.05}
GRID=${GRID-verify=none,lenient,parallel,exact accept_ratio=0.3}
if [ -n "$GRID" ]; then
  THRESHOLDS=${THRESHOLDS:-0.95 0.9 0.8 0.7 0.6 0.5 0.3}  # of each way
else
  THRESHOLDS=${THRESHOLDS:-}          # empty: 1.0, 0.98, … 0.9, 0.85, … 0.05
fi
SAMPLES=${SAMPLES:-500}
HELD_OUT=${HELD_OUT:-500}
REFERENCE=${REFERENCE:-}              # a checkpoint whose texts are compared with; empty: MODEL's own
TEXT_FILE=${TEXT_FILE:-}              # keeps decoded texts, which a calibration of another loss reads
MIN_LAYER=${MIN_LAYER:-1}

if [ ! -e "$MODEL/config.json" ] && [ "$MODEL" = "$TRAINED_MODEL" ]; then
  OUTPUT_DIR=$MODEL MODEL='' bash scripts/train.sh
fi
CALIBRATION_FLAGS=()
# shellcheck disable=SC2206 # a list of words
[ -z "$THRESHOLDS" ] || CALIBRATION_FLAGS+=(--thresholds $THRESHOLDS)
[ -z "$REFERENCE" ] || CALIBRATION_FLAGS+=(--calibrate_reference "$REFERENCE")
[ -z "$TEXT_FILE" ] || CALIBRATION_FLAGS+=(--calibrate_text_file "$TEXT_FILE")
# shellcheck disable=SC2206
[ -z "$GRID" ] || CALIBRATION_FLAGS+=(--calibrate_grid $GRID)
# shellcheck disable=SC2086 # DELTAS is a list of words
"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --do_cali True --predict_with_generate --deploy_scenario True --use_synchronize True \
  --per_device_eval_batch_size "$EVAL_BATCH_SIZE" \
  --max_calibrate_samples "$SAMPLES" --max_predict_samples "$HELD_OUT" \
  --use_early_exit True --exit_conf_type "$MEASURE" --exit_min_layer "$MIN_LAYER" \
  --calibrate_delta $DELTAS --calibrate_epsilon "$EPSILON" --consistency_type "$CONSISTENCY" \
  "${CALIBRATION_FLAGS[@]}" \
  "$@"
