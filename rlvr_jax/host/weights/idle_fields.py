"""Fields of a config.json that change no logit, in any family, by what they may change instead."""

BOOKKEEPING = """
    architectures model_type torch_dtype dtype transformers_version _name_or_path _commit_hash
    tokenizer_class is_llama_config transformers.js_config max_sequence_length model_max_length
    finetuning_task keys_to_ignore_at_inference id2label label2id num_labels problem_type
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id
"""
COMPUTATION = """
    use_cache cache_implementation attn_implementation _attn_implementation
    _attn_implementation_internal _attn_implementation_autoset _from_model_config
    _experts_implementation experts_implementation use_flash_attn use_flash_attention_2
    output_attentions output_hidden_states output_scores return_dict return_dict_in_generate
    torchscript use_bfloat16 chunk_size_feed_forward pretraining_tp is_decoder output_past
"""
TRAINING = """
    initializer_range attention_dropout hidden_dropout dropout classifier_dropout
    embd_pdrop resid_pdrop attn_pdrop hidden_dropout_prob attention_probs_dropout_prob
    gradient_checkpointing tf_legacy_loss neftune_noise_alpha
"""
SAMPLING = """
    temperature top_k top_p min_p typical_p do_sample max_length min_length max_new_tokens
    min_new_tokens num_beams num_beam_groups early_stopping diversity_penalty length_penalty
    repetition_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    forced_bos_token_id forced_eos_token_id remove_invalid_values renormalize_logits
    task_specific_params prefix
"""
OTHER = {*f"{BOOKKEEPING} {COMPUTATION} {TRAINING} {SAMPLING}".split()}
OTHER_PREFIX = "unsloth_"  # notes of the library that saved the model
