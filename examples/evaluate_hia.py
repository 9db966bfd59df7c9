# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Scores predicted videos against the true ones, by the paper's protocol and by what it does not look at.

python examples/evaluate_hia.py --predictions DIR --targets DIR --output scores.json
python examples/evaluate_hia.py --dataset procdance-v1 --model ID_OR_PATH --output scores.json

It is `hia-diffusers evaluate`; from Python, `hia_diffusers.metrics.evaluation` has the measures.
"""

from hia_diffusers.commands.evaluate import main


if __name__ == "__main__":
    main(prog="evaluate_hia.py")
