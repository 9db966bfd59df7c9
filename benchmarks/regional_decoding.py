# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Cost of the regional loss of one image that is decoded whole, whole with checkpointing, or in windows.

python benchmarks/regional_decoding.py [--size 512x896] [--run_size 256x448] [--threads 1] [--ways NAME ...]

The VAE has Stable Diffusion 1.5's size and random, frozen weights; the image has a face of an eighth of its
height and two hands of half of that.

The first table is exact and computes nothing (meta tensors): what autograd keeps for the backward pass and the
operations of forward and backward, at `--size`. The inputs that checkpointing keeps are not counted.

The second is measured in float32 at `--run_size`, each way in a process of its own. `peak` is the peak memory of
the process beyond model and inputs. `pixels` is the root mean squared difference from the whole image inside the
regions, relative to the deviation of its pixels there. `gradient` is that of the gradient in the latents, relative to
its norm, and `in windows` the same in the windows' latents only.

"cut, M" decodes each region by itself, cut out with a margin of M latent pixels, which `decode_windows` does not do.
The latents are noise, alike everywhere; in real images, whose regions differ from the rest, the error is larger.
"""

import argparse
import multiprocessing
import resource
import time
import weakref
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from hia_diffusers.models.autoencoder import decode_latents
from hia_diffusers.training.losses import regional_loss
from hia_diffusers.training.regional_decoding import decode_windows, region_windows


CUT_MARGINS = (0, 4, 8)
WAYS = ("whole", "checkpointing", "windows", *(f"cut, {margin}" for margin in CUT_MARGINS))


def sd15_vae():
    """Create a VAE of Stable Diffusion 1.5's size."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )
    return vae.requires_grad_(False)


