"""Names that people know from other trainers and web interfaces, and what they are called here."""

from collections.abc import Collection

from ldm_train.util.text import nearest

# Names without dots, dashes as underscores, to the names here; of several, the first that a command has.
_NAMES: tuple[tuple[str, str], ...] = (
    ("lr learning_rate base_lr unet_lr peak_lr", "optimizer.lr"),
    ("weight_decay wd adam_weight_decay", "optimizer.weight_decay"),
    ("betas adam_beta1 adam_beta2 beta1 beta2", "optimizer.betas"),
    ("eps adam_epsilon", "optimizer.eps"),
    ("use_8bit_adam use_8bit", "optimizer=adamw_8bit"),
    ("lr_scheduler scheduler_type", "lr_schedule"),
    ("scheduler", "lr_schedule sampler"),
    ("warmup warmup_steps lr_warmup_steps", "lr_schedule.warmup_steps"),
    ("text_encoder_lr te_lr learning_rate_te", "parameter_groups.text_encoder_lr"),
    ("epoch epochs max_epochs num_epochs num_train_epochs max_train_epochs", "max_steps"),
    (
        "steps max_train_steps num_train_steps train_steps total_steps num_steps iterations iters max_iters",
        "steps max_steps",
    ),
    ("num_inference_steps sampling_steps sample_steps ddim_steps inference_steps", "steps pictures.steps"),
    ("bs train_batch_size batchsize per_device_train_batch_size train_bs", "batch_size"),
    ("gradient_accumulation_steps gradient_accumulation accumulate_grad_batches grad_accum", "micro_batch_size"),
    ("grad_clip clip_grad max_grad_norm gradient_clip gradient_clip_val", "trainer.gradient_clip_val"),
    ("mixed_precision precision fp16 bf16 amp", "trainer.precision dtype"),
    ("gpus num_gpus n_gpus devices num_processes", "trainer.devices"),
    ("nodes num_nodes nnodes num_machines", "trainer.num_nodes"),
    ("gradient_checkpointing grad_checkpointing checkpointing", "network.gradient_checkpointing"),
    ("num_workers dataloader_num_workers max_data_loader_n_workers n_workers", "workers"),
    ("resolution width height img_size image_width image_height h w side res", "image_size size"),
    ("centre_crop center_crop", "crop=centre"),
    ("enable_bucket bucketing", "crop=buckets"),
    (
        "data data_dir data_root train_data_dir instance_data_dir image_dir images dataset dataset_path root",
        "source.path cache",
    ),
    ("dataset_name", "source.path"),
    ("caption_column text_column", "source.caption_column"),
    ("image_column", "source.image_column"),
    ("caption_prefix trigger_word", "source.prefix"),
    ("out_dir output output_dir outdir save_dir save_path logdir logging_dir log_dir exp_dir", "run_dir out"),
    ("model_path ckpt ckpt_path checkpoint_path checkpoint", "run_dir"),
    ("resume_from_checkpoint resume_from", "resume"),
    (
        "model base_model pretrained pretrained_model pretrained_model_name_or_path init_from unet finetune",
        "network.weights run_dir",
    ),
    ("vae vae_path pretrained_vae_model_name_or_path", "autoencoder.weights"),
    ("clip_skip", "text_encoder.layer"),
    ("max_token_length tokens", "text_encoder.chunks"),
    ("save_steps save_every checkpointing_steps save_every_n_steps checkpoint_every save_freq", "checkpoint.every"),
    ("checkpoints_total_limit save_total_limit", "checkpoint.keep"),
    ("validation_steps eval_steps eval_every val_every", "validation.every"),
    ("validation_prompt validation_prompts sample_prompts", "pictures.prompts"),
    ("sample_every sample_every_n_steps", "pictures.every"),
    ("validation_split val_split test_split", "held_out"),
    ("report_to log_with wandb use_wandb wandb_project", "logger=wandb"),
    ("mlflow use_mlflow mlflow_uri tracking_uri", "logger=mlflow"),
    ("trackio use_trackio", "logger=trackio"),
    ("ema_decay", "ema.decay"),
    ("use_ema", "ema"),
    ("prediction_type parameterization parametrization objective v_parameterization", "prediction"),
    ("beta_schedule noise_schedule noise_scheduler", "schedule"),
    ("num_train_timesteps timesteps_count", "schedule.num_steps"),
    ("zero_terminal_snr rescale_betas_zero_snr", "schedule.zero_terminal_snr"),
    ("snr_gamma min_snr_gamma", "weighting=min_snr"),
    ("noise_offset", "offset_noise"),
    ("input_perturbation_noise ip_noise_gamma", "input_perturbation"),
    ("caption_dropout_rate cond_drop_prob p_uncond uncond_p proportion_empty_prompts", "caption_dropout"),
    ("shuffle_caption shuffle_captions shuffle_tags", "tags.shuffle"),
    ("keep_tokens", "tags.keep"),
    ("caption_tag_dropout_rate tag_dropout", "tags.dropout"),
    ("masked_loss masked_training alpha_mask", "loss_mask"),
    ("lora_rank rank network_dim lora_r lora_dim", "adapter.rank"),
    ("lora_alpha network_alpha", "adapter.alpha"),
    ("lora loras lora_path lora_weights", "adapters adapter=lora"),
    ("lora_scale", "adapters"),
    ("controlnet use_controlnet controlnet_path controlnet_model_name_or_path", "adapter=controlnet"),
    ("controlnet_conditioning_scale conditioning_scale control_strength", "control_scale"),
    ("new_word placeholder_token initializer_token", "text_encoder.new_words"),
    ("train_text_encoder", "text_encoder.trained"),
    ("class_prompt reg_prompt", "prior.prompts"),
    ("num_class_images", "prior.count"),
    ("prior_loss_weight", "prior.weight"),
    ("torch_compile", "compile"),
    ("prompt text caption captions", "prompts pictures.prompts"),
    ("neg negative uncond_prompt neg_prompt", "negative_prompt"),
    ("cfg cfg_scale guidance_scale unconditional_guidance_scale scale classifier_free_guidance", "guidance.scale"),
    ("guidance_rescale cfg_rescale", "guidance.rescale"),
    ("eta ddim_eta", "sampler.eta"),
    ("n_samples num_samples num_images num_images_per_prompt n_iter images_per_prompt n", "count samples"),
    ("init_image init_img image input_image img2img", "picture"),
    ("mask_image inpaint_mask", "mask"),
    ("denoising_strength denoise noise_strength", "strength"),
    ("manual_seed random_seed", "seed"),
)
NAMES = {name: ours.split() for names, ours in _NAMES for name in names.split()}

