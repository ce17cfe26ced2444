#!/usr/bin/env bash
# What exits learn in STEPS further steps of a trained E2E model, each of VARIANTS from the same start with the same
# steps: own texts or gold texts, cross-entropy or distillation of predictions, with propagated states or without;
# FREE's objectives with one shallow exit, and LayerSkip's recipe, on gold texts as published. And a model of START's
# shape that learned full depth alone, from random weights, PLAIN_STEPS long: as it is (plain), and with adapters at its
# exits that learn in STEPS (plain_adapters).
# Training runs in one thread; what an earlier call has finished is reused. Then benchmarks/own_text.py measures
# all of them, and the start. E2E_DATA holds train.json and validation.json.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export PYTHON OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

START=${START:-../shared/checkpoints/e2e-small}
E2E_DATA=${E2E_DATA:-../shared/data/e2e}
FOLDER=${OUTPUT_DIR:-save/own_text}
RESULTS=${RESULTS:-benchmarks/results/own_text}
VARIANTS=${VARIANTS:-own own_kd own_propagation gold gold_kd free_ce free_kd_last free_kd_unif free_kd_dyna layerskip plain plain_adapters}
PLAIN_STEPS=${PLAIN_STEPS:-1135}      # START's 1,035 and these
SHALLOW_LAYER=${SHALLOW_LAYER:-2}     # FREE's one exit: a third of the layers
export TRAIN_FILE=$E2E_DATA/train.json MAX_SOURCE_LENGTH=128 MAX_TARGET_LENGTH=64
export MAX_STEPS=${STEPS:-100} BATCH_SIZE=32 LEARNING_RATE=5e-4 WARMUP_STEPS=10

plain() {  # folder
  [ -e "$1-start/config.json" ] || "$PYTHON" - "$START" "$1-start" <<'PYTHON'
import sys
from transformers import AutoConfig, AutoTokenizer, T5ForConditionalGeneration, set_seed
start, folder = sys.argv[1:]
set_seed(42)
T5ForConditionalGeneration(AutoConfig.from_pretrained(start)).save_pretrained(folder)
AutoTokenizer.from_pretrained(start).save_pretrained(folder)
PYTHON
  "$PYTHON" run_summarization.py --model_name_or_path "$1-start" --train_file "$TRAIN_FILE" \
    --source_prefix "summarize: " --max_source_length 128 --max_target_length 64 --seed 42 --output_dir "$1" --do_train \
    --per_device_train_batch_size 48 --learning_rate 1.5e-3 --lr_scheduler_type cosine --warmup_steps 50 \
    --adam_beta2 0.98 --weight_decay 0.01 --max_steps "$PLAIN_STEPS" --save_steps 200 --save_total_limit 1 \
    --logging_steps 50 --report_to none --use_cpu --disable_tqdm True
}

train() {  # variant
  local folder=$FOLDER/$1 flags=(--use_cpu --disable_tqdm True) loss=weighted_ce script=scripts/own_text.sh
  [ ! -e "$folder/train_results.json" ] || return 0
  case $1 in
    plain) plain "$folder"; return ;;
    plain_adapters)
      train plain
      MODEL=$FOLDER/plain OUTPUT_DIR=$folder OWN_TEXT=True VALIDATION_FILE=$E2E_DATA/validation.json \
        EVAL_BATCH_SIZE=32 bash scripts/exit_adapters.sh --own_text_file "$FOLDER/plain_texts.jsonl" --use_cpu
      return ;;
    *_kd) loss=kd_logits; flags+=(--distill_layer_alpha "${ALPHA:-1}") ;;
    free_*) loss=shallowdeep_${1#free_}; flags+=(--shallow_exit_layer "$SHALLOW_LAYER") ;;&
    free_kd_*) flags+=(--distill_layer_alpha 0.5) ;;
    layerskip) loss=layerskip_ce; flags+=(--layer_dropout 0.1 --exit_loss_curriculum rotational) ;;
    *_propagation) flags+=(--exit_propagation "${PROPAGATION:-0.5}") ;;
  esac
  [[ $1 == own* ]] || script=scripts/train.sh
  MODEL=$START OUTPUT_DIR=$folder LOSS=$loss OWN_TEXT_FILE=$FOLDER/own_texts.jsonl OWN_TEXT_STEPS=0 \
    bash "$script" "${flags[@]}"
}

for variant in $VARIANTS; do
  train "$variant"
done
[ -n "${TRAIN_ONLY:-}" ] || "$PYTHON" -m benchmarks.own_text "$START" "$FOLDER" \
  --data "$E2E_DATA/validation.json" --samples "${SAMPLES:-315}" --variants start $VARIANTS --results "$RESULTS"
