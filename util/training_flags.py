"""What becomes of each of transformers' `Seq2SeqTrainingArguments` here: none of them is ignored.

A field of a later transformers version belongs into one of the three groups; a test says so.
"""

# Done as transformers documents it.
HONOURED = frozenset(
    """
    output_dir do_train do_eval do_predict use_cpu
    per_device_train_batch_size per_device_eval_batch_size num_train_epochs max_steps
    gradient_accumulation_steps average_tokens_across_devices auto_find_batch_size
    learning_rate warmup_steps weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm tf32
    torch_empty_cache_steps use_cache logging_strategy logging_steps logging_first_step log_on_each_node
    include_num_input_tokens_seen log_level log_level_replica disable_tqdm run_name project trackio_space_id
    trackio_bucket_id trackio_static_space_id skip_memory_metrics
    eval_strategy eval_steps eval_delay predict_with_generate generation_max_length
    save_strategy save_steps save_total_limit save_only_model ignore_data_skip
    restore_callback_states_from_checkpoint
    seed data_seed full_determinism accelerator_config
    dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
    dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order remove_unused_columns
    train_sampling_strategy
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend
    ddp_timeout
    """.split()
)

# Done where they fit what else is asked: see `util.check_training`.
CHECKED = frozenset(
    """
    bf16 fp16 bf16_full_eval fp16_full_eval
    optim optim_args optim_target_modules lr_scheduler_type lr_scheduler_kwargs
    activation_checkpointing activation_checkpointing_kwargs
    gradient_checkpointing gradient_checkpointing_kwargs
    torch_compile torch_compile_backend torch_compile_mode
    report_to debug local_rank prediction_loss_only eval_on_start
    load_best_model_at_end metric_for_best_model greater_is_better resume_from_checkpoint
    generation_config generation_num_beams
    """.split()
)

_NO_LOGITS = "has no effect: evaluation collects tokens, or the loss alone, and no logits"
_NO_UPLOAD = "is not supported: nothing is uploaded from here; upload the output folder when it is done"
_WHOLE_MODEL = "is not supported: decoding with exits reads whole weights"
_NO_LIGER = "is not supported: there are no Liger kernels for T5"

# Refused where they differ from their default, with the reason.
REFUSED = {
    "label_smoothing_factor": "is not supported by the losses at the exits",
    "neftune_noise_alpha": "has no effect: T5 reads its embeddings past the module that gets the noise",
    "use_liger_kernel": _NO_LIGER,
    "liger_kernel_config": _NO_LIGER,
    "logging_nan_inf_filter": "has no effect: a loss that is not finite stops training",
    "eval_do_concat_batches": _NO_LOGITS,
    "eval_use_gather_object": _NO_LOGITS,
    "eval_accumulation_steps": _NO_LOGITS,
    "include_for_metrics": _NO_LOGITS,
    "batch_eval_metrics": _NO_LOGITS,
    "save_on_each_node": "is not supported: the main process alone writes the model and the results",
    "enable_jit_checkpoint": "is not supported: a run goes on from its last checkpoint, see --save_steps",
    "push_to_hub": _NO_UPLOAD,
    "hub_model_id": _NO_UPLOAD,
    "hub_strategy": _NO_UPLOAD,
    "hub_token": _NO_UPLOAD,
    "hub_private_repo": _NO_UPLOAD,
    "hub_always_push": _NO_UPLOAD,
    "hub_revision": _NO_UPLOAD,
    "label_names": "has no effect: the labels are the summaries",
    "length_column_name": "has no effect: lengths are those of the tokenized documents",
    "sortish_sampler": "has no effect: transformers has no such sampler; see --train_sampling_strategy",
    "fsdp": _WHOLE_MODEL,
    "fsdp_config": _WHOLE_MODEL,
    "deepspeed": _WHOLE_MODEL,
    "parallelism_config": _WHOLE_MODEL,
}
