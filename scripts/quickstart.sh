#!/usr/bin/env bash
# From nothing to pictures: install, draw the data set, encode, train, evaluate, sample. A second run continues the first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

setup quickstart
export HF_HUB_OFFLINE=1 # everything needed is here
SECONDS=0
out=outputs/quickstart

run python scripts/prepare_openmoji.py data/openmoji
run ldm-train check source=folder source.path=data/openmoji experiment=openmoji out=outputs/check
run ldm-train encode source=folder source.path=data/openmoji image_size=64 cache=caches/openmoji autoencoder=openmoji text_encoder=small
run ldm-train train cache=caches/openmoji run_dir=$out experiment=openmoji
run ldm-train evaluate run_dir=$out out=$out/metrics.json
run ldm-train report run_dir=$out out=$out/report.html
run ldm-train sample run_dir=$out out=$out/pictures \
    'prompts=["a rat on a white background","a tiger on a blue background","an owl on a purple background","a red apple on a green background","a cactus on a pink background","a hamburger on a yellow background","a fox on a gray background","a doughnut on an orange background"]'

cat <<END

Done in $((SECONDS / 60)) min $((SECONDS % 60)) s after installation.
  check         outputs/check/check.html    (what was read before, and what it would cost)
  report        $out/report.html            (curves, pictures over the training, metrics; one file, in any browser)
  pictures      $out/pictures/grid.png      (the prompts above, left to right)
                $out/metrics.png            (held-out drawings: true above, drawn below)
                $out/samples/               (while it trained: growth.png is all of it, reverse-* and forward-* are film strips)
  metrics       $out/metrics.json           (and metrics.md, for people)
  checkpoint    $out/checkpoints/last.ckpt

The numbers in metrics.json are of (drawing, background) pairs that no stage of the training saw:
  retrieval_at_1       how often the nearest of all hundred drawings on the asked background is the asked one
  background_accuracy  how often the corners have the asked colour
  drawing_psnr         likeness to the true drawing, dB; autoencoder_psnr is what its latents allow
  kid_…, fid_…         distances between the sets of drawn and true pictures, by the features of the network that they name
  validation_loss      the training loss on held-out examples; validation_noise_mse the error of the noise it implies

Look at the curves and pictures of any runs, also while they train:
  $(command -v tensorboard) --logdir outputs
END
