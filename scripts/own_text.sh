#!/usr/bin/env bash
# Teaches the exits of a trained model what its full depth writes: that is what early-exit text is compared with.
# Full depth writes a text for each training document (DOCUMENTS: for the first so many examples) and for those of
# UNLABELLED_FILE, and all exits learn them. An interrupted run goes on when it is started again, and the texts
# are kept in OWN_TEXT_FILE.
#   MODEL=save/train OUTPUT_DIR=save/own_text bash scripts/own_text.sh
set -euo pipefail
source "$(dirname "$0")/settings.sh"

MODEL=${MODEL:-$TRAINED_MODEL}
OUTPUT_DIR=${OUTPUT_DIR:-save/own_text}
OWN_TEXT_FILE=${OWN_TEXT_FILE:-}      # empty: own_texts.jsonl in OUTPUT_DIR
UNLABELLED_FILE=${UNLABELLED_FILE:-}
GOLD_SHARE=${GOLD_SHARE:-0}           # of the training texts, from the data instead
DOCUMENTS=${DOCUMENTS:-}
WRITE_BATCH_SIZE=${WRITE_BATCH_SIZE:-32}
LOSS=${LOSS:-kd_logits}               # exits learn full depth's predictions; or weighted_ce, its texts alone
ALPHA=${ALPHA:-1}                     # with kd_logits: share of the predictions, the rest is the texts'
BATCH_SIZE=${BATCH_SIZE:-32}
LEARNING_RATE=${LEARNING_RATE:-5e-4}
MAX_STEPS=${MAX_STEPS:-350}
SCHEDULE=${SCHEDULE:-cosine}
WARMUP_STEPS=${WARMUP_STEPS:-20}
WEIGHT_DECAY=${WEIGHT_DECAY:-0.01}
SAVE_STEPS=${SAVE_STEPS:-200}

TEXT_FLAGS=(--own_text_gold_share "$GOLD_SHARE")
[ "$LOSS" != kd_logits ] || TEXT_FLAGS+=(--distill_layer_alpha "$ALPHA")
[ -z "$OWN_TEXT_FILE" ] || TEXT_FLAGS+=(--own_text_file "$OWN_TEXT_FILE")
[ -z "$UNLABELLED_FILE" ] || TEXT_FLAGS+=(--unlabelled_file "$UNLABELLED_FILE")
[ -z "$DOCUMENTS" ] || TEXT_FLAGS+=(--max_train_samples "$DOCUMENTS")

"$PYTHON" "run_$TASK.py" \
  --model_name_or_path "$MODEL" "${DATA_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --do_train --train_on_own_text True "${TEXT_FLAGS[@]}" \
  --output_hidden_states_decoder True --intermediate_loss_fn "$LOSS" \
  --per_device_train_batch_size "$BATCH_SIZE" --per_device_eval_batch_size "$WRITE_BATCH_SIZE" \
  --learning_rate "$LEARNING_RATE" --lr_scheduler_type "$SCHEDULE" --warmup_steps "$WARMUP_STEPS" \
  --weight_decay "$WEIGHT_DECAY" --max_steps "$MAX_STEPS" \
  --save_steps "$SAVE_STEPS" --save_total_limit 1 --logging_steps 50 --report_to none \
  "$@"
