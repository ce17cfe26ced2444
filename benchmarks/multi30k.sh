#!/usr/bin/env bash
# A German-to-English model with 12 decoder layers, trained from nothing on Multi30k by one thread: full depth and
# one other exit learn at a step, in turn. It goes on where it was interrupted. DATA holds train.json,
# validation.json and test.json.
set -euo pipefail
source "$(dirname "$0")/../scripts/environment.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

DATA=${DATA:-../shared/data/multi30k}
OUTPUT_DIR=${OUTPUT_DIR:-save/multi30k}
MODEL_SHAPE=${MODEL_SHAPE:-deep-small}
TOKENIZER_VOCAB_SIZE=${TOKENIZER_VOCAB_SIZE:-4000}
BATCH_SIZE=${BATCH_SIZE:-48}
LEARNING_RATE=${LEARNING_RATE:-1.5e-3}
MAX_STEPS=${MAX_STEPS:-3000}
DECAY_STEPS=${DECAY_STEPS:-800}  # the last ones, in which the rate sinks to nothing
SAVE_STEPS=${SAVE_STEPS:-200}

"$PYTHON" run_translation.py \
  --model_shape "$MODEL_SHAPE" --tokenizer_vocab_size "$TOKENIZER_VOCAB_SIZE" \
  --train_file "$DATA/train.json" --source_lang de --target_lang en \
  --max_source_length 64 --max_target_length 64 \
  --output_dir "$OUTPUT_DIR" --do_train \
  --output_hidden_states_decoder True --intermediate_loss_fn weighted_ce --exit_loss_curriculum rotational \
  --per_device_train_batch_size "$BATCH_SIZE" --train_sampling_strategy group_by_length \
  --learning_rate "$LEARNING_RATE" --warmup_steps 150 \
  --lr_scheduler_type warmup_stable_decay --lr_scheduler_kwargs "{\"num_decay_steps\": $DECAY_STEPS}" \
  --adam_beta2 0.98 --weight_decay 0.01 --max_steps "$MAX_STEPS" \
  --save_steps "$SAVE_STEPS" --save_total_limit 1 --logging_steps 50 --report_to none --disable_tqdm True \
  --use_cpu "$@"
