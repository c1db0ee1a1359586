"""What rows of a cache are named by: every setting of every encoder gives another identity, or changes nothing stored.

A setting that is added later fails here until the tables say another value for it.
"""

import inspect
import json
from collections.abc import Callable, Iterator

import open_clip
import pytest
import torch
from diffusers import AutoencoderKL
from open_clip.model import CLIPTextCfg
from open_clip.transformer import TextTransformer
from safetensors.torch import save_file
from torch import Tensor

from ldm_train.autoencoders.autoencoder import IdentityAutoencoder, KLAutoencoder, NewKLAutoencoder, pretrained
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.clip_tower import build_tower, read_text_settings
from ldm_train.conditioners.text_encoder import clip, small
from ldm_train.conditioners.text_tower import describe_tower
from ldm_train.training.encoding import Encoding

Values = dict[str, object]

TEXTS = ["", "a red apple", "two cats, a <toy> and a dog under the old oak tree by the river"]
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
LENGTH, WIDTH, HEADS, LAYERS = 10, 32, 4, 3


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Small architectures in open_clip's registry: of either activation, and of other heads."""
    folder = tmp_path_factory.mktemp("models")
    text = {"context_length": LENGTH, "vocab_size": 49408, "width": WIDTH, "heads": HEADS, "layers": LAYERS}
    vision = {"image_size": 16, "layers": 1, "width": 32, "patch_size": 16}
    names = {"own": ({}, False), "own-quick": ({}, True), "own-heads": ({"heads": 2}, False)}
    for name, (changes, quick) in names.items():
        content = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text | changes, "quick_gelu": quick}
        (folder / f"{name}.json").write_text(json.dumps(content))
    open_clip.add_model_config(folder)
    yield
    from open_clip import factory

    for name in names:
        factory._MODEL_CONFIGS.pop(name)
    factory._MODEL_CONFIG_PATHS.remove(folder)


