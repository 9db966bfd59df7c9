# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What a LoRA of one procedural person learns, by the number of clips and of steps. Needs no GPU.

python benchmarks/one_person.py --output build/one_person [--clips 1 50] [--steps 100 300]

hia-tiny has never seen the person. For each number of clips, examples/train_hia.py trains one LoRA of its spatial
layers, 4 samples of 96x160 a step, and resumes from each number of steps to the next. The averaged weights of each are
scored in the whole pipeline, motion modules included, with the call defaults of hia-tiny, on clips of 8 frames: the
person in dances that were trained on, the person in other dances and places, and other people. PSNR in dB, without a
LoRA first. Writes one_person.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from hia_diffusers import HIA_TINY, HIAPipeline, MotionBlurConditioner
from hia_diffusers.metrics.evaluation import VideoEvaluation
from hia_diffusers.procedural.scene import ProceduralScene


SCRIPT = Path(__file__).parents[1] / "examples" / "train_hia.py"
HEIGHT, WIDTH, NUM_FRAMES = 160, 96, 8
PERSON = 100_000  # hia-tiny was trained on people of lower numbers
UNSEEN = 200_000  # likewise for dances and places
NUM_CLIPS = 4

# Of each kind, the clips by person, dance and place. Those of the first kind are of the first clips of a training.
KINDS = {
    "the person, trained dances": [(PERSON, number, number) for number in range(NUM_CLIPS)],
    "the person, other dances": [(PERSON, UNSEEN + number, UNSEEN + number) for number in range(NUM_CLIPS)],
    "other people": [(UNSEEN + number, UNSEEN + number, UNSEEN + number) for number in range(NUM_CLIPS)],
}


def score(pipe, clips):
    """PSNR of whole frames and of the face, means over the clips."""
    evaluation = VideoEvaluation()
    conditioner = MotionBlurConditioner.for_size(HEIGHT, WIDTH)
    for number, (identity, motion, setting) in enumerate(clips):
        scene = ProceduralScene("train", identity=identity, motion=motion, setting=setting)
        clip = scene.render(range(NUM_FRAMES), HEIGHT, WIDTH)
        reference = torch.from_numpy(scene.render([60], HEIGHT, WIDTH).frames).permute(0, 3, 1, 2) / 255
        generator = torch.Generator().manual_seed(number)
        condition = conditioner(clip.keypoints, clip.frames)
        frames = pipe(reference, condition, generator=generator, output_type="np").frames[0]
        generated = np.rint(frames * 255).astype(np.uint8)
        evaluation.add(str(number), generated, clip.frames, clip.face_mask, clip.hand_masks)
    metrics = evaluation.metrics()
    return {name: metrics[name]["value"] for name in ("psnr", "face_psnr")}


def train(folder, num_clips, steps, options):
    command = [
        *(sys.executable, SCRIPT, "--stage", "spatial", "--pretrained_model_name_or_path", HIA_TINY),
        *("--procedural_clips", num_clips, "--procedural_person", PERSON, "--sizes", f"{WIDTH}x{HEIGHT}"),
        *("--samples_per_clip", max(1, 400 // num_clips), "--horizontal_flip_probability", 0),
        *("--train_batch_size", 4, "--gradient_accumulation_steps", 1, "--lr_warmup_steps", 10),
        *("--use_ema", "--ema_decay", 0.98, "--checkpointing_steps", 10**6, "--resume_from_checkpoint", "latest"),
        *("--max_train_steps", steps, "--output_dir", folder, *options),
    ]
    subprocess.run([str(word) for word in command], check=True, stderr=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 50], help="numbers of clips (default: 1 50)")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300], help="numbers of steps (default: 100 300)")
    parser.add_argument("--lora_rank", default="8", help="rank of the LoRA (default: 8)")
    parser.add_argument("--learning_rate", default="2e-3", help="learning rate (default: 2e-3)")
    args = parser.parse_args()
    options = ("--lora_rank", args.lora_rank, "--learning_rate", args.learning_rate)

    pipe = HIAPipeline.from_pretrained(HIA_TINY)
    pipe.set_progress_bar_config(disable=True)
    rows = [{"clips": 0, "steps": 0, **{kind: score(pipe, clips) for kind, clips in KINDS.items()}}]
    print(json.dumps(rows[-1]), flush=True)
    for num_clips in args.clips:
        kinds = {**KINDS, "the person, trained dances": KINDS["the person, trained dances"][:num_clips]}
        for steps in args.steps:
            folder = args.output / f"{num_clips}-clips"
            train(folder, num_clips, steps, options)
            pipe.load_lora_weights(folder)
            rows.append(
                {"clips": num_clips, "steps": steps, **{kind: score(pipe, clips) for kind, clips in kinds.items()}}
            )
            pipe.unload_lora_weights()
            print(json.dumps(rows[-1]), flush=True)
    (args.output / "one_person.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
