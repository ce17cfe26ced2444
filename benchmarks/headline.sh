#!/usr/bin/env bash
# The headline: what certified early exit gives on the clock, against every peer, on two trained models. For each data
# set a model whose exits were trained (E2E_MODEL with 6 decoder layers, on its own texts, without the 700 documents
# that benchmarks/e2e_split.py holds out; MULTI30K_MODEL with 12; trained where they are absent) gets the width and
# vocabulary of SHAPE (benchmarks/widen.py: the same function at that cost), a calibration for each promise over ways of
# decoding, thresholds, and layers that end the decoder, in each of PRECISIONS, on 500 prompts and checked on 500, and is
# then timed beside all others, for E2E on records of which some were calibrated with. What an earlier call has finished
# is reused.
#   SETS="e2e multi30k" RECORDS="300 300 100" BATCHES="1 8 32" bash benchmarks/headline.sh
# RECORDS: one number, or one for each of BATCHES.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export PYTHON

SETS=${SETS:-e2e multi30k}
DATA=${DATA:-../shared/data}
FOLDER=${FOLDER:-save/headline}
RESULTS=${RESULTS:-benchmarks/results/headline}
RECORDS=${RECORDS:-300}
BATCHES=${BATCHES:-1 8 32}
BUSY_RECORDS=${BUSY_RECORDS-30}  # of the run beside a busy process, one text at a time; empty: no such run
E2E_MODEL=${E2E_MODEL:-save/e2e-unseen-own}
MULTI30K_MODEL=${MULTI30K_MODEL:-save/multi30k}  # own texts cost it quality: docs/training.md
SHAPE=${SHAPE:-t5-small}  # whose cost the models get; or t5-base
PRECISIONS=${PRECISIONS:-int8,w8a8}  # that calibrations choose from; w8a8 is faster on processors with VNNI
E2E_STEPS=${E2E_STEPS:-1035} # of its training, before its own texts
PEERS_OF=${PEERS_OF:-}    # an earlier result, whose peers' settings are taken; empty: all are tried
HEADS=${HEADS:-}          # exit heads to train and time beside softmax, such as MLP

settings() {  # data set: its files, flags and calibration
  case $1 in
    e2e)
      model=$E2E_MODEL task=summarization quality=rougeL risk=rouge prefix="summarize: " languages=()
      train=$FOLDER/e2e-split/train.json calibrate=$FOLDER/e2e-split/unseen.json test=$calibrate
      [ -e "$calibrate" ] || "$PYTHON" -m benchmarks.e2e_split --data "$DATA/e2e" --output "$FOLDER/e2e-split"
      min_layer=1 grid=${GRID:-verify=none,parallel,exact max_draft=16 static_exit_layer=none,3,4,5} shortlist=${SHORTLIST:-1000}
      thresholds=${THRESHOLDS:-1 0.95 0.9 0.85 0.8 0.75 0.7 0.65 0.6 0.5 0.4} ;;
    multi30k)
      model=$MULTI30K_MODEL task=translation quality=bleu risk=chrf prefix="" languages=(--source_lang de --target_lang en)
      train=$DATA/multi30k/train.json calibrate=$DATA/multi30k/validation.json test=$DATA/multi30k/test.json
      min_layer=3 grid=${GRID:-verify=none,parallel,exact max_draft=16 static_exit_layer=none,4,6,8,10} shortlist=${SHORTLIST:-3000}
      thresholds=${THRESHOLDS:-1 0.95 0.9 0.85 0.8 0.75 0.7 0.65 0.6 0.5 0.4 0.3} ;;
    *) echo "unknown data set $1; known: e2e, multi30k" >&2; exit 2 ;;
  esac
}

train() {  # data set: its model, last on its own texts
  [ ! -e "$model/config.json" ] || return 0
  case $1 in
    e2e)
      export MAX_SOURCE_LENGTH=128 MAX_TARGET_LENGTH=64 TRAIN_FILE=$train
      [ -e "$model-before/train_results.json" ] ||
        OUTPUT_DIR=$model-before TOKENIZER_VOCAB_SIZE=700 BATCH_SIZE=48 MAX_STEPS=$E2E_STEPS OWN_TEXT_STEPS=0 \
          bash scripts/train.sh --dropout_rate 0.1 --exit_loss_curriculum rotational --use_cpu --disable_tqdm True
      MODEL=$model-before OUTPUT_DIR=$model MAX_STEPS=100 WARMUP_STEPS=10 \
        bash scripts/own_text.sh --use_cpu --disable_tqdm True
      unset MAX_SOURCE_LENGTH MAX_TARGET_LENGTH TRAIN_FILE ;;
    multi30k) DATA=$DATA/multi30k OUTPUT_DIR=$model OWN_TEXT_STEPS=0 RESULTS='' bash benchmarks/multi30k.sh ;;
  esac
}

same() {  # file, words: stops where what is there is of other settings
  if [ -e "$1" ] && [ "$(cat "$1")" != "$2" ]; then
    echo "$(dirname "$1") is of other settings ($(cat "$1")): remove it, or set FOLDER" >&2
    exit 2
  fi
  echo "$2" > "$1"
}

