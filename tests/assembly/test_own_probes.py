"""Own networks, text encoders and autoencoders are called once before a run reads anything; what is wrong is named."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ldm_train.assembly.own_part_probes import probe_encoders, probe_parts
from ldm_train.assembly.parts import Parts
from ldm_train.diffusion.prediction import Noise
from ldm_train.diffusion.schedules.named import scaled_linear
from ldm_train.diffusion.weighting import UniformWeight
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.types import CaptionBatch, Conditioning, Moments


class Words(nn.Module):
    context_width, vector_width = 4, None

    def __init__(self, **found: object) -> None:
        super().__init__()
        self.weight, self.trained = nn.Parameter(torch.zeros(1)), found.get("trained", True)
        self.tokens = found.get("tokens", torch.zeros(2, 3, dtype=torch.long))
        self.counts = found.get("counts", [3, 3])
        self.conditioning = found.get("conditioning", Conditioning(tokens=torch.zeros(2, 3, 4)))

    def tokenize(self, captions: list[str]) -> object:
        return self.tokens

    def count(self, captions: list[str]) -> object:
        return self.counts

    def forward(self, captions: CaptionBatch) -> object:
        return self.conditioning


class Pooled(nn.Module):
    channels, factor = 3, 2

    def __init__(self, decoded: int = 8, log_variance: Tensor | None = None, bare: bool = False) -> None:
        super().__init__()
        self.decoded, self.log_variance, self.bare = decoded, log_variance, bare

    def encode(self, images: Tensor) -> object:
        mean = nn.functional.avg_pool2d(images, 2)
        return mean if self.bare else Moments(mean, self.log_variance)

    def decode(self, raw_latents: Tensor) -> Tensor:
        return torch.zeros(len(raw_latents), 3, self.decoded, self.decoded)


class Network(nn.Module):
    def __init__(self, change: object = lambda x: x) -> None:
        super().__init__()
        self.change, self.factor = change, nn.Parameter(torch.ones(()))

    def forward(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> object:
        return self.change(x_t * self.factor)  # type: ignore[operator]


class InPlace(Network):
    def forward(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> object:
        return super().forward(x_t.mul_(0), t, conditioning)


def settings() -> TrainSettings:
    own = {group: Part(f"mine.{group}", {}) for group in ("network", "autoencoder", "text_encoder")}
    return compose_as(TrainSettings, ["cache=c", "run_dir=r"]).with_values(**own, image_size=8)


def probe(*, network: nn.Module | None = None, text: nn.Module | None = None, autoencoder: nn.Module | None = None) -> None:
    parts = [network or Network(), text or Words(), autoencoder or Pooled()]
    probe_parts(Parts(*parts, scaled_linear(), Noise(), UniformWeight(), 8), settings())  # type: ignore[arg-type]


def test_what_fits_passes_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    probe(network=Network(lambda x: x + torch.randn(())))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x[:, :1], r"\(2, 3, 4, 4\).*\(2, 1, 4, 4\)"),
        (lambda x: None, "None"),
        (lambda x: (x,), "tuple"),
        (lambda x: x @ torch.zeros(9, 9), "RuntimeError"),
        (lambda x: x.detach(), "gradient"),
        (lambda x: x.round().long(), "floating-point.*int64"),
        (lambda x: x.to("meta"), "device.*meta"),
        (lambda x: x * float("nan"), "finite"),
    ],
)
def test_a_networks_output(change: object, says: str) -> None:
    with pytest.raises(ValueError, match=rf"network._target_=mine\.network.*{says}"):
        probe(network=Network(change))


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"tokens": [[1]]}, "tokenize"),
        ({"trained": False}, "requires_grad_"),
        ({"tokens": torch.zeros(2, 0, dtype=torch.long)}, "at least one id"),
        ({"counts": [None, None]}, "count .*None"),
        ({"tokens": torch.zeros(2, 3)}, "tokenize.*float32"),
        ({"conditioning": torch.zeros(2, 4)}, "Conditioning.*Tensor"),
        ({"conditioning": Conditioning(vector=torch.zeros(2, 4))}, "context_width=4"),
        ({"conditioning": Conditioning(tokens=torch.zeros(2, 3, 5))}, r"\(2, 3, 4\).*\(2, 3, 5\)"),
        ({"conditioning": Conditioning(tokens=torch.zeros(2, 3, 4), mask=torch.ones(2, 2))}, r"mask.*\(2, 3\)"),
    ],
)
def test_a_text_encoders_output(found: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=rf"text_encoder._target_=mine\.text_encoder.*{says}"):
        probe(text=Words(**found))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Pooled(bare=True), "Moments.*Tensor"),
        (Pooled(decoded=4), r"decode.*\(2, 3, 8, 8\).*\(2, 3, 4, 4\)"),
        (Pooled(log_variance=torch.zeros(2, 3, 1, 1)), "log_variance"),
    ],
)
def test_an_autoencoders_output(made: nn.Module, says: str) -> None:
    with pytest.raises(ValueError, match=rf"autoencoder._target_=mine\.autoencoder.*{says}"):
        probe(autoencoder=made)


def test_a_network_that_changes_what_it_gets_is_refused() -> None:
    with pytest.raises(ValueError, match=r"network._target_=mine\.network.*x_t in place"):
        probe(network=InPlace())


def test_a_network_without_trained_weights_is_refused() -> None:
    with pytest.raises(ValueError, match=r"network._target_=mine\.network.*no trained parameters"):
        probe(network=Network().requires_grad_(False))


def test_shipped_parts_are_not_called() -> None:
    shipped = compose_as(TrainSettings, ["cache=c", "run_dir=r", "autoencoder=identity", "text_encoder=small"])
    nothing = SimpleNamespace()
    probe_encoders(nothing, nothing, shipped.with_values(image_size=8))  # type: ignore[arg-type]
