# Sourced by translate.sh and answer.sh: makes MODEL where it is missing, evaluates its exits into FOLDER, and draws them.

if [ ! -e "$MODEL/config.json" ] && [ "$MODEL" = "$FOLDER/model" ]; then
  MODEL='' OUTPUT_DIR=$FOLDER/model bash scripts/train.sh "$@"
fi
export MODEL
# Both write into one folder: points of the same model and data share a table.
OUTPUT_DIR=$FOLDER/sweep bash scripts/static_layer.sh "$@"
OUTPUT_DIR=$FOLDER/sweep THRESHOLDS=${THRESHOLDS:-0.3 0.5 0.7 0.9 0.97} bash scripts/softmax_threshold.sh "$@"
"$PYTHON" -m util.plots "$FOLDER/sweep/sweep.json" "$FOLDER/sweep/sweep.png"