@pytest.fixture(scope="module")
def towers(models: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Files of a text transformer's weights by their seed, which tell neither activation nor heads."""
    folder = tmp_path_factory.mktemp("towers")

    def saved(seed: int) -> str:
        path = folder / f"{seed}.safetensors"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            state = build_tower("own", read_text_settings("own")).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        return str(path)

    return saved


@pytest.fixture(scope="module")
def autoencoders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Folders of autoencoders by their seed."""
    folder = tmp_path_factory.mktemp("autoencoders")

    def saved(seed: int) -> str:
        NewKLAutoencoder([8, 16], groups=4).initialise(seed).save(folder / str(seed) / "vae", shift=0.5, scale=2.0)
        return str(folder / str(seed))

    return saved


def stored(part: object) -> dict[str, Tensor]:
    """What a cache would hold."""
    if isinstance(part, KLAutoencoder | IdentityAutoencoder):
        encoding = Encoding(part, ClassLabels(classes=["any"]), dtype=torch.float32).eval()
        return encoding.pictures(IMAGES)
    encoding = Encoding(IdentityAutoencoder(), part, dtype=torch.float32).eval()  # type: ignore[arg-type]
    return encoding.captions(TEXTS if not isinstance(part, ClassLabels) else ["", *part.classes])


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def check_every_setting(make: Callable[..., object], base: Values, others: dict[str, list[object]], where: Values) -> None:
    """Change every setting of a constructor by itself, where the others are such that it counts."""
    assert inspect.signature(make).parameters.keys() == others.keys() | base.keys()
    for name, values in others.items():
        for value in values:
            first, second = make(**base | where), make(**base | where | {name: value})
            if first.identity == second.identity:  # type: ignore[attr-defined]
                assert same(stored(first), stored(second)), f"{name}={value} changes what is stored, and not its name"


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("new_words", [[], ["<toy>=wooden toy"]])
def test_every_setting_of_the_small_text_encoder(trained: bool, new_words: list[str]) -> None:
    others: dict[str, list[object]] = {
        "width": [64],
        "layers": [1],
        "heads": [2],
        "context_length": [12],
        "chunks": [2],
        "trained": [not trained],
        "pooled": [False],
        "new_words": [["<toy>=red apple"], ["<toy>=toy"], ["<cat>=wooden toy"]],
    }
    check_every_setting(small, {}, others, {"width": 32, "trained": trained, "new_words": new_words})


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_every_setting_of_a_published_text_encoder(trained: bool, layer: str, towers: Callable[[int], str]) -> None:
    others: dict[str, list[object]] = {
        "model": ["own-quick", "own-heads"],
        "weights": [towers(1)],
        "pad_token": [49407],
        "chunks": [2],
        "layer": ["last" if layer == "penultimate" else "penultimate"],
        "trained": [not trained],
        "pooled": [True],
        "new_words": [["<toy>=red apple"]],
    }
    where = {"model": "own", "weights": towers(0), "pad_token": 0, "trained": trained, "layer": layer}
    check_every_setting(clip, {}, others, where)


def test_every_setting_of_class_labels() -> None:
    others: dict[str, list[object]] = {"classes": [["b", "a"], ["a", "b", "c"]], "width": [4]}
    check_every_setting(ClassLabels, {}, others, {"classes": ["a", "b"]})


def test_every_setting_of_a_published_autoencoder(autoencoders: Callable[[int], str]) -> None:
    folder = autoencoders(0)
    others: dict[str, list[object]] = {
        "weights": [autoencoders(1), f"{folder}/vae"],
        "subfolder": ["vae"],
        "scale": [3.0],
        "shift": [0.1],
    }
    check_every_setting(pretrained, {}, others, {"weights": folder})


def test_every_setting_of_diffusers_own_network() -> None:
    def make(**settings: object) -> KLAutoencoder:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            autoencoder = KLAutoencoder(AutoencoderKL(**settings)).eval()
        return autoencoder

    where: Values = {"norm_num_groups": 4, "block_out_channels": (8,)}
    others: dict[str, object] = {
        "in_channels": None,  # of pictures, which have three
        "out_channels": 4,
        "down_block_types": ("AttnDownEncoderBlock2D",),
        "up_block_types": ("AttnUpDecoderBlock2D",),
        "block_out_channels": (16,),
        "layers_per_block": 2,
        "act_fn": "gelu",
        "latent_channels": 8,
        "norm_num_groups": 8,
        "sample_size": 64,
        "scaling_factor": 0.5,
        "shift_factor": 0.5,
        "latents_mean": (1.0,),
        "latents_std": (2.0,),
        "force_upcast": False,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "mid_block_add_attention": False,
    }
    assert inspect.signature(AutoencoderKL).parameters.keys() == others.keys()
    first = make(**where)
    for name, value in others.items():
        if value is not None:
            second = make(**where | {name: value})
            assert first.identity != second.identity or same(stored(first), stored(second)), name


def test_every_setting_of_open_clips_text_transformers() -> None:
    """Of weights that agree in names and shapes, so that only the settings tell them apart."""
    left_out = {
        "vocab_size",
        "hf_tokenizer_name",
        "tokenizer_mode",
        "tokenizer_kwargs",
    }  # of tokenizers, of which one is used
    left_out |= {"hf_model_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"}  # of other transformers
    left_out |= {"output_tokens", "proj_type", "proj_bias"}  # of the projection, which is left out
    others: dict[str, object] = {
        "context_length": 12,
        "width": 64,
        "heads": 2,
        "layers": 2,
        "mlp_ratio": 2.0,
        "ls_init_value": 0.1,
        "embed_cls": True,
        "pad_id": 5,
        "eos_id": 3,
        "no_causal_mask": True,
        "final_ln_after_pool": True,
        "pool_type": "last",
        "act_kwargs": {"approximate": "tanh"},
        "norm_kwargs": {"eps": 1e-2},
        "block_type": "custom",
        "qk_norm": True,
        "scaled_cosine_attn": True,
        "scale_heads": True,
        "scale_attn_inner": True,
        "scale_attn": True,
        "scale_fc": True,
    }
    assert inspect.signature(CLIPTextCfg).parameters.keys() == others.keys() | left_out
    tokens = torch.randint(0, 49408, (2, LENGTH), generator=torch.Generator().manual_seed(0))

    def make(**changes: object) -> TextTransformer:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build_tower("own", read_text_settings("own") | changes).eval()

    @torch.no_grad()
    def states(tower: TextTransformer) -> Tensor:
        given = {"normalize_intermediates": True, "intermediates_only": True, "output_fmt": "NLC"}
        found = tower.forward_intermediates(tokens, indices=1, **given)  # type: ignore[arg-type]
        return found["text_intermediates"][0]

    first = make()
    settings, weights = describe_tower(first, layers=LAYERS)
    for name, value in others.items():
        second = make(**{name: value})
        other_settings, other_weights = describe_tower(second, layers=len(second.transformer.resblocks))
        if other_settings == settings and same(weights, other_weights):
            assert torch.equal(states(first), states(second)), f"{name}={value}"


def test_a_setting_that_is_spelled_out_is_the_default(towers: Callable[[int], str]) -> None:
    given = {"model": "own", "weights": towers(0), "pad_token": 0}
    assert clip(**given).identity == clip(**given, chunks=1, layer="last", new_words=[]).identity  # type: ignore[arg-type]
    assert small().identity == small(width=128, layers=2, heads=4, context_length=16, pooled=True).identity


def test_neither_the_module_nor_the_class_is_in_it(towers: Callable[[int], str]) -> None:
    parts = [small(width=32, trained=False), ClassLabels(classes=["a"]), IdentityAutoencoder(), NewKLAutoencoder([8])]
    for part in parts:
        text = json.dumps(part.identity)
        assert "ldm_train" not in text
        assert type(part).__name__ not in text


def test_a_decoder_that_was_tuned_by_itself_leaves_the_latents_and_their_name() -> None:
    one, other = (NewKLAutoencoder([8, 16], groups=4).initialise(0).eval() for _ in range(2))
    for parameter in other.model.decoder.parameters():
        parameter.data += 1
    assert one.identity == other.identity
    assert same(stored(one), stored(other))
    for parameter in other.model.encoder.parameters():
        parameter.data += 1
    assert one.identity != other.identity
