#!/usr/bin/env bash
# A German-to-English model with 12 decoder layers, trained from nothing on Multi30k: first all exits learn the data's
# texts; then, into OUTPUT_DIR-own, they learn what full depth writes for documents that are mixed from two halves
# (benchmarks/mixed_documents.py). Six minutes on half of an H200. benchmarks/multi30k_exits.py
# measures both on the test set (RESULTS= leaves that out). What was interrupted goes on, what has finished is reused.
# DATA holds train.json and test.json. Extra arguments go to both trainings.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export PYTHON

DATA=${DATA:-../shared/data/multi30k}
OUTPUT_DIR=${OUTPUT_DIR:-save/multi30k}
RESULTS=${RESULTS-benchmarks/results/multi30k}
MODEL_SHAPE=${MODEL_SHAPE:-deep}
TOKENIZER_VOCAB_SIZE=${TOKENIZER_VOCAB_SIZE:-6000}
DROPOUT=${DROPOUT:-0.1}
LOSS=${LOSS:-weighted_ce}
BATCH_SIZE=${BATCH_SIZE:-256}
LEARNING_RATE=${LEARNING_RATE:-5e-4}  # at 1.5e-3 attention becomes one-hot within 300 steps, and learning stops
WARMUP_STEPS=${WARMUP_STEPS:-250}
MAX_STEPS=${MAX_STEPS:-2400}
DECAY_STEPS=${DECAY_STEPS:-800}       # the last ones, in which the rate sinks to nothing
SAVE_STEPS=${SAVE_STEPS:-1000}
DOCUMENTS=${DOCUMENTS:-8000}
OWN_TEXT_STEPS=${OWN_TEXT_STEPS:-150} # 0: ends before, with the mixed documents made
OWN_TEXT_BATCH_SIZE=${OWN_TEXT_BATCH_SIZE:-64}
OWN_TEXT_RATE=${OWN_TEXT_RATE:-1e-4}
OWN_TEXT_LOSS=${OWN_TEXT_LOSS:-kd_logits}
OWN_TEXT_DROPOUT=${OWN_TEXT_DROPOUT:-0.1}
LANGUAGES=(--source_lang de --target_lang en)

[ -e "$OUTPUT_DIR/train_results.json" ] || "$PYTHON" run_translation.py \
  --model_shape "$MODEL_SHAPE" --tokenizer_vocab_size "$TOKENIZER_VOCAB_SIZE" --dropout_rate "$DROPOUT" \
  --train_file "$DATA/train.json" "${LANGUAGES[@]}" \
  --max_source_length 64 --max_target_length 64 \
  --output_dir "$OUTPUT_DIR" --do_train \
  --output_hidden_states_decoder True --intermediate_loss_fn "$LOSS" \
  --per_device_train_batch_size "$BATCH_SIZE" --train_sampling_strategy group_by_length \
  --learning_rate "$LEARNING_RATE" --warmup_steps "$WARMUP_STEPS" \
  --lr_scheduler_type warmup_stable_decay --lr_scheduler_kwargs "{\"num_decay_steps\": $DECAY_STEPS}" \
  --adam_beta2 0.98 --weight_decay 0.01 --max_steps "$MAX_STEPS" \
  --save_steps "$SAVE_STEPS" --save_total_limit 1 --logging_steps 50 --report_to none --disable_tqdm True "$@"

MIXED=$OUTPUT_DIR-mixed.json
[ -e "$MIXED" ] || "$PYTHON" -m benchmarks.mixed_documents "$DATA/train.json" "$MIXED" --count "$DOCUMENTS"
[ "$OWN_TEXT_STEPS" -gt 0 ] || exit 0
[ -e "$OUTPUT_DIR-own/train_results.json" ] ||
  TASK=translation SOURCE_LANG=de TARGET_LANG=en TRAIN_FILE=$MIXED MODEL=$OUTPUT_DIR \
    MAX_SOURCE_LENGTH=64 MAX_TARGET_LENGTH=64 OUTPUT_DIR=$OUTPUT_DIR-own DOCUMENTS= WRITE_BATCH_SIZE=512 \
    BATCH_SIZE=$OWN_TEXT_BATCH_SIZE MAX_STEPS=$OWN_TEXT_STEPS LEARNING_RATE=$OWN_TEXT_RATE \
    SAVE_STEPS=$SAVE_STEPS LOSS=$OWN_TEXT_LOSS \
    bash scripts/own_text.sh --dropout_rate "$OWN_TEXT_DROPOUT" --exit_loss_curriculum rotational \
    --train_sampling_strategy group_by_length --disable_tqdm True "$@"

[ -n "$RESULTS" ] || exit 0
for model in "$OUTPUT_DIR" "$OUTPUT_DIR-own"; do
  "$PYTHON" -m benchmarks.multi30k_exits "$model" --data "$DATA/test.json" "${LANGUAGES[@]}" \
    --json "$RESULTS/$(basename "$model").json"
done
