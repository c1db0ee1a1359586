"""The small text transformer, bit for bit open_clip's."""

import pytest
import torch
from open_clip.transformer import TextTransformer

from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.conditioners.text_tower import VOCABULARY, SmallTower
from ldm_train.types import CaptionBatch

SIZES = {"vocab_size": VOCABULARY, "width": 16, "layers": 3, "heads": 2, "context_length": 8}


def build_both():
    with torch.random.fork_rng():
        towers, states = [], []
        for make in (lambda: SmallTower(**SIZES), lambda: TextTransformer(**SIZES, output_dim=SIZES["width"])):
            torch.manual_seed(0)
            towers.append(make())
            states.append(torch.get_rng_state())
    assert torch.equal(*states)
    return towers


def test_names_and_first_weights_are_open_clips():
    own, published = build_both()
    assert [*own.state_dict()] == [*published.state_dict()]
    assert all(torch.equal(tensor, published.state_dict()[name]) for name, tensor in own.state_dict().items())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_states_identity_and_gradients_are_open_clips(layer, autocast):
    options = {"context_length": 8, "pad_token": 0, "trained": True, "pooled": True, "chunks": 2, "layer": layer}
    encoders = [TextEncoder(tower, **options) for tower in build_both()]
    assert encoders[0].computation == encoders[1].computation
    tokens = encoders[0].tokenize(["a red apple", "two cats and a dog under the old oak tree", ""])
    found = []
    for encoder in encoders:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            conditioning = encoder(CaptionBatch(tokens))
        (conditioning.tokens.float().square().mean() + conditioning.vector.float().sum()).backward()
        gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
        found.append([conditioning.tokens, conditioning.vector, *gradients])
    assert [one.dtype for one in found[0]] == [one.dtype for one in found[1]]
    if autocast:  # the small tower's attention computes in float32 on a CPU, for speed
        own, published = (torch.cat([one.float().flatten() for one in parts]) for parts in found)
        assert (own - published).norm() <= 0.02 * published.norm()
    else:
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
