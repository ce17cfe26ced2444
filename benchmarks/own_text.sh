#!/usr/bin/env bash
# What exits learn in STEPS further steps of a trained E2E model, each of VARIANTS from the same start with the same
# steps: own texts or gold texts, cross-entropy or distillation of predictions, with propagated states or without;
# FREE's objectives with one shallow exit, and LayerSkip's recipe, on gold texts as published.
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
VARIANTS=${VARIANTS:-own own_kd own_propagation gold gold_kd free_ce free_kd_last free_kd_unif free_kd_dyna layerskip}
SHALLOW_LAYER=${SHALLOW_LAYER:-2}     # FREE's one exit: a third of the layers
export TRAIN_FILE=$E2E_DATA/train.json MAX_SOURCE_LENGTH=128 MAX_TARGET_LENGTH=64
export MAX_STEPS=${STEPS:-100} BATCH_SIZE=32 LEARNING_RATE=5e-4 WARMUP_STEPS=10

train() {  # variant
  local folder=$FOLDER/$1 flags=(--use_cpu --disable_tqdm True) loss=weighted_ce script=scripts/own_text.sh
  [ ! -e "$folder/train_results.json" ] || return 0
  case $1 in
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
