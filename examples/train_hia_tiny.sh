#!/usr/bin/env bash
# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
#
# Trains hia-tiny from nothing and scores it: autoencoder, two stages of narrow networks, four stages of wide ones that
# start with the weights of these, half precision, ProcDance-v1. From the folder of the repository:
#
#   examples/train_hia_tiny.sh [OPTION ...]
#
# All is written below runs/tiny; the pipeline is runs/tiny/hia-tiny, its metrics runs/tiny/scores.json. The options go
# to every stage. After an interruption, the same command resumes the run. LAUNCH is the command that runs a stage:
# by default processes on a CPU of one thread each, two for the narrow networks and one for the wide ones.

set -euo pipefail

runs=runs/tiny
examples=$(dirname "$0")

if [[ ! -e $runs/vae/config.json ]]; then
    python "$examples/train_autoencoder.py" --from_scratch "$examples/configs/hia-tiny-networks.yaml" \
        --procedural_clips 100000 --size 96x160 --max_train_steps 0 --output_dir "$runs/vae"
fi
if [[ ! -e $runs/start/model_index.json ]]; then
    # Networks as small as these hardly learn to predict noise.
    python -m hia_diffusers convert parts --base "$examples/configs/hia-tiny-networks.yaml" --vae "$runs/vae" \
        --prediction_type sample --output "$runs/start"
fi
narrow=${LAUNCH:-} wide=${LAUNCH:-}
if [[ -z ${LAUNCH:-} ]]; then
    export ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1
    narrow="python -m torch.distributed.run --nproc_per_node 2" wide=python
fi
STAGES="spatial regional" LAUNCH=$narrow "$examples/train_all_stages.sh" "$runs" "$examples/configs/hia-tiny.yaml" "$@"
if [[ ! -e $runs/wide-start/model_index.json ]]; then
    python -m hia_diffusers convert parts --base "$examples/configs/hia-tiny-wide-networks.yaml" --vae "$runs/vae" \
        --prediction_type sample --output "$runs/wide-random"
    python "$examples/widen_networks.py" --model "$runs/regional" --wide "$runs/wide-random" --output "$runs/wide-start"
fi
LAUNCH=$wide "$examples/train_all_stages.sh" "$runs/wide" "$examples/configs/hia-tiny-wide.yaml" "$@"
python - "$runs/wide/temporal-full" "$runs/hia-tiny" <<'END'
import json
import sys
from pathlib import Path

import torch

from hia_diffusers import HIAPipeline

pipe = HIAPipeline.from_pretrained(sys.argv[1], dtype=torch.float16)
# Chosen on validation clips.
pipe.register_to_config(call_defaults={"num_inference_steps": 3, "guidance_scale": 1.25, "shared_noise": 1.0})
pipe.save_pretrained(sys.argv[2])
for path in Path(sys.argv[2]).rglob("*.json"):  # where it was trained is nobody's business
    config = {name: value for name, value in json.loads(path.read_text()).items() if name != "_name_or_path"}
    path.write_text(json.dumps(config, indent=2) + "\n")
END
python -m hia_diffusers evaluate --dataset procdance-v1 --model "$runs/hia-tiny" --dtype bfloat16 \
    --output "$runs/scores.json"
