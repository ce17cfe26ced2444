# Sourced by translate.sh and answer.sh: makes MODEL where it is missing, evaluates its exits into FOLDER, and draws them.
# Further arguments go to training, and those that are not of training to evaluation.

if [ ! -e "$MODEL/config.json" ] && [ "$MODEL" = "$FOLDER/model" ]; then
  MODEL='' OUTPUT_DIR=$FOLDER/model bash scripts/train.sh "$@"
fi
source scripts/evaluation_flags.sh "$@"
export MODEL OUTPUT_DIR=$FOLDER/sweep
bash scripts/static_layer.sh "${EVALUATION_FLAGS[@]}"
# Adds to that table, since model and data are the same; told to overwrite, it would start it anew.
THRESHOLDS=${THRESHOLDS:-0.3 0.5 0.7 0.9 0.97} \
  bash scripts/softmax_threshold.sh "${EVALUATION_FLAGS[@]}" --overwrite_output_dir False
"$PYTHON" -m util.plots "$FOLDER/sweep/sweep.json" "$FOLDER/sweep/sweep.png"
