# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Memory and time of a clip on graphics cards, and the settings with which it fits, as a table.

python benchmarks/cards.py [--cards NAME=GIB:TFLOPS:GB_PER_S ...] [--sizes 512x768 ...] [--lengths 16 128 ...]

Nothing here is measured. Networks have Stable Diffusion 1.5's size, in float16. Memory is counted by
`hia_diffusers.memory.fitting`, which `pipe.fit_memory` and `--memory auto` use; a card has `--held` GiB less than its
size, for the CUDA context and the display. Minutes are those of denoising: the operations (`benchmarks/flops.py`) at
`--share` of the card's peak in float16, or the transfer of the weights that each step moves to the card if that takes
longer.
"""

import argparse
from dataclasses import dataclass

import torch
from flops import load_networks, parts_of_clip
from small_gpu import pipeline_on_meta

from hia_diffusers.memory.counting import gibibytes, num_bytes
from hia_diffusers.memory.fitting import DESCRIPTIONS, USABLE, count_windows, plan_memory


# Memory in GiB, peak rate in TFLOP/s and bus in GB/s, of typical cards of these sizes; assumed.
CARDS = ("8 GB=8:30:16", "12 GB=12:25:32", "16 GB=16:100:32", "24 GB=24:165:32")


def seconds_of(networks, plan, card, num_windows, args):
    """Return the time of denoising all windows."""
    operations = sum(part.operations * part.calls for part in parts_of_clip(networks, args))
    moved = 2 * num_bytes(networks.unet) + num_bytes(networks.controlnet)  # by each step, one block after the other
    moving = num_windows * args.num_inference_steps * moved / card.bus if plan.mode in ("group", "sequential") else 0
    return max(num_windows * operations / (args.share * card.rate), moving)


@dataclass(frozen=True)
class Card:
    """A graphics card: its memory in bytes, operations per second, and bytes per second of the bus."""

    name: str
    memory: float
    rate: float
    bus: float

    @classmethod
    def parse(cls, text):
        """Read NAME=GIB:TFLOPS:GB_PER_S."""
        name, _, numbers = text.rpartition("=")
        memory, rate, bus = map(float, numbers.split(":"))
        return cls(name, memory * 2**30, rate * 1e12, bus * 1e9)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", nargs="+", type=Card.parse, default=[Card.parse(card) for card in CARDS])
    parser.add_argument("--sizes", nargs="+", default=["512x768"], help="WIDTHxHEIGHT (default: 512x768)")
    parser.add_argument("--lengths", nargs="+", type=int, default=[16, 128], help="frames (default: 16 128)")
    parser.add_argument("--num_inference_steps", type=int, default=25, help="denoising steps (default: 25)")
    parser.add_argument("--guidance_scale", type=float, default=3.5, help="above 1 the UNet runs twice (default: 3.5)")
    parser.add_argument("--held", type=float, default=1.0, help="GiB that are not free (default: 1)")
    parser.add_argument("--share", type=float, default=0.4, help="of the peak rate that is reached (default: 0.4)")
    args = parser.parse_args()

    networks = load_networks("sd15", torch.float16)
    pipe = pipeline_on_meta(networks)
    print("| card | size | frames | weights | frames decoded at a time | GiB needed | denoising, minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for card in args.cards:
        for size in args.sizes:
            for length in args.lengths:
                width, height = map(int, size.split("x"))
                available = int(USABLE * (card.memory - args.held * 2**30))
                plan = plan_memory(pipe, height, width, length, torch.device("cuda"), available)
                frames = min(length, pipe.call_default("context_frames"))
                window = argparse.Namespace(**vars(args), size=size, num_frames=frames)
                minutes = seconds_of(networks, plan, card, count_windows(pipe, length), window) / 60
                weights = DESCRIPTIONS[plan.mode].removesuffix(" on the device") if plan.fits else "does not fit"
                cells = (card.name, size, length, weights, plan.decode_chunk_size, gibibytes(plan.needed))
                print(f"| {' | '.join(map(str, cells))} | {minutes:.1f} |", flush=True)


if __name__ == "__main__":
    main()
