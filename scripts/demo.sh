#!/usr/bin/env bash
# The main job on the embedded corpus: trains a small T5 with a loss at every exit, evaluates every static
# exit and softmax exits over thresholds, and ends with the table. About ten minutes on two cores, once the
# requirements are installed; what an earlier call has finished is reused.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export PYTHON

FOLDER=${OUTPUT_DIR:-save/demo}
export MAX_SOURCE_LENGTH=256 MAX_TARGET_LENGTH=48
export MAX_EVAL_SAMPLES=${MAX_EVAL_SAMPLES:-150}
THRESHOLDS=${THRESHOLDS:-0.1 0.3 0.5 0.7 0.9 0.97}

if [ ! -e "$FOLDER/model/train_results.json" ]; then
  OUTPUT_DIR=$FOLDER/model MAX_STEPS=${MAX_STEPS:-650} bash scripts/train.sh
fi
# Both write into one folder: points of the same model and data share a table.
MODEL=$FOLDER/model OUTPUT_DIR=$FOLDER/sweep bash scripts/static_layer.sh
MODEL=$FOLDER/model OUTPUT_DIR=$FOLDER/sweep THRESHOLDS=$THRESHOLDS bash scripts/softmax_threshold.sh
"$PYTHON" -m util.plots "$FOLDER/sweep/sweep.json" "$FOLDER/sweep/sweep.png"

echo
echo "Model, with its tokenizer:  $FOLDER/model"
echo "Results of every setting:   $FOLDER/sweep/sweep.json (also .csv, .md)"
echo "Figure:                     $FOLDER/sweep/sweep.png"
