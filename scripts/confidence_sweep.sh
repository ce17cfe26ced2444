#!/usr/bin/env bash
# All confidence measures side by side: trains every exit head on MODEL, evaluates every static layer and every
# measure over thresholds, and draws the figures. Without MODEL and files: the embedded corpus, whose model is
# trained first. OUTPUT_DIR/sweep/sweep.csv has a row a setting and is rewritten after each; what is finished
# is skipped when it is started again. Further arguments go to head training, and those that are not of training to
# the evaluations.
set -euo pipefail
source "$(dirname "$0")/settings.sh"
export PYTHON

FOLDER=${OUTPUT_DIR:-save/confidence}
MODEL=${MODEL:-$TRAINED_MODEL}
HEADS=${HEADS:-vanilla_classifier,MLP,transformer_MLP_64,transformer_MLP_512,transformer_linear_64,transformer_linear_512}
THRESHOLDS=${THRESHOLDS:-0.3 0.5 0.7 0.9 0.97 1.0}
SATURATION_THRESHOLDS=${SATURATION_THRESHOLDS:-0.7 0.8 0.9 0.94 0.97 1.0}

if [ ! -e "$MODEL/config.json" ] && [ "$MODEL" = "$TRAINED_MODEL" ]; then
  OUTPUT_DIR=$MODEL MODEL='' bash scripts/train.sh
fi
if [ ! -e "$FOLDER/model/eval_results.json" ]; then
  MODEL=$MODEL OUTPUT_DIR=$FOLDER/model HEADS=$HEADS bash scripts/confidence_classifier_training.sh "$@"
fi
source scripts/evaluation_flags.sh "$@"
export MODEL=$FOLDER/model OUTPUT_DIR=$FOLDER/sweep
bash scripts/static_layer.sh "${EVALUATION_FLAGS[@]}"
# The others add to its table; told to overwrite, each would start it anew.
EVALUATION_FLAGS+=(--overwrite_output_dir False)
HEADS="softmax,softmax_max,entropy,$HEADS" THRESHOLDS=$THRESHOLDS \
  bash scripts/confidence_classifier_training_eval.sh "${EVALUATION_FLAGS[@]}"
HEADS=hidden_state THRESHOLDS=$SATURATION_THRESHOLDS \
  bash scripts/confidence_classifier_training_eval.sh "${EVALUATION_FLAGS[@]}"
HEADS=oracle THRESHOLDS="0.5 1.0" bash scripts/confidence_classifier_training_eval.sh "${EVALUATION_FLAGS[@]}"
"$PYTHON" -m util.confidence_plots "$FOLDER/sweep/sweep.json" \
  --heads "$FOLDER/model/eval_results.json" --folder "$FOLDER"