heads() {  # the model with exit heads, which learn from its own texts of documents that nobody has seen
  local output=$FOLDER/$1/heads texts=$FOLDER/$1/mixed.json
  [ -n "$HEADS" ] || return 0
  [ -e "$texts" ] || "$PYTHON" -m benchmarks.mixed_documents "$train" "$texts" --count 4000
  [ -e "$output/eval_results.json" ] ||
    MODEL=$model OUTPUT_DIR=$output HEADS=$HEADS TASK=$task TRAIN_FILE=$texts VALIDATION_FILE=$calibrate \
      SOURCE_PREFIX=$prefix SOURCE_LANG=${languages[1]:-} TARGET_LANG=${languages[3]:-} MAX_SOURCE_LENGTH=128 \
      MAX_TARGET_LENGTH=64 EVAL_BATCH_SIZE=16 MAX_EVAL_SAMPLES=200 \
      bash scripts/confidence_classifier_training.sh --train_on_own_text True --use_cpu --overwrite_output_dir
  model=$output
}

calibrate() {  # consistency, its loss, deltas
  local output=$FOLDER/$name/$1
  [ ! -e "$output/calibration.json" ] || return 0
  MODEL=$FOLDER/$name/wide TASK=$task VALIDATION_FILE=$calibrate SOURCE_PREFIX=$prefix OUTPUT_DIR=$output \
    MAX_SOURCE_LENGTH=128 MAX_TARGET_LENGTH=64 EVAL_BATCH_SIZE=8 SAMPLES=500 HELD_OUT=500 \
    SOURCE_LANG=${languages[1]:-} TARGET_LANG=${languages[3]:-} MIN_LAYER=$min_layer \
    CONSISTENCY=$1 DELTAS=$3 GRID="engine_precision=$PRECISIONS $grid" TEXT_FILE=$FOLDER/$name/texts.sqlite \
    THRESHOLDS=$thresholds bash calibration_run.sh --calibrate_loss "$2" \
    --shortlist "$shortlist" --shortlist_at_full_depth True --calibrate_test chains \
    --use_cpu --report_to none
}

for set in $SETS; do
  settings "$set"
  name=$set
  [ "$SHAPE" = t5-small ] || name=$set-$SHAPE
  mkdir -p "$FOLDER/$name"
  train "$set"
  weights=$(cat "$model"/*.safetensors | sha256sum | cut -c1-16)
  same "$FOLDER/$name/asked.txt" \
    "$model $weights $PRECISIONS $grid min_layer=$min_layer shortlist=$shortlist $thresholds heads=$HEADS"
  heads "$set"
  if [ ! -e "$FOLDER/$name/wide/config.json" ]; then
    "$PYTHON" -m runner.rank_tokens --task $task --model_name_or_path "$model" --train_file "$train" \
      "${languages[@]}" --max_target_length 64 --output_dir "$FOLDER/$name/ranked"
    "$PYTHON" -m benchmarks.widen "$FOLDER/$name/ranked" "$calibrate" "$FOLDER/$name/wide" --prefix "$prefix" --shape "$SHAPE"
    # What it has learned, which calibration refuses.
    [ ! -e "$model/training_documents.txt" ] || cp "$model/training_documents.txt" "$FOLDER/$name/wide"
  fi
  calibrate textual rouge "0.05 0.1"
  calibrate risk $risk "0.02 0.05"
  mkdir -p "$RESULTS"
  for consistency in textual risk; do
    cp "$FOLDER/$name/$consistency/calibration.json" "$RESULTS/$name-$consistency.json"
  done
  timed=("$FOLDER/$name/wide" "$test" --prefix "$prefix" --calibrations "$FOLDER/$name"/{textual,risk}/calibration.json
    --quality $quality --risk $risk --shortlist "$shortlist")
  [ ! -e "$FOLDER/$name/headline.json" ] || {
    touch "$FOLDER/$name/timed.txt"
    same "$FOLDER/$name/timed.txt" "$RECORDS records, $BATCHES at a time"; }
  # shellcheck disable=SC2086 # lists of words
  [ -e "$FOLDER/$name/headline.json" ] ||
    { "$PYTHON" -m benchmarks.headline "${timed[@]}" ${PEERS_OF:+--peers-of "$PEERS_OF"} \
      --records $RECORDS --rows $BATCHES --json "$FOLDER/$name/part.json"
      mv "$FOLDER/$name/part.json" "$FOLDER/$name/headline.json"
      echo "$RECORDS records, $BATCHES at a time" > "$FOLDER/$name/timed.txt"; }
  cp "$FOLDER/$name/headline.json" "$RESULTS/$name.json"
  [ -n "$BUSY_RECORDS" ] || continue
  [ "$FOLDER/$name/busy.json" -nt "$FOLDER/$name/headline.json" ] ||
    "$PYTHON" -m benchmarks.headline "${timed[@]}" --records "$BUSY_RECORDS" --neighbours 1 \
      --peers-of "$FOLDER/$name/headline.json" --json "$FOLDER/$name/busy.json"
  cp "$FOLDER/$name/busy.json" "$RESULTS/$name-busy.json"
done
"$PYTHON" -m benchmarks.headline_figure "$RESULTS"
