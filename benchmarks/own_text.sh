#!/usr/bin/env bash
# What exits learn in STEPS further steps of a trained model, each of VARIANTS from the same start with the same
# steps: own texts or gold texts, cross-entropy or distillation of predictions, with propagated states or without;
# FREE's objectives with one shallow exit, and LayerSkip's recipe, on gold texts as published. And a model of START's
# shape that learned full depth alone, from random weights, as long as START and its variants (plain), and with
# adapters at its exits that learn in STEPS (plain_adapters).
#   SET=multi30k VARIANTS="own_kd gold" bash benchmarks/own_text.sh
# SET: e2e, or multi30k, whose START is trained for it where it is missing (an hour of two cores).
# Variants learn in one thread; what an earlier call has finished is reused. Then benchmarks/own_text.py measures all
# of them, and the start. DATA holds the records of SET.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export PYTHON

SET=${SET:-e2e}
DATA=${DATA:-../shared/data/$SET}
VARIANTS=${VARIANTS-own own_kd own_propagation gold gold_kd free_ce free_kd_last free_kd_unif free_kd_dyna layerskip plain plain_adapters}
START_STEPS=${START_STEPS:-2400}      # of multi30k's start, where it is trained here
export TRAIN_FILE=$DATA/train.json MAX_TARGET_LENGTH=64
export MAX_STEPS=${STEPS:-100} BATCH_SIZE=${BATCH_SIZE:-32} WARMUP_STEPS=10
case $SET in
  e2e)
    export TASK=summarization SOURCE_PREFIX="summarize: " MAX_SOURCE_LENGTH=128 LEARNING_RATE=${LEARNING_RATE:-5e-4}
    START=${START:-../shared/checkpoints/e2e-small} TEST_FILE=$DATA/validation.json SAMPLES=${SAMPLES:-315}
    FOLDER=${OUTPUT_DIR:-save/own_text} RESULTS=${RESULTS:-benchmarks/results/own_text}
    DOCUMENTS_FILE=$TRAIN_FILE          # that own texts are written for
    SHALLOW_LAYER=${SHALLOW_LAYER:-2}   # FREE's one exit: a third of the layers
    PLAIN_STEPS=${PLAIN_STEPS:-1135}    # START's 1,035 and these
    PLAIN_FLAGS=(--per_device_train_batch_size 48 --learning_rate 1.5e-3 --lr_scheduler_type cosine --warmup_steps 50) ;;
  multi30k)
    export TASK=translation SOURCE_PREFIX="" SOURCE_LANG=de TARGET_LANG=en MAX_SOURCE_LENGTH=64
    export LEARNING_RATE=${LEARNING_RATE:-1e-4}
    START=${START:-save/multi30k-start} TEST_FILE=$DATA/test.json SAMPLES=${SAMPLES:-500}
    FOLDER=${OUTPUT_DIR:-save/multi30k_own_text} RESULTS=${RESULTS:-benchmarks/results/multi30k_own_text}
    DOCUMENTS_FILE=$START-mixed.json    # own texts of documents that START knows are the gold texts again
    SHALLOW_LAYER=${SHALLOW_LAYER:-4}
    PLAIN_STEPS=${PLAIN_STEPS:-$((START_STEPS + MAX_STEPS))}
    PLAIN_FLAGS=(--source_lang de --target_lang en --train_sampling_strategy group_by_length
      --per_device_train_batch_size 96 --learning_rate 5e-4 --lr_scheduler_type warmup_stable_decay
      --lr_scheduler_kwargs '{"num_decay_steps": 800}' --warmup_steps 150)
    DATA=$DATA OUTPUT_DIR=$START MODEL_SHAPE=deep-small TOKENIZER_VOCAB_SIZE=4000 DROPOUT=0 BATCH_SIZE=96 \
      LEARNING_RATE=5e-4 WARMUP_STEPS=150 MAX_STEPS=$START_STEPS SAVE_STEPS=100 DOCUMENTS=3200 OWN_TEXT_STEPS=0 \
      bash benchmarks/multi30k.sh --exit_loss_curriculum rotational --use_cpu ;;
  *) echo "unknown SET $SET; known: e2e, multi30k" >&2; exit 2 ;;
