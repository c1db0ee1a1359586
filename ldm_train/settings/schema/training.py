"""The settings of commands that train: `train`, `train_autoencoder`, and `check`, which takes the settings of `train`."""

from typing import Annotated, Literal

from ldm_train.settings.schema.kinds import (
    BelowOne,
    Choice,
    Count,
    FilePath,
    NotNegative,
    OwnObjects,
    Paths,
    Positive,
    Range,
    Share,
    Text,
    Texts,
    WholeNumber,
    Words,
    setting,
)
from ldm_train.settings.schema.options import CommandSettings, Conditions, Part, TrainerSettings
from ldm_train.settings.schema.pixels import MOST_PIXELS, PixelSettings, ReconstructionSettings
from ldm_train.settings.schema.tags import TagSettings
from ldm_train.settings.schema.training_sections import (
    CheckpointSettings,
    HealthSettings,
    MetricSettings,
    ParameterGroupSettings,
    PictureSettings,
    PriorSettings,
    ValidationSettings,
)

AverageLength = Annotated[float, Range(0, 0.2886, above=True)]  # up to the mean of all steps
PartShare = Annotated[float, Range(0, 1, above=True)]
DTYPES = ("float16", "bfloat16", "float32")
Dtype = Annotated[str, Choice(DTYPES)]
MicroBatch = Annotated[int | Literal["auto"], Range(1), Words("a whole number of at least 1, or auto")]


class FittingSettings(CommandSettings):
    """What every training has."""

    run_dir: FilePath = setting(..., "the run directory", free=True)
    batch_size: Count = setting(32, "examples of one optimizer step, over all devices")
    micro_batch_size: MicroBatch | None = setting(
        None, "examples of one forward pass; null: a device's share; auto: what fits into memory", free=True
    )
    max_steps: Count = setting(10_000, "optimizer steps of the run", free=True)
    seed: int = setting(0, "of everything that is drawn")
    threads: Count | None = setting(None, "CPU threads; null: as many as it has cores", free=True)
    workers: WholeNumber = setting(0, "processes that make batches; a cache is read faster without", free=True)
    resume: Annotated[str, Choice(("auto", "never", "restart"))] = setting(
        "auto",
        "never: refuse a run directory that has a checkpoint; restart: remove its history and checkpoints and start anew",
        free=True,
    )
    max_time: Text | None = setting(
        None, "such as 11:30:00: save then and leave with exit code 75; the same command continues", free=True
    )
    max_nonfinite_steps: Count = setting(
        20, "so many steps in a row that are not finite, each left out, are an error", free=True
    )
    checkpoint: CheckpointSettings = setting(CheckpointSettings(), "", free=True)
    health: HealthSettings = setting(HealthSettings(), "", free=True)

    optimizer: Part
    lr_schedule: Part
    trainer: TrainerSettings
    logger: Part | None = None


class SourceSettings(CommandSettings):
    """How the pictures of a source are read."""

    background: Text = setting(
        "white", 'what shows through transparent pictures, and around them with crop=fit: a colour\'s name, or "#rrggbb"'
    )
    pixels: PixelSettings = setting(PixelSettings(), "")
    max_pixels: Count = setting(MOST_PIXELS, "larger pictures are left out: decoding them takes too much memory", free=True)
    max_unusable: Share = setting(0.5, "share of the pictures from which on unusable ones are an error; 1: never", free=True)
    dtype: Dtype = setting("float16", "of stored latents: float16, bfloat16 or float32")
    source: Part | None = None
    scale_check: bool = setting(True, "refuse latents with a deviation far from 1 after scaling", free=True)


