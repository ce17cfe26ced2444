#!/usr/bin/env bash
# The inputs of plot_gen_calibration.ipynb: calibrations of each of MEASURES, textual and risk, over DELTAS, and of
# the first measure with fewer prompts (SIZES). A folder each in OUTPUT_DIR; what is finished is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

FOLDER=${OUTPUT_DIR:-save/calibration_sweep}
MEASURES=${MEASURES:-softmax}
export GRID=${GRID-}  # empty: the threshold of exits alone
export DELTAS=${DELTAS:-0.02 0.05 0.1 0.15 0.2 0.25 0.3 0.35 0.4 0.45 0.5}
SAMPLES=${SAMPLES:-500}
SIZES=${SIZES-50 100 250}             # empty: none

calibrate() {  # measure, consistency, prompts
  local folder=$FOLDER/$1-$2-$3
  [ -e "$folder/calibration.json" ] ||
    MEASURE=$1 CONSISTENCY=$2 SAMPLES=$3 OUTPUT_DIR=$folder \
      bash calibration_run.sh --save_calibration False "${@:4}"
}

for consistency in textual risk; do
  for measure in $MEASURES; do
    calibrate "$measure" "$consistency" "$SAMPLES" "$@"
  done
  for size in $SIZES; do
    calibrate "${MEASURES%% *}" "$consistency" "$size" "$@"
  done
done