esac
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

plain() {  # folder
  [ -e "$1-start/config.json" ] || "$PYTHON" - "$START" "$1-start" <<'PYTHON'
import sys
from transformers import AutoConfig, AutoTokenizer, T5ForConditionalGeneration, set_seed
start, folder = sys.argv[1:]
set_seed(42)
T5ForConditionalGeneration(AutoConfig.from_pretrained(start)).save_pretrained(folder)
AutoTokenizer.from_pretrained(start).save_pretrained(folder)
PYTHON
  "$PYTHON" "run_$TASK.py" --model_name_or_path "$1-start" --train_file "$TRAIN_FILE" --source_prefix "$SOURCE_PREFIX" \
    --max_source_length "$MAX_SOURCE_LENGTH" --max_target_length "$MAX_TARGET_LENGTH" --seed 42 --output_dir "$1" \
    --do_train "${PLAIN_FLAGS[@]}" --adam_beta2 0.98 --weight_decay 0.01 --max_steps "$PLAIN_STEPS" --save_steps 200 \
    --save_total_limit 1 --logging_steps 50 --report_to none --use_cpu --disable_tqdm True
}

train() {  # variant
  local folder=$FOLDER/$1 flags=(--use_cpu --disable_tqdm True) loss=weighted_ce script=scripts/own_text.sh
  local file=$DOCUMENTS_FILE
  [ ! -e "$folder/train_results.json" ] || return 0
  case $1 in
    plain) plain "$folder"; return ;;
    plain_adapters)
      train plain
      MODEL=$FOLDER/plain OUTPUT_DIR=$folder OWN_TEXT=True VALIDATION_FILE=$TEST_FILE TRAIN_FILE=$file \
        EVAL_BATCH_SIZE=32 bash scripts/exit_adapters.sh --own_text_file "$FOLDER/plain_texts.jsonl" --use_cpu
      return ;;
    *_kd) loss=kd_logits; flags+=(--distill_layer_alpha "${ALPHA:-1}") ;;
    free_*) loss=shallowdeep_${1#free_}; flags+=(--shallow_exit_layer "$SHALLOW_LAYER") ;;&
    free_kd_*) flags+=(--distill_layer_alpha 0.5) ;;
    layerskip) loss=layerskip_ce; flags+=(--layer_dropout 0.1 --exit_loss_curriculum rotational) ;;
    *_propagation) flags+=(--exit_propagation "${PROPAGATION:-0.5}") ;;
  esac
  [[ $1 == own* ]] || { script=scripts/train.sh; file=$TRAIN_FILE; }
  MODEL=$START OUTPUT_DIR=$folder LOSS=$loss OWN_TEXT_FILE=$FOLDER/own_texts.jsonl OWN_TEXT_STEPS=0 TRAIN_FILE=$file \
    bash "$script" "${flags[@]}"
}

for variant in $VARIANTS; do
  train "$variant"
done
[ -n "${TRAIN_ONLY:-}" ] || "$PYTHON" -m benchmarks.own_text "$START" "$FOLDER" --data "$TEST_FILE" \
  --prefix "$SOURCE_PREFIX" --source_length "$MAX_SOURCE_LENGTH" \
  ${SOURCE_LANG:+--source_lang "$SOURCE_LANG" --target_lang "$TARGET_LANG"} \
  --samples "$SAMPLES" --variants start $VARIANTS --results "$FOLDER/results"
[ -n "${TRAIN_ONLY:-}" ] || { mkdir -p "$RESULTS" && cp "$FOLDER"/results/* "$RESULTS"; }