def region_masks(height, width):
    """Return the masks of a face, and of a left and a right hand, each `(1, R, H, W)`."""
    face, hands = torch.zeros(1, 1, height, width), torch.zeros(1, 2, height, width)
    side = height // 8
    for mask, middle_y, middle_x, size in (
        (face[0, 0], 0.15, 0.5, side),
        (hands[0, 0], 0.5, 0.8, side // 2),
        (hands[0, 1], 0.55, 0.2, side // 2),
    ):
        top, left = round(middle_y * height) - size // 2, round(middle_x * width) - size // 2
        mask[top : top + size, left : left + size] = 1
    return face, hands


def decode_cut(vae, latents, groups, margin):
    """Decode regions that are cut out with a margin of latent pixels, each by itself."""
    decoded = []
    for group in groups:
        outer = group.widened(margin)
        parts = decode_latents(vae, outer.cut(latents).flatten(0, 1))
        decoded.append(group.within(outer).cut(parts).flatten(0, 1).unflatten(0, (len(latents), -1)))
    return decoded


def decode(way, vae, latents, groups):
    """Decode the regions in one of the ways."""
    if way == "windows":
        return decode_windows(vae, latents, groups)
    if way.startswith("cut"):
        return decode_cut(vae, latents, groups, int(way.split()[1]))
    if way == "checkpointing":
        vae.enable_gradient_checkpointing()
    images = decode_latents(vae, latents)
    return [group.cut(images) for group in groups]


def resident_bytes():
    """Return the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Kept:
    """A tensor that autograd keeps; it is freed with the graph."""

    def __init__(self, tensor):
        self.tensor = tensor


class RegionalStep:
    """The loss of face and hands of one image, and what autograd keeps for its gradient."""

    def __init__(self, way, width, height, device="cpu", dtype=torch.float32):
        with torch.device(device):
            self.vae = torch.nn.Module.to(sd15_vae(), dtype)
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(1, 4, height // 8, width // 8, generator=generator)
        self.latents = latents.to(device).requires_grad_()
        self.target = (torch.rand(1, 3, height, width, generator=generator) * 2 - 1).to(device)
        masks = region_masks(height, width)
        self.groups = [region_windows(mask) for mask in masks]
        self.masks = [group.cut(mask[:, :, None]).to(device) for group, mask in zip(self.groups, masks, strict=True)]
        self.way = way
        self.kept = weakref.WeakSet()

    def keep(self, tensor):
        kept = Kept(tensor)
        self.kept.add(kept)
        return kept

    def forward(self):
        """Return the loss."""
        with torch.autograd.graph.saved_tensors_hooks(self.keep, lambda kept: kept.tensor):
            self.decoded = decode(self.way, self.vae, self.latents, self.groups)
            losses = [
                regional_loss(pixels, group.cut(self.target), mask)
                for group, pixels, mask in zip(self.groups, self.decoded, self.masks, strict=True)
            ]
            return sum(losses).sum()

    def kept_bytes(self):
        """Return the bytes that autograd keeps, without those of the weights."""
        weights = {parameter.untyped_storage()._cdata for parameter in self.vae.parameters()}
        storages = {kept.tensor.untyped_storage()._cdata: kept.tensor.untyped_storage() for kept in self.kept}
        return sum(storage.nbytes() for address, storage in storages.items() if address not in weights)


def computed(way, width, height, dtype):
    """Return kept bytes and operations, on the meta device."""
    step = RegionalStep(way, width, height, "meta", dtype)
    with FlopCounterMode(display=False) as counter:
        loss = step.forward()
        kept = step.kept_bytes()
        loss.backward()
    return kept, counter.get_total_flops()


def measured(way, width, height, threads):
    """Return seconds, peak memory, pixels and gradients; runs in a process of its own."""
    torch.set_num_threads(threads)
    step = RegionalStep(way, width, height)
    before, start = resident_bytes(), time.perf_counter()
    step.forward().backward()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    regions = [mask.expand_as(pixels) > 0 for pixels, mask in zip(step.decoded, step.masks, strict=True)]
    pixels = [pixels.detach()[region] for pixels, region in zip(step.decoded, regions, strict=True)]
    gradient = step.latents.grad
    windows = [group.cut(gradient).flatten() for group in step.groups]
    return seconds, peak, *(values.numpy() for values in (torch.cat(pixels), gradient, torch.cat(windows)))


def difference(values, truth):
    """Return the difference relative to the ground truth, as a root mean square."""
    return (((values - truth) ** 2).sum() / (truth**2).sum()) ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="512x896", help="of the first table (default: 512x896)")
    parser.add_argument("--run_size", default="256x448", help="of the second (default: 256x448)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS, help="beside whole (default: all)")
    args = parser.parse_args()
    ways = ["whole", *(way for way in args.ways if way != "whole")]

    print(f"{args.size:16}{'kept, float32':>18}{'kept, bfloat16':>18}{'operations':>18}")
    for way in ways:
        width, height = map(int, args.size.split("x"))
        (kept, operations), (kept_half, _) = (
            computed(way, width, height, dtype) for dtype in (torch.float32, torch.bfloat16)
        )
        print(f"{way:16}{kept / 2**30:14.2f} GiB{kept_half / 2**30:14.2f} GiB{operations / 1e12:10.2f} TFLOP")

    print(f"\n{args.run_size:16}{'peak':>14}{'seconds':>10}{'pixels':>10}{'gradient':>10}{'in windows':>12}")
    width, height = map(int, args.run_size.split("x"))
    # A fresh process each: the most memory it had is then due to this way.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for way in ways:
            seconds, peak, pixels, *gradients = pool.apply(measured, (way, width, height, args.threads))
            if way == "whole":
                true_pixels, true_gradients = pixels, gradients
            pixels_off = ((pixels - true_pixels) ** 2).mean() ** 0.5 / true_pixels.std()
            gradient_off, windows_off = map(difference, gradients, true_gradients)
            row = f"{peak / 2**30:10.2f} GiB{seconds:10.1f}{pixels_off:10.1e}{gradient_off:10.1e}{windows_off:12.1e}"
            print(f"{way:16}{row}", flush=True)


if __name__ == "__main__":
    main()
