# Sourced with "$@" by scripts that train and evaluate: sets EVALUATION_FLAGS to those of the further arguments that
# evaluation takes too. Flags of training alone would stop it, or make its table one of other settings.

EVALUATION_FLAGS=()
kept=true
for word in "$@"; do
  case ${word%%=*} in
    --train_* | --output_hidden_states_decoder | --intermediate_loss_fn | --shallow_exit_layer | --distill_* | \
      --do_layer_transformation | --exit_propagation | --layer_dropout | --exit_loss_* | --use_lora | --lora_* | \
      --own_text_* | --unlabelled_file | --exit_adapter_rank | --exit_head_loss | --share_exit_head | \
      --max_train_samples | --dropout_rate | --tokenizer_vocab_size | --per_device_train_batch_size | \
      --num_train_epochs | --max_steps | --learning_rate | --lr_* | --warmup_* | --weight_decay | --adam_* | \
      --max_grad_norm | --optim* | --gradient_* | --bf16 | --torch_compile* | --save_* | --load_best_model_at_end | \
      --metric_for_best_model | --greater_is_better | --resume_from_checkpoint) kept=false ;;
    --*) kept=true ;;
  esac
  if $kept; then EVALUATION_FLAGS+=("$word"); fi
done
