#!/usr/bin/env bash
# Joint training of all exits. Without settings: a small T5 from random weights on the embedded corpus.
# An interrupted run goes on from its last checkpoint when it is started again.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

MODEL=${MODEL:-}                      # a checkpoint or hub id; empty: start from nothing in MODEL_SHAPE
MODEL_SHAPE=${MODEL_SHAPE:-small}
TOKENIZER_VOCAB_SIZE=${TOKENIZER_VOCAB_SIZE:-2000}
OUTPUT_DIR=${OUTPUT_DIR:-$TRAINED_MODEL}
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

"$PYTHON" run_summarization.py \
  "${MODEL_FLAGS[@]}" "${DATA_FLAGS[@]}" \
  --output_dir "$OUTPUT_DIR" \
  --do_train \
  --output_hidden_states_decoder True --intermediate_loss_fn "$LOSS" \
  --per_device_train_batch_size "$BATCH_SIZE" \
  --learning_rate "$LEARNING_RATE" --lr_scheduler_type "$SCHEDULE" --warmup_steps "$WARMUP_STEPS" \
  --adam_beta2 "$ADAM_BETA2" --weight_decay "$WEIGHT_DECAY" \
  --num_train_epochs "$EPOCHS" --max_steps "$MAX_STEPS" \
  --save_steps "$SAVE_STEPS" --save_total_limit 1 --logging_steps 50 --report_to none \
  "$@"
