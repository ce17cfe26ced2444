#!/usr/bin/env bash
# What exit adapters give: agreement with full depth, before and after, on E2E. A model of 3 decoder layers that
# learns full depth alone, and one of 6 whose exits were trained jointly (JOINT_MODEL). DATA: the folder with
# train.json and validation.json.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

DATA=${DATA:-../shared/data/e2e}
JOINT_MODEL=${JOINT_MODEL:-../shared/checkpoints/e2e-small}
FOLDER=${FOLDER:-save/exit_adapters}
RESULTS=${RESULTS:-benchmarks/results/exit_adapters}
STEPS=${STEPS:-100}
PLAIN_MODEL=$FOLDER/plain

export PYTHON TRAIN_FILE=$DATA/train.json VALIDATION_FILE=$DATA/validation.json
export MAX_SOURCE_LENGTH=128 MAX_TARGET_LENGTH=64 EVAL_BATCH_SIZE=32

[ -e "$PLAIN_MODEL/train_results.json" ] || "$PYTHON" run_summarization.py \
  --model_shape tiny --tokenizer_vocab_size 1000 --train_file "$TRAIN_FILE" --source_prefix "summarize: " \
  --max_source_length 128 --max_target_length 64 --seed 42 --output_dir "$PLAIN_MODEL" --do_train \
  --per_device_train_batch_size 16 --learning_rate 3e-3 --lr_scheduler_type cosine --warmup_steps 30 \
  --adam_beta2 0.98 --weight_decay 0.01 --max_steps 700 --save_steps 350 --save_total_limit 1 \
  --logging_steps 50 --report_to none "$@"
[ -e "$FOLDER/after_plain/eval_results.json" ] ||
  MODEL=$PLAIN_MODEL OUTPUT_DIR=$FOLDER/after_plain MAX_STEPS=$STEPS bash scripts/exit_adapters.sh "$@"
[ -e "$FOLDER/after_joint/eval_results.json" ] ||
  MODEL=$JOINT_MODEL OUTPUT_DIR=$FOLDER/after_joint MAX_STEPS=$STEPS bash scripts/exit_adapters.sh "$@"
"$PYTHON" -m benchmarks.exit_adapters --results "$RESULTS" \
  "plain, 3 layers=$FOLDER/after_plain" "joint, 6 layers=$FOLDER/after_joint"
