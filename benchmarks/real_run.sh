#!/usr/bin/env bash
# A trained model through run_summarization.py: transformers' generate, full depth and softmax exits at 0.9, in
# float32 and int8, for batches of 1 and 16. MODEL and VALIDATION_FILE name what is evaluated; RESULTS is where
# the results go, a JSON file a run. LABEL=before CHECKOUT=folder measures another checkout of this project.
set -euo pipefail
source "$(dirname "$0")/../scripts/environment.sh"

MODEL=${MODEL:-save/e2e}
VALIDATION_FILE=${VALIDATION_FILE:-../shared/data/e2e/validation.json}
RESULTS=$(realpath "${RESULTS:-benchmarks/results/real_run}")
CHECKOUT=$(realpath "${CHECKOUT:-.}")
LABEL=${LABEL:-now}
PRECISIONS=${PRECISIONS:-float32 int8}  # checkouts without the flag: "float32"
SAMPLES=${SAMPLES:-96}

evaluate() { # name, batch, flags
  local folder model file
  folder=$(mktemp -d) model=$(realpath "$MODEL") file=$(realpath "$VALIDATION_FILE")
  (cd "$CHECKOUT" && PYTHONPATH="$CHECKOUT/src" "$PYTHON" run_summarization.py \
    --model_name_or_path "$model" --validation_file "$file" --source_prefix "summarize: " \
    --do_eval --predict_with_generate --max_eval_samples "$SAMPLES" --max_target_length 64 \
    --per_device_eval_batch_size "$2" --output_dir "$folder/run" "${@:3}" > /dev/null)
  mkdir -p "$RESULTS"
  # The command as it is from this folder, without this machine's paths.
  sed "s|$model|$MODEL|; s|$file|$VALIDATION_FILE|; s|$folder/run|save/real_run|" \
    "$folder/run/eval_results.json" > "$RESULTS/$LABEL-$1-batch-$2.json"
  rm -r "$folder"
}

for batch in 1 16; do
  evaluate generate "$batch"
  for precision in $PRECISIONS; do
    flags=(--deploy_scenario True)
    [ "$precision" = float32 ] || flags+=(--engine_precision "$precision")
    evaluate "full-$precision" "$batch" "${flags[@]}"
    evaluate "softmax-0.9-$precision" "$batch" "${flags[@]}" --use_early_exit True --exit_conf_threshold 0.9
  done
done

"$PYTHON" - "$RESULTS" <<'EOF'
import json, sys
from pathlib import Path
for path in sorted(Path(sys.argv[1]).glob("*.json")):
    result = json.loads(path.read_text())
    numbers = [result[f"eval_{name}"] for name in ("rougeL", "block_avg", "tokens_per_second")]
    print(f"{path.stem:<34}", *(f"{number:8.2f}" for number in numbers))
EOF
