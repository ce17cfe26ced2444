#!/usr/bin/env bash
# Training of all exits, in two parts. Without settings: a small T5 from random weights on the embedded corpus learns
# the data's texts; then full depth writes texts for DOCUMENTS of it, and all exits learn these for OWN_TEXT_STEPS
# (scripts/own_text.sh), which is what early-exit text is compared with. The model before that stays in FIRST_MODEL;
# OWN_TEXT_STEPS=0 leaves the second part out. What was interrupted goes on when it is started again.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

MODEL=${MODEL:-}                      # a checkpoint or hub id; empty: start from nothing in MODEL_SHAPE
MODEL_SHAPE=${MODEL_SHAPE:-small}
TOKENIZER_VOCAB_SIZE=${TOKENIZER_VOCAB_SIZE:-2000}
OUTPUT_DIR=${OUTPUT_DIR:-$TRAINED_MODEL}
OWN_TEXT_STEPS=${OWN_TEXT_STEPS:-100}
OWN_TEXT_LOSS=${OWN_TEXT_LOSS:-kd_logits}
FIRST_MODEL=${FIRST_MODEL:-$OUTPUT_DIR-before}
DOCUMENTS=${DOCUMENTS-3000}          # that full depth writes texts for; empty: all
LOSS=${LOSS:-weighted_ce}
BATCH_SIZE=${BATCH_SIZE:-16}
LEARNING_RATE=${LEARNING_RATE:-1.5e-3}
EPOCHS=${EPOCHS:-1}
MAX_STEPS=${MAX_STEPS:--1}
SCHEDULE=${SCHEDULE:-cosine}
WARMUP_STEPS=${WARMUP_STEPS:-50}
ADAM_BETA2=${ADAM_BETA2:-0.98}
WEIGHT_DECAY=${WEIGHT_DECAY:-0.01}
SAVE_STEPS=${SAVE_STEPS:-200}

if [ -n "$MODEL" ]; then
  MODEL_FLAGS=(--model_name_or_path "$MODEL")
else
  MODEL_FLAGS=(--model_shape "$MODEL_SHAPE" --tokenizer_vocab_size "$TOKENIZER_VOCAB_SIZE")
fi
[ "$OWN_TEXT_STEPS" != 0 ] || FIRST_MODEL=$OUTPUT_DIR

# A second part that has not finished goes on with the first part that there is.
if [ "$FIRST_MODEL" = "$OUTPUT_DIR" ] || [ ! -e "$FIRST_MODEL/train_results.json" ] ||
  [ -e "$OUTPUT_DIR/train_results.json" ]; then
  "$PYTHON" "run_$TASK.py" \
    "${MODEL_FLAGS[@]}" "${DATA_FLAGS[@]}" \
    --output_dir "$FIRST_MODEL" \
    --do_train \
    --output_hidden_states_decoder True --intermediate_loss_fn "$LOSS" \
    --per_device_train_batch_size "$BATCH_SIZE" \
    --learning_rate "$LEARNING_RATE" --lr_scheduler_type "$SCHEDULE" --warmup_steps "$WARMUP_STEPS" \
    --adam_beta2 "$ADAM_BETA2" --weight_decay "$WEIGHT_DECAY" \
    --num_train_epochs "$EPOCHS" --max_steps "$MAX_STEPS" \
    --save_steps "$SAVE_STEPS" --save_total_limit 1 --logging_steps 50 --report_to none \
    "$@"
fi
[ "$FIRST_MODEL" != "$OUTPUT_DIR" ] || exit 0

# A third of the rate: the exits move, full depth hardly.
RATE=$(awk -v rate="$LEARNING_RATE" 'BEGIN { print rate / 3 }')
export PYTHON MODEL=$FIRST_MODEL OUTPUT_DIR DOCUMENTS MAX_STEPS=$OWN_TEXT_STEPS LEARNING_RATE=$RATE
export BATCH_SIZE=$((2 * BATCH_SIZE)) WARMUP_STEPS=$((OWN_TEXT_STEPS / 10)) LOSS=$OWN_TEXT_LOSS SCHEDULE WEIGHT_DECAY SAVE_STEPS
bash scripts/own_text.sh "$@"