# Of a setting, values that are called otherwise here.
VALUES: dict[str, dict[str, str]] = {
    "prediction": {
        **dict.fromkeys(("epsilon", "eps", "e", "noise_prediction"), "noise"),
        **dict.fromkeys(("v", "v_prediction", "v_pred", "vpred"), "velocity"),
        **dict.fromkeys(("sample", "x0", "x", "x_start", "x_0", "start"), "clean"),
        **dict.fromkeys(("flow_matching", "rectified_flow", "rf", "flow_prediction"), "flow"),
    },
    "schedule": {
        **dict.fromkeys(("squaredcos_cap_v2", "cos"), "cosine"),
        **dict.fromkeys(("flow", "flow_matching", "rf"), "rectified_flow"),
        **dict.fromkeys(("sqrt_linear", "stable_diffusion", "sd"), "scaled_linear"),
    },
    "sampler": {
        **dict.fromkeys(("dpmpp_2m", "dpm++", "dpm", "dpmsolver", "dpmsolver++", "dpmpp"), "dpm_solver"),
        **dict.fromkeys(("dpmpp_2m_sde", "dpmpp_sde"), "dpm_solver_sde"),
        **dict.fromkeys(("euler_a", "k_euler_a", "k_euler_ancestral"), "euler_ancestral"),
        **dict.fromkeys(("k_euler", "flow_match_euler"), "euler"),
        "k_heun": "heun",
    },
    "optimizer": {
        **dict.fromkeys(("adamw8bit", "adam8bit", "adam_8bit"), "adamw_8bit"),
        **dict.fromkeys(("adamwschedulefree", "schedulefree", "adamw_schedule_free", "schedule-free"), "schedule_free"),
    },
    "lr_schedule": {
        **dict.fromkeys(("constant_with_warmup", "none"), "constant"),
        **dict.fromkeys(("cosine_with_restarts", "cosine_annealing"), "cosine"),
    },
    "weighting": {**dict.fromkeys(("snr", "min_snr_gamma", "minsnr"), "min_snr"), "none": "uniform"},
    "source": {**dict.fromkeys(("imagefolder", "directory", "dir"), "folder"), "wds": "webdataset", "hf": "huggingface"},
}


def suggest_option(group: str, value: str, options: Collection[str]) -> str:
    """Return the end of a message about an unknown option of a group."""
    ours = VALUES.get(group, {}).get(value.lower())
    return f"; did you mean {ours!r}?" if ours in options else nearest(value, options)
