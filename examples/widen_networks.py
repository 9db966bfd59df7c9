# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Give the networks of a trained pipeline more channels, almost without changing what they compute.

    python examples/widen_networks.py --model runs/tiny/regional --wide runs/tiny/wide-random \
        --output runs/tiny/wide-start

`--wide` is a pipeline with random weights and more channels, from `hia-diffusers convert parts`. Its networks get the
weights of those of `--model` for as many channels, and zeros for what new channels would add to them (Net2Net,
https://arxiv.org/abs/1511.05641). The new channels themselves keep random weights, so that training can use them.
Motion modules remain those of `--wide`.

Embeddings of times and positions have other frequencies in networks with other numbers of channels. Layers that read
them are fitted by least squares, so that they compute almost what the original layers compute.
"""

import math
import re
from pathlib import Path

import torch
from diffusers.models.embeddings import get_timestep_embedding

from hia_diffusers import HIAPipeline
from hia_diffusers.commands.arguments import OneLineParser
from hia_diffusers.commands.running import run
from hia_diffusers.models.reference_attention import position_embedding
from hia_diffusers.training.config import height_and_width
from hia_diffusers.training.export import save_whole_pipeline
from hia_diffusers.training.starting_point import load_starting_point


NETWORKS = ("unet", "appearance_encoder", "controlnet")

# What the rows and columns of weights are channels of, by regular expressions for their names; the first match counts.
AXES = (
    (r"time_embedding\..*", ("time", "time")),
    (r".*time_emb_proj\..*", ("stream", "time")),
    (r".*proj_in\..*", ("tokens", "stream")),
    (r".*proj_out\..*", ("stream", "tokens")),
    (r".*attn\d\.to_[qkv]\..*", ("heads", "tokens")),
    (r".*attn\d\.to_out\..*", ("tokens", "heads")),
    (r".*ff\.net\.0\..*", ("gated", "tokens")),
    (r".*ff\.net\.2\..*", ("tokens", "time")),  # as many as the time has: four times the channels
    (r".*transformer_blocks\..*", ("tokens", "tokens")),
    (r".*", ("stream", "stream")),
)

# Least squares: factors of the identity, so that the solutions are small.
TIME_RIDGE, POSITION_RIDGE = 1.0, 0.5

# Weight of the norms of new channels in tokens, which start with hardly any influence on position embeddings.
NEW_NORM_WEIGHT = 0.1


class Widening:
    """Where the channels of a narrow network are in a wide one.

    Args:
        narrow, wide (`ModelMixin`):
            The networks.
        size (`tuple[int, int]`):
            Height and width of the latents.
    """

    def __init__(self, narrow, wide, size):
        self.narrow, self.wide, self.size = narrow, wide, size
        n, w = narrow.config.block_out_channels[0], wide.config.block_out_channels[0]
        self.channels = n, w
        self.num_heads = wide.config.get("num_attention_heads") or wide.config.attention_head_dim
        self.levels = len(wide.config.block_out_channels)
        halves = torch.arange(2 * n).reshape(2, -1)
        # In tokens, a channel goes where the frequency of its position embedding is closest.
        nearest = (torch.arange(n // 4) * w / n).round().long()
        self.places = {
            "stream": torch.arange(n),
            "skip": torch.cat([halves[0], halves[1] + w - n]),  # decoder and skip connection side by side
            "time": torch.arange(4 * n),
            "gated": torch.cat([torch.arange(4 * n), torch.arange(4 * n) + 4 * w]),
            "tokens": (torch.arange(4)[:, None] * (w // 4) + nearest).flatten(),
            "heads": torch.arange(n)
            .reshape(self.num_heads, -1)
            .add(torch.arange(self.num_heads)[:, None] * (w - n) // self.num_heads)
            .flatten(),
        }

    def weights(self):
        """Return the state dict of the wide network with the weights of the narrow one."""
        narrow, result = self.narrow.state_dict(), self.wide.state_dict()
        for name, wide in result.items():
            if name in narrow and "motion_modules" not in name:
                self._fill(name, narrow[name], wide)
        return result

    def _fill(self, name, narrow, wide):
        rows = self._places(name, 0, narrow, wide)
        if narrow.ndim == 1:
            if re.search(r"transformer_blocks\.\d+\.norm\d\.weight", name):
                if ".norm1." in name:
                    wide.fill_(NEW_NORM_WEIGHT)
                n, w = self.channels
                narrow = narrow * math.sqrt(n / w)  # channels of zeros make the variance smaller
            wide[rows] = narrow
            return
        if name == "time_embedding.linear_1.weight":
            wide[rows] = self._fit_to_times(narrow)
            return
        columns = self._places(name, 1, narrow, wide)
        if wide.shape[1] != narrow.shape[1]:
            wide[rows] = 0
        wide[rows[:, None], columns] = narrow
        if re.search(r"attn1\.to_[qkv]\.", name):
            others = torch.tensor(sorted({*range(wide.shape[1])} - {*columns.tolist()}))
            wide[rows[:, None], others] = self._fit_to_positions(name, narrow, columns, others)
        if ".to_q." in name:
            wide[rows] *= math.sqrt(len(wide) / len(narrow))  # attention divides by the root of the head's channels
        if ".to_k." in name:
            new = torch.ones(len(wide), dtype=torch.bool)
            new[rows] = False
            wide[new] = 0

    def _places(self, name, axis, narrow, wide):
        """Return the places of the channels of an axis: 0 for rows, 1 for columns."""
        if narrow.shape[axis] == wide.shape[axis]:
            return torch.arange(narrow.shape[axis])
        kind = next(kinds[axis] for names, kinds in AXES if re.fullmatch(names, name))
        if kind == "stream" and narrow.shape[axis] == 2 * self.channels[0]:
            kind = "skip"
        return self.places[kind]

    def _fit_to_times(self, narrow):
        # The appearance encoder only ever reads clean images.
        times = torch.arange(1 if "AppearanceEncoder" in type(self.wide).__name__ else 1000)
        old, new = (
            get_timestep_embedding(times, channels, flip_sin_to_cos=True, downscale_freq_shift=0)
            for channels in self.channels
        )
        return fitted(new, old @ narrow.T, TIME_RIDGE if len(times) > 1 else 1e-3)

    def _fit_to_positions(self, name, narrow, columns, others):
        block, number = re.match(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?", name).groups()
        level = {"down": int(number or 0), "mid": self.levels - 1, "up": self.levels - 1 - int(number or 0)}[block]
        height, width = (math.ceil(side / 2**level) for side in self.size)
        old, new = (position_embedding(height, width, channels, torch.device("cpu")) for channels in self.channels)
        return fitted(new[:, others], (old - new[:, columns]) @ narrow.T, POSITION_RIDGE)


def fitted(inputs, outputs, ridge):
    """Return the weights of a linear layer, `(C_out, C_in)`, for inputs `(N, C_in)` and outputs `(N, C_out)`."""
    inputs, outputs = inputs.double(), outputs.double()
    size = inputs.shape[1]
    inputs = torch.cat([inputs, ridge * torch.eye(size, dtype=torch.float64)])
    outputs = torch.cat([outputs, outputs.new_zeros(size, outputs.shape[1])])
    return torch.linalg.lstsq(inputs, outputs).solution.T.float()


def check_networks(narrow, wide):
    """Raise a `ValueError` if two networks differ in anything but their channels."""
    n, w = narrow.config.block_out_channels, wide.config.block_out_channels
    groups = n[0] * wide.config.norm_num_groups == w[0] * narrow.config.norm_num_groups
    heads = all(
        narrow.config.get(name) == wide.config.get(name) for name in ("num_attention_heads", "attention_head_dim")
    )
    if len({*n}) > 1 or len({*w}) > 1 or n[0] >= w[0] or len(n) != len(w) or not groups or not heads:
        raise ValueError(
            f"`--wide`: its {type(wide).__name__} must have as many blocks and attention heads as that of `--model`, "
            "more channels, all blocks as many, and as many channels in a group of its norms."
        )
    missing = {*narrow.state_dict()} - {*wide.state_dict()}
    missing = sorted(name for name in missing if "motion_modules" not in name)
    if missing:
        raise ValueError(f"`--wide`: its {type(wide).__name__} lacks {missing[0]}, which that of `--model` has.")


def make_parser():
    parser = OneLineParser(prog="widen_networks.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", required=True, help="the trained pipeline")
    add(
        "--wide",
        required=True,
        help="pipeline with wider networks of random weights, and everything else that is kept",
    )
    add("--size", default="96x160", help="WIDTHxHEIGHT of the images")
    add("--output", type=Path, required=True, help="folder to write")
    return parser


def widen(args):
    height, width = height_and_width("--size", args.size)
    narrow, wide = load_starting_point(args.model), HIAPipeline.from_pretrained(args.wide, dtype=torch.float32)
    for name in NETWORKS:
        check_networks(getattr(narrow, name), getattr(wide, name))
    size = height // narrow.vae_scale_factor, width // narrow.vae_scale_factor
    for name in NETWORKS:
        network = getattr(wide, name)
        network.load_state_dict(Widening(getattr(narrow, name), network, size).weights())
    wide.register_modules(vae=narrow.vae, image_encoder=narrow.image_encoder)
    save_whole_pipeline(wide, args.output, card="")
    print(f"The pipeline is in {args.output}.")


if __name__ == "__main__":
    run(make_parser(), widen)
