#!/usr/bin/env bash
# The main job on the embedded corpus: trains a small T5 with a loss at every exit, at last on its own texts, and an
# exit head on top, evaluates every static exit, softmax exits and those of the head over thresholds, and exact drafts
# beside them; and ends with a calibration that compares exits and drafts, its verdict, and a picture of all settings
# that it measured, the certified ones ringed. Some fifteen minutes on two cores, once the requirements are
# installed; what an earlier call has finished is reused.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export PYTHON

FOLDER=${OUTPUT_DIR:-save/demo}
export MAX_SOURCE_LENGTH=256 MAX_TARGET_LENGTH=48
export MAX_EVAL_SAMPLES=${MAX_EVAL_SAMPLES-150}
THRESHOLDS=${THRESHOLDS:-0.1 0.3 0.5 0.7 0.9 0.97}

if [ ! -e "$FOLDER/model/train_results.json" ]; then
  OUTPUT_DIR=$FOLDER/model MAX_STEPS=${MAX_STEPS:-550} bash scripts/train.sh
fi
if [ ! -e "$FOLDER/heads/eval_results.json" ]; then
  MODEL=$FOLDER/model OUTPUT_DIR=$FOLDER/heads HEADS=MLP EVAL_BATCH_SIZE=16 \
    MAX_TRAIN_SAMPLES=${HEAD_SAMPLES:-3000} \
    bash scripts/confidence_classifier_training.sh --overwrite_output_dir
fi
# All write into one folder: points of the same model and data share a table.
export MODEL=$FOLDER/heads
OUTPUT_DIR=$FOLDER/sweep bash scripts/static_layer.sh
OUTPUT_DIR=$FOLDER/sweep THRESHOLDS=$THRESHOLDS bash scripts/softmax_threshold.sh
OUTPUT_DIR=$FOLDER/sweep THRESHOLDS=$THRESHOLDS HEADS=MLP bash scripts/confidence_classifier_training_eval.sh
OUTPUT_DIR=$FOLDER/sweep DRAFT_LAYERS=1 MAX_DRAFT="3 6" bash scripts/drafts.sh
"$PYTHON" -m util.plots "$FOLDER/sweep/sweep.json" "$FOLDER/sweep/sweep.png" --time

echo
THRESHOLDS="" EVAL_BATCH_SIZE=16 SAMPLES=${SAMPLES:-300} HELD_OUT=${HELD_OUT:-300} OUTPUT_DIR=$FOLDER/calibration \
  bash calibration_run.sh --save_calibration False
"$PYTHON" -m util.calibration_plots "$FOLDER/calibration" "$FOLDER/calibration/losses.png"
echo
"$PYTHON" -m util.ways_in_words "$FOLDER/sweep/sweep.json"
echo
echo "Model, with its tokenizer:  $FOLDER/heads"
echo "Results of every setting:   $FOLDER/sweep/sweep.json (also .csv, .md)"
echo "Figures:                    $FOLDER/sweep/sweep.png, $FOLDER/calibration/losses.png"
echo "Calibration:                $FOLDER/calibration/calibration.json"