class TrainSettings(FittingSettings, SourceSettings):
    """The settings of `ldm-train train`."""

    cache: Paths | None = setting(
        ..., "a cache's folder, or several: [caches/a,caches/b]; null: source is encoded on the fly", free=True
    )
    verify: Annotated[str, Choice(("content", "stat", "none"))] = setting(
        "content", "stat: read a file of the cache again only if its size or times changed; none: read no file", free=True
    )
    cache_repeats: Annotated[list[NotNegative], Words("a list with a number for each cache, such as [1,3]")] | None = (
        setting(None, "how often an epoch has each of several caches")
    )
    cache_shares: Annotated[list[NotNegative], Words("a list with a number for each cache, such as [0.8,0.2]")] | None = (
        setting(None, "or the share of each in an epoch")
    )
    prior: PriorSettings = setting(PriorSettings(), "")
    image_size: Count | None = setting(None, "side of the pictures, pixels; null: the cache's own; another one is refused")
    conditions: Conditions = setting([], "what the network is also conditioned on: number, map, inpaint, low_resolution …")
    caption_dropout: Share = setting(0.1, "share of examples trained without a caption, for guidance")
    tags: TagSettings = setting(TagSettings(), "")
    loss_mask: Text | None = setting(
        None, "a map of source.maps, white where a picture counts in the loss and black where not; null: all of it counts"
    )
    loss_weight: Text | None = setting(
        None, "a column of the pictures' metadata by which their loss is multiplied; pictures without it count 1"
    )
    cache_loss_weights: (
        Annotated[list[NotNegative], Words("a list with a number for each cache, such as [1,0.5]")] | None
    ) = setting(None, "by what the loss of each of several caches is multiplied")
    trained: Texts | None = setting(
        None,
        "patterns of parameters' names, [network.*.cross_attention.*]; the rest stays as network.weights has it; null: all",
    )
    error: Annotated[str, Choice(("squared", "absolute", "huber"))] = setting(
        "squared", "what an error of the network's output costs: squared, absolute, or huber, which outliers pull less"
    )
    huber_delta: Positive = setting(0.1, "of error=huber: errors below are squared, about, and larger ones absolute")
    offset_noise: NotNegative = setting(0.0, "0.1 learns a picture's brightness better")
    input_perturbation: NotNegative = setting(
        0.0, "further noise in the network's input only: 0.1 for long runs on few pictures"
    )
    held_out: BelowOne | None = setting(
        None, "share kept from training, if the source names none; null: 0.05, and at least 20 pictures or a fifth of fewer"
    )
    parameter_groups: ParameterGroupSettings = setting(ParameterGroupSettings(), "")
    validation: ValidationSettings = setting(ValidationSettings(), "", free=True)
    pictures: PictureSettings = setting(PictureSettings(), "", free=True)
    metrics: MetricSettings = setting(MetricSettings(), "", free=True)
    callbacks: OwnObjects = setting([], "Lightning callbacks, which are code of your own (trust=…)", free=True)
    draw_ahead: Annotated[bool | Literal["auto"], Words("true, false or auto")] = setting(
        "auto", "draw the noise of the next step, in the workers or a thread, while one is taken; auto: on a GPU", free=True
    )
    fused_backward: bool = setting(
        False, "step within the backward pass, without memory for all gradients; no clipping, accumulation or DDP", free=True
    )
    channels_last: Annotated[bool | Literal["auto"], Words("true, false or auto")] = setting(
        "auto", "order of pictures in memory, for faster convolutions in 16 bits; auto: with compile on a GPU", free=True
    )
    compile: Text | None = setting(
        "auto",
        "backend of torch.compile, such as inductor, which takes minutes; auto: where a long run on a GPU gains",
        free=True,
    )

    network: Part
    schedule: Part
    prediction: Part
    timesteps: Part
    weighting: Part
    ema: Part
    sampler: Part
    spacing: Part
    guidance: Part
    evaluation: Part
    autoencoder: Part | None = None
    text_encoder: Part | None = None
    crop: Part
    features: Part | None = None
    clip_score: Part | None = None
    adapter: Part | None = None


class CheckSettings(TrainSettings):
    """The settings of `ldm-train check`: those of `train` and `encode`."""

    out: FilePath | None = setting(None, "folder for check.html and check.json; null: only print")
    measure: bool = setting(True, "false: encode and train nothing, which leaves the latents unseen and the time unknown")
    price_per_hour: NotNegative | None = setting(
        None, "of a machine like this one, in any currency: the cost of encoding and training is estimated"
    )
    cache: Paths | None = setting(None, "compare with this cache, if given")
    run_dir: FilePath | None = setting(None, "not looked at")  # type: ignore[assignment]
    image_size: Count = setting(64, "side of the pictures, pixels; with crop=buckets, of a square of the same area")
    encode_batch_size: Count = setting(16, "views of pictures of one forward pass while encoding")
    verify: Annotated[str, Choice(("content", "stat", "none"))] = setting("content", "not used", free=True)
    unchanged_by: Annotated[str, Choice(("hash", "stat"))] = setting("hash", "not used: check reads every picture")
    prune: bool = setting(False, "not used")
    strict: bool = setting(True, "false: pictures that cannot be used are only warnings")

    source: Part
    autoencoder: Part
    text_encoder: Part


class AutoencoderTrainingSettings(FittingSettings):
    """The settings of `ldm-train train_autoencoder`."""

    image_size: Count = setting(64, "side of the pictures, pixels")
    batch_size: Count = setting(16, "pictures of one optimizer step, over all devices")
    max_steps: Count = setting(7000, "optimizer steps of the run", free=True)
    workers: WholeNumber = setting(0, "processes that decode pictures", free=True)
    flip: bool = setting(False, "mirror half of the pictures")
    pixels: PixelSettings = setting(PixelSettings(), "")
    mse_weight: NotNegative = setting(1.0, "of the squared error, next to the L1 error")
    kl_weight: NotNegative = setting(1e-3, "of the divergence, per latent value")
    gradient_weight: NotNegative = setting(
        0.0, "of the error of the pictures' gradients at three scales, which keeps edges; 0: not computed"
    )
    equivariance_weight: NotNegative = setting(
        0.0,
        "of the error of scaled and turned latents, decoded (EQ-VAE), for latents that are learned faster; 0: not computed",
    )
    equivariance_share: PartShare = setting(0.5, "share of the pictures of a step for which it is computed")
    ema_length: AverageLength | None = setting(
        0.05, "of the average of the weights that is measured and saved, as a share of the run; null: no average"
    )
    held_out: BelowOne | None = setting(
        None, "share kept from training, if the source names none; null: 0.05, and at least 20 pictures or a fifth of fewer"
    )
    max_unusable: Share = setting(0.5, "share of the pictures from which unusable ones are an error; 1: never", free=True)
    pictures: ReconstructionSettings = setting(ReconstructionSettings(), "", free=True)

    source: Part
    architecture: Part | None = None
    autoencoder: Part | None = None
