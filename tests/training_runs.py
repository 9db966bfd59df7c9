# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Runs examples/train_hia.py several times in the processes of one launch, which take longer to start than a run.

    accelerate launch --config_file CONFIG tests/training_runs.py RUNS.json

The file holds a list of argument lists.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState


SCRIPT = Path(__file__).parents[1] / "examples" / "train_hia.py"


def load_script():
    specification = importlib.util.spec_from_file_location("train_hia", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    return script


def main(runs):
    script = load_script()
    PartialState.destroy_process_group = lambda self, group=None: None  # the next run needs it
    for arguments in runs:
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            # accelerate has FSDP between GPUs only; torch has it between processes on the CPU as well.
            Accelerator().state.fsdp_plugin = FullyShardedDataParallelPlugin()
            PartialState().distributed_type = DistributedType.FSDP
        script.train(script.parse_args(arguments))
        AcceleratorState._reset_state()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
