"""Weights out in the layouts that others read, and in again: same tensors, same pictures, by diffusers itself."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from transformers import CLIPTextModel, CLIPTokenizer

from ldm_train import draws
from ldm_train.encoders.autoencoder import pretrained
from ldm_train.encoders.conditioner import TextEncoder, small
from ldm_train.encoders.leaving import text_out, tokenizer_files
from ldm_train.tasks.evaluating.published_pipeline import open_pipeline
from ldm_train.tasks.exporting.folder import MARK, whole_folder, write_tensors
from ldm_train.tasks.exporting.parts import as_transformers
from ldm_train.tasks.parts.assemble import build_parts, build_recipe, load_weights, read_config, read_weights
from ldm_train.tasks.parts.published import start
from ldm_train.tasks.parts.stacked import add_adapters
from ldm_train.weights.loading import load
from ldm_train.weights.parts import find_text_encoder
from ldm_train.weights.text_layout import reading

SHAPE = [
    *("network.channels=[64,64]", "network.attention=[true,false]", "network.middle_attention=true", "network.blocks=1"),
    *("network.extra_up_block=true", "network.patch_size=1", "network.expansion=4", "network.scale_shift=false"),
    *("network.head_size=16", "max_steps=3", "pictures.every=100", "validation.every=100", "checkpoint.every=100"),
]
SCALE, SHIFT, PROMPT = 0.7, 0.25, "a black circle, on a red background!"


@pytest.fixture(scope="module")
def latents(pictures: Path, ldm_train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`latents(shift, *words)`: a cache by a tiny autoencoder whose raw latents have this shift."""

    def encode(shift: float, *words: str) -> Path:
        folder = tmp_path_factory.mktemp("latents")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoencoderKL(
                block_out_channels=(32, 32),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=4,
                scaling_factor=SCALE,
                shift_factor=shift,
            ).save_pretrained(folder / "vae")
        own = ["autoencoder=pretrained", f"autoencoder.weights={folder / 'vae'}", "image_size=16", "scale_check=false"]
        text = ["text_encoder.width=32", "text_encoder.layers=2", "text_encoder.heads=4", "text_encoder.pooled=false"]
        answer = ldm_train("encode", f"source.path={pictures}", f"cache={folder / 'cache'}", *own, *text, *words)
        assert answer.code == 0, answer.err
        return folder / "cache"

    return encode


