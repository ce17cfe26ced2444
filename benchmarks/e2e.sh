#!/usr/bin/env bash
# Real data through the entry point: trains the small shape on E2E NLG from random weights (about 20 minutes on
# two cores), evaluates every static exit and softmax exits on all 315 validation records, and keeps the table
# in benchmarks/results/e2e. What an earlier call has finished is reused.
# E2E_DATA is a folder with train.json and validation.json, JSON lines of "document" and "summary".
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export PYTHON

E2E_DATA=${E2E_DATA:-../shared/data/e2e}
FOLDER=${OUTPUT_DIR:-save/e2e}
RESULTS=benchmarks/results/e2e
if [ ! -e "$E2E_DATA/train.json" ]; then
  echo "no E2E data at $E2E_DATA: set E2E_DATA" >&2
  exit 2
fi
export MAX_SOURCE_LENGTH=128 MAX_TARGET_LENGTH=64 EVAL_BATCH_SIZE=${EVAL_BATCH_SIZE:-8}

if [ ! -e "$FOLDER/train_results.json" ]; then
  TRAIN_FILE=$E2E_DATA/train.json OUTPUT_DIR=$FOLDER TOKENIZER_VOCAB_SIZE=700 BATCH_SIZE=32 EPOCHS=5 \
    OWN_TEXT_STEPS=${OWN_TEXT_STEPS:-0} bash scripts/train.sh --dropout_rate 0.1
fi
export MODEL=$FOLDER VALIDATION_FILE=$E2E_DATA/validation.json OUTPUT_DIR=$FOLDER/sweep
bash scripts/static_layer.sh
THRESHOLDS=${THRESHOLDS:-0.1 0.3 0.5 0.7 0.9 0.97} bash scripts/softmax_threshold.sh

mkdir -p "$RESULTS"
cp "$OUTPUT_DIR"/sweep.{json,csv,md} "$RESULTS"
cp "$FOLDER/train_results.json" "$RESULTS"
"$PYTHON" -m util.plots "$RESULTS/sweep.json" "$RESULTS/sweep.png"
