#!/usr/bin/env bash
# From the quick start's model and a folder of one's own pictures to a LoRA, and its pictures next to the base model's.
#   scripts/finetune_demo.sh           a dozen pictures of a rocket, which the model never saw
#   scripts/finetune_demo.sh FOLDER    your own: pictures with FOLDER/metadata.jsonl, or a NAME.txt next to each, for captions
# A second run goes on from the first. The quick start is run before, if it was not yet.
# It stops before training if the base model's autoencoder loses your pictures (below 25 dB): ANYWAY=1 trains nevertheless.
set -euo pipefail
folder=${1:+$(realpath "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

setup quickstart
export HF_HUB_OFFLINE=1 # everything needed is here
base=outputs/quickstart
run python scripts/prepare_glyph.py data/rocket --class-prompts data/class_prompts.txt
folder=${folder:-data/rocket}
name=$(basename "$folder" | tr -c 'A-Za-z0-9._\n-' _)
cache=caches/finetune_$name out=outputs/finetune_$name prompts=caches/finetune_$name.prompts.txt

run ldm-train encode source=folder "source.path='${folder//\'/\\\'}'" image_size=64 cache=$cache autoencoder=openmoji text_encoder=small

# What the autoencoder cannot decode, no LoRA on this base can draw.
psnr=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["psnr"])' $cache/quality.json)
if python -c "import sys; sys.exit($psnr >= 25)"; then
    cat <<END

Your pictures come back from the base model's autoencoder at $psnr dB, below 25: look at $cache/reconstructions.png.
A LoRA on this base cannot draw them better than that. Train a model of your own by one of the ways that are printed above, or
fine-tune another base (docs/fine-tuning.md). ANYWAY=1 bash scripts/finetune_demo.sh FOLDER trains nevertheless.
END
    if [ -z "${ANYWAY:-}" ]; then exit 1; fi
fi
if [ ! -f $base/checkpoints/last.ckpt ]; then run scripts/quickstart.sh; fi
SECONDS=0

python - $cache/captions.jsonl >$prompts <<'END' # up to eight captions, one a line
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    captions = [" ".join(caption.split()) for caption in map(json.loads, file)]
print("\n".join([caption for caption in captions if caption][:8]))
END
run ldm-train train cache=$cache run_dir=$out experiment=finetune_openmoji adapter=lora adapter.rank=16 adapter.text_encoder=true optimizer.lr=2e-3 \
    prior.prompts=data/class_prompts.txt prior.count=300 max_steps=800
run ldm-train sample run_dir=$out out=$out/pictures guidance.scale=1.25 prompts=$prompts labels=true
run ldm-train sample run_dir=$base out=$out/before guidance.scale=1.25 prompts=$prompts labels=true
echo
run python scripts/compare_with_base.py "$folder" $out/before $out/pictures --out $out/comparison.json

cat <<END

Done in $((SECONDS / 60)) min $((SECONDS % 60)) s.
  before    $out/before/grid.png     (the quick start's model, the same prompts and noise)
  after     $out/pictures/grid.png
  LoRA      $out                     (stands on $base: keep that)
  classes   $out/prior/pictures      (what the model drew of what it knew, trained on next to yours)

The same LoRA at another strength, on the quick start's model:
  ldm-train sample run_dir=$base 'adapters={$out:0.7}' guidance.scale=1.25 out=$out/weaker prompts=$prompts
END
