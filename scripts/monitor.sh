#!/usr/bin/env bash
# Decodes FILE with the setting that CALIBRATION has certified, audits a random share of its prompts at full depth, and
# says whether the promise still holds: a line a day, the state in STATE and its figure. Exit code 3 with alarm.
#   MODEL=save/demo/model CALIBRATION=save/demo/calibration FILE=today.json bash scripts/monitor.sh
set -euo pipefail
source "$(dirname "$0")/environment.sh"

MODEL=${MODEL:?a checkpoint}
CALIBRATION=${CALIBRATION:-}          # empty: the checkpoint's own
FILE=${FILE:?prompts: .json, .jsonl or .csv}
STATE=${STATE:-save/monitor.json}
OUTPUT=${OUTPUT:-save/monitor_texts.txt}
AUDIT_SHARE=${AUDIT_SHARE:-0.1}
EPSILON=${EPSILON:-}                  # of any false alarm; empty: 0.05, or the state's

FLAGS=()
[ -z "$CALIBRATION" ] || FLAGS+=(--calibration "$CALIBRATION")
[ -z "$EPSILON" ] || FLAGS+=(--epsilon "$EPSILON")
"$PYTHON" run_monitor.py --model_name_or_path "$MODEL" --file "$FILE" --state "$STATE" --output "$OUTPUT" \
  --audit_share "$AUDIT_SHARE" "${FLAGS[@]}" "$@"