@pytest.fixture(scope="module")
def run_dir(latents: Callable, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of Stable Diffusion's shape, as 2.x has it."""
    path = tmp_path_factory.mktemp("shaped") / "run"
    answer = train(latents(SHIFT), path, *SHAPE, "scale_check=false", "ema.decay=0.5", "optimizer.lr=0.02")
    assert answer.code == 0, answer.err
    return path


@pytest.fixture(scope="module")
def run_1(latents: Callable, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as 1.x has it, and without a shift."""
    path = tmp_path_factory.mktemp("shaped") / "run"
    answer = train(latents(0.0), path, *SHAPE, "network.heads=4", "scale_check=false", "optimizer.lr=0.02")
    assert answer.code == 0, answer.err
    return path


@pytest.fixture
def export(ldm_train: Callable, tmp_path: Path) -> Callable[..., Path]:
    def run(run_dir: Path, *words: str, out: str = "out") -> Path:
        answer = ldm_train("export", f"run_dir={run_dir}", f"out={tmp_path / out}", *words)
        assert answer.code == 0, answer.err
        return tmp_path / out

    return run


def ours(run_dir: Path, adapter: Path | None = None) -> Tensor:
    """The picture of a run, by its own sampler and spacing."""
    config = read_config(str(run_dir))
    parts = build_parts(config)
    load_weights(run_dir, parts)
    add_adapters(None if adapter is None else str(adapter), parts, read_weights)
    generation = parts.generation(parts.network.eval(), parts.text_encoder.eval(), torch.device("cpu"))
    return generation([PROMPT], build_recipe(config, steps=4, seed=0))


def theirs(pipeline: StableDiffusionPipeline, run_dir: Path) -> Tensor:
    scale = read_config(str(run_dir)).guidance.scale
    noise = draws.normal(0, "initial noise", torch.tensor([0]), (4, 8, 8))
    drawn = pipeline(PROMPT, num_inference_steps=4, guidance_scale=scale, latents=noise, output_type="np")
    return torch.from_numpy(drawn.images).permute(0, 3, 1, 2) * 2 - 1


def same_picture(one: Tensor, other: Tensor) -> None:
    assert one.std() > 0.02, "a picture of one colour shows nothing"
    assert (one - other).abs().max() * 127.5 <= 2


def opened(folder: Path) -> StableDiffusionPipeline:
    return open_pipeline(str(folder), torch.device("cpu"))  # type: ignore[return-value]


# diffusers


def test_a_pipeline_draws_the_same_picture(run_dir: Path, export: Callable) -> None:
    out = export(run_dir, "layout=diffusers", "licence=apache-2.0")
    same_picture(ours(run_dir), theirs(opened(out), run_dir))
    card = (out / "README.md").read_text()
    front = OmegaConf.create(card.split("---")[1])
    assert (front.license, front.library_name) == ("apache-2.0", "diffusers")
    for word in (
        "| steps | 3 |",
        "from_pretrained",
        "| these weights | apache-2.0 |",
        "captions | not stated",
        "shift of 0.25",
    ):
        assert word in card
    assert str(Path.home()) not in card
    assert str(run_dir.parent) not in card


def test_a_pipeline_needs_nothing_of_ours(run_dir: Path, export: Callable) -> None:
    out = export(run_dir, "layout=diffusers", "dtype=float16")
    assert {t.dtype for t in load_file(out / "unet/diffusion_pytorch_model.safetensors").values()} == {torch.float16}
    code = f"""
import sys
class Nothing:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("ldm_train", "open_clip"): raise ImportError(name)
sys.meta_path.insert(0, Nothing())
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained({str(out)!r})
pipeline("a circle", num_inference_steps=1).images[0].save({str(out / "picture.png")!r})
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=out, capture_output=True)
    assert (out / "picture.png").is_file()


@pytest.mark.parametrize("layout", ["diffusers", "single_file"])
@pytest.mark.parametrize(("shape", "weights"), [("1.x", "ema"), ("2.x", "raw")])
def test_out_and_in_again_is_bitwise(
    shape: str, weights: str, layout: str, run_dir: Path, run_1: Path, export: Callable
) -> None:
    run, shift = (run_1, 0.0) if shape == "1.x" else (run_dir, SHIFT)
    out = export(run, f"layout={layout}", f"weights={weights}")
    path = out if layout == "diffusers" else out / "out.safetensors"
    config = read_config(str(run))
    expected, found = build_parts(config), build_parts(config)
    load_weights(run, expected, weights=weights)
    config.network.weights = str(path)
    start(config, found)
    assert_close(found.network.state_dict(), expected.network.state_dict(), rtol=0, atol=0)
    tower, text = found.text_encoder.tower.state_dict(), find_text_encoder(path)
    load(tower, reading(tower, text.tensors), text.tensors, text.shapes)
    assert_close(tower, expected.text_encoder.tower.state_dict(), rtol=0, atol=0)
    read = pretrained(str(path), scale=SCALE)
    moved = {"quant_conv.bias", "post_quant_conv.bias"} if shift else set()
    before, after = (part.model.state_dict() for part in (found.autoencoder, read))
    assert {name for name, tensor in before.items() if not torch.equal(after[name], tensor)} == moved
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert_close(read.decode(z), found.autoencoder.decode(z + shift), rtol=1e-4, atol=1e-5)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_close(read.encode(image).mean, found.autoencoder.encode(image).mean - shift, rtol=1e-4, atol=1e-5)


def test_an_exported_file_of_our_own_leaves_as_what_it_is(run_1: Path, export: Callable, tmp_path: Path) -> None:
    own = export(run_1, "weights=raw", out="raw.safetensors")
    direct, through = (export(run_1, "layout=diffusers", f"weights={w}", out=f"{n}") for n, w in enumerate(("raw", own)))
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (direct / name).read_bytes() == (through / name).read_bytes()


def test_a_single_file_has_the_names_of_its_family(run_dir: Path, run_1: Path, export: Callable) -> None:
    one = load_file(export(run_1, "layout=single_file", out="one") / "one.safetensors")
    two = load_file(export(run_dir, "layout=single_file", out="two") / "two.safetensors")
    projection = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
    assert (one[projection].ndim, two[projection].ndim) == (4, 2)
    assert "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight" in one
    assert "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight" in two
    assert "first_stage_model.decoder.conv_in.weight" in one


def test_an_exported_pipeline_is_measured(run_1: Path, pictures: Path, ldm_train: Callable, export: Callable) -> None:
    out = export(run_1, "layout=diffusers")
    words = [f"pipeline={out}", f"real={pictures}", "samples=4", "steps=1", "resamples=0", "device=cpu"]
    answer = ldm_train("evaluate", *words, f"out={out.parent}/o.json")
    assert answer.code == 0, answer.err
    assert json.loads((out.parent / "o.json").read_text())["pipeline"] == "StableDiffusionPipeline"


def test_velocity_on_a_schedule_of_its_own(run_dir: Path, train: Callable, export: Callable, tmp_path: Path) -> None:
    cache = read_config(str(run_dir)).cache
    words = ("prediction=velocity", "schedule=sigmoid", "schedule.zero_terminal_snr=true", "optimizer.lr=0.02")
    answer = train(cache, tmp_path / "run", *SHAPE, "scale_check=false", *words)
    assert answer.code == 0, answer.err
    out = export(tmp_path / "run", "layout=diffusers")
    scheduler = json.loads((out / "scheduler/scheduler_config.json").read_text())
    assert (scheduler["prediction_type"], len(scheduler["trained_betas"])) == ("v_prediction", 1000)
    same_picture(ours(tmp_path / "run"), theirs(opened(out), tmp_path / "run"))


# What diffusers' classes cannot hold


def test_of_another_network_the_other_parts_leave(
    trained: Path, run_dir: Path, train: Callable, export: Callable, tmp_path: Path
) -> None:
    answer = train(read_config(str(run_dir)).cache, tmp_path / "run", "scale_check=false", "max_steps=1")
    assert answer.code == 0, answer.err
    out = export(tmp_path / "run", "layout=diffusers")
    assert {path.name for path in out.iterdir()} == {
        *("README.md", MARK, "scheduler", "text_encoder", "tokenizer", "vae"),
    }
    card = (out / "README.md").read_text()
    for words in ("network.patch_size=2", "network.extra_up_block=false", "network.expansion=1", "of 16 channels"):
        assert f"what diffusers' classes cannot hold: {words}" in card or words in card
    assert 'AutoencoderKL.from_pretrained("out", subfolder="vae")' in card


@pytest.mark.parametrize("layout", ["single_file", "lora"])
def test_what_has_no_place_in_a_layout_is_refused(layout: str, trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("export", f"run_dir={trained}", f"out={tmp_path}/out", f"layout={layout}")
    assert answer.code == 1
    expected = "network.patch_size=2" if layout == "single_file" else "layout=lora is for a run of adapters"
    assert expected in answer.err
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_network_is_refused_by_its_settings(
    trained: Path, run_with: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    run = run_with(f"network.weights={trained}", "adapter=lora", "max_steps=1")
    answer = ldm_train("export", f"run_dir={run}", f"out={tmp_path}/out", "layout=lora")
    assert answer.code == 1
    assert "which cannot hold this one: network.patch_size=2" in answer.err
    assert list(tmp_path.iterdir()) == []


# LoRA


@pytest.fixture(scope="module")
def adapter(run_1: Path, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "run"
    lora = ("adapter=lora", "adapter.rank=2", "adapter.alpha=3", "adapter.text_encoder=true", "optimizer.lr=0.1")
    words = (f"network.weights={run_1}", "scale_check=false", *lora)
    answer = train(read_config(str(run_1)).cache, path, *SHAPE, "network.heads=4", *words)
    assert answer.code == 0, answer.err
    return path


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_lora_draws_the_same_picture_in_a_pipeline(form: str, adapter: Path, run_1: Path, export: Callable) -> None:
    pipeline = opened(export(run_1, "layout=diffusers", out="base"))
    out = export(adapter, "layout=lora", f"lora_format={form}", out="lora")
    plain = theirs(pipeline, run_1)
    pipeline.load_lora_weights(str(out), weight_name=None if form == "diffusers" else "lora.safetensors")
    drawn = theirs(pipeline, run_1)
    same_picture(ours(adapter), drawn)
    assert (drawn - plain).abs().max() * 127.5 > 5
    same_picture(ours(run_1, next(out.glob("*.safetensors"))), drawn)


def test_a_pipeline_of_a_run_with_adapters_has_them_merged(adapter: Path, export: Callable) -> None:
    same_picture(ours(adapter), theirs(opened(export(adapter, "layout=diffusers")), adapter))


# The tokenizer and the text encoder

CAPTIONS = [
    *("a black circle on a red background", "", "Hello!! World! it's 1999, naïve café 東京 🍎", "  many   spaces\n"),
    *("x" * 300, "don't & <b>", "a_b-c.d e/f", "the the " * 60, "ÀÉ I'LL 12345", "!"),
]


@pytest.mark.parametrize("pad", [0, 49407])
def test_the_tokenizer_gives_the_same_numbers(pad: int, tmp_path: Path) -> None:
    encoder = small(width=16, layers=1, heads=2, context_length=16)
    encoder.pad_token = pad
    for name, text in tokenizer_files(encoder).items():
        (tmp_path / name).write_text(text)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    found = tokenizer(CAPTIONS, padding="max_length", max_length=16, truncation=True).input_ids
    assert found == encoder.tokenize(CAPTIONS).tolist()


def test_of_a_penultimate_layer_the_last_one_stays_here(tmp_path: Path) -> None:
    made = small(width=32, layers=3, heads=2, context_length=16)
    encoder = TextEncoder(made.tower, context_length=16, pad_token=0, trained=False, pooled=False, layer="penultimate")
    left = text_out(encoder)
    assert left.config["num_hidden_layers"] == 2
    assert {name.split(".")[2] for name in left.unused} == {"2"}
    (tmp_path / "config.json").write_text(json.dumps(left.config))
    write_tensors(tmp_path / "model.safetensors", as_transformers(left), dtype=torch.float32)
    tokens = encoder.tokenize(["a black circle"])
    with torch.no_grad():
        theirs = CLIPTextModel.from_pretrained(tmp_path)(tokens).last_hidden_state
        assert_close(encoder.embed(tokens), theirs, rtol=1e-4, atol=1e-5)


# The folder


def test_a_folder_that_no_export_wrote_is_left_alone(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("kept")
    words = [f"run_dir={trained}", "layout=diffusers"]
    answer = ldm_train("export", *words, f"out={tmp_path}/mine")
    assert answer.code == 1
    assert "was not written by `ldm-train export`" in answer.err
    for own in (trained, trained.parent):
        assert "out=" in ldm_train("export", *words, f"out={own}", "overwrite=true").err
    assert ldm_train("export", *words, f"out={tmp_path}/mine", "overwrite=true").code == 0
    assert not (tmp_path / "mine/file").exists()
    assert ldm_train("export", *words, f"out={tmp_path}/mine").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out", {}) as folder:
        (folder / "a").write_text("first")

    def fail() -> None:
        with whole_folder(tmp_path / "out", {}) as folder:
            (folder / "a").write_text("second")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert (tmp_path / "out/a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("layout=diffusers", "out={tmp}/a.safetensors"), "must be a folder with layout=diffusers"),
        (("layout=diffuser",), "layout=diffuser is not known"),
        (("layout=diffusers", "lora_format=kohya"), "lora_format=kohya has no effect with layout=diffusers"),
        (("layout=lora", "merge=true"), "merge=true has no effect with layout=lora"),
        (("out={tmp}/a.safetensors", "dtype=float16"), "dtype=float16 has no effect without layout="),
        (("layout=diffusers", "weights=best"), "weights=best cannot be exported"),
    ],
)
def test_settings_that_do_nothing_are_refused(
    words: tuple[str, ...], message: str, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    answer = ldm_train("export", f"run_dir={trained}", f"out={tmp_path}/out", *(word.format(tmp=tmp_path) for word in words))
    assert answer.code == 1
    assert message in answer.err
    assert list(tmp_path.iterdir()) == []


def test_diffusers_own_network_leaves_as_it_is(run_dir: Path, ldm_train: Callable, export: Callable, tmp_path: Path) -> None:
    words = ("network=diffusers_unet", "network.block_out_channels=[32,64]", "network.layers_per_block=1")
    blocks = (
        "network.down_block_types=[CrossAttnDownBlock2D,DownBlock2D]",
        "network.up_block_types=[UpBlock2D,CrossAttnUpBlock2D]",
        "network.attention_head_dim=4",
    )
    short = ("trainer.accelerator=cpu", "threads=1", "batch_size=4", "max_steps=2", "pictures.every=9", "validation.every=9")
    told = [f"cache={read_config(str(run_dir)).cache}", f"run_dir={tmp_path}/run", "scale_check=false", "metrics.every=null"]
    answer = ldm_train("train", *told, *words, *blocks, *short, "optimizer.lr=0.02", "lr_schedule.warmup_steps=1")
    assert answer.code == 0, answer.err
    same_picture(ours(tmp_path / "run"), theirs(opened(export(tmp_path / "run", "layout=diffusers")), tmp_path / "run"))
