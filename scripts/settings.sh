# Sourced by the experiments: settings that they share, each overridable from outside, for example
#   MODEL=t5-small DATASET=abisee/cnn_dailymail DATASET_CONFIG=3.0.0 OUTPUT_DIR=save/t5 bash ./scripts/train.sh
# and the flags that follow from them: DATA_FLAGS, and MODEL_FLAGS for evaluation.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

TASK=${TASK:-summarization}           # or translation, question_answering
SOURCE_LANG=${SOURCE_LANG:-}          # of translation, as the data names them
TARGET_LANG=${TARGET_LANG:-}
DATASET=${DATASET:-embedded}
DATASET_CONFIG=${DATASET_CONFIG:-}
TRAIN_FILE=${TRAIN_FILE:-}            # instead of DATASET: local .json, .jsonl or .csv files
VALIDATION_FILE=${VALIDATION_FILE:-}
case $TASK in
  summarization) SOURCE_PREFIX=${SOURCE_PREFIX-summarize: } ;;
  *) SOURCE_PREFIX=${SOURCE_PREFIX-} ;;
esac
MAX_SOURCE_LENGTH=${MAX_SOURCE_LENGTH:-512}
MAX_TARGET_LENGTH=${MAX_TARGET_LENGTH:-128}
MAX_EVAL_SAMPLES=${MAX_EVAL_SAMPLES:-}
EVAL_BATCH_SIZE=${EVAL_BATCH_SIZE:-1}
SEED=${SEED:-42}
TRAINED_MODEL=${TRAINED_MODEL:-save/train}  # what train.sh writes and the others read

DATA_FLAGS=(
  --source_prefix "$SOURCE_PREFIX"
  --max_source_length "$MAX_SOURCE_LENGTH"
  --max_target_length "$MAX_TARGET_LENGTH"
  --seed "$SEED"
)
[ -z "$SOURCE_LANG" ] || DATA_FLAGS+=(--source_lang "$SOURCE_LANG")
[ -z "$TARGET_LANG" ] || DATA_FLAGS+=(--target_lang "$TARGET_LANG")
if [ -n "$TRAIN_FILE$VALIDATION_FILE" ]; then
  [ -z "$TRAIN_FILE" ] || DATA_FLAGS+=(--train_file "$TRAIN_FILE")
  [ -z "$VALIDATION_FILE" ] || DATA_FLAGS+=(--validation_file "$VALIDATION_FILE")
else
  DATA_FLAGS+=(--dataset_name "$DATASET")
  [ -z "$DATASET_CONFIG" ] || DATA_FLAGS+=(--dataset_config_name "$DATASET_CONFIG")
fi

EVAL_FLAGS=(
  --do_eval --predict_with_generate
  --deploy_scenario True --use_synchronize True
  --per_device_eval_batch_size "$EVAL_BATCH_SIZE"
)
[ -z "$MAX_EVAL_SAMPLES" ] || EVAL_FLAGS+=(--max_eval_samples "$MAX_EVAL_SAMPLES")
