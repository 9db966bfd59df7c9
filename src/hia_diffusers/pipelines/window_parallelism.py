# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""One clip on several devices: within a denoising step, windows of time are independent of each other."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist


Item = TypeVar("Item")


class WindowGroup:
    """Processes that make the same call together, and share its windows and the chunks that the VAE decodes.

    Args:
        group (`torch.distributed.ProcessGroup`, *optional*):
            A group of processes; by default all.

    Raises:
        RuntimeError: If `torch.distributed` is not initialized.
    """

    def __init__(self, group: dist.ProcessGroup | None = None):
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(
                "Windows are shared between processes of `torch.distributed`: start them with torchrun or accelerate"
                " launch, and call `torch.distributed.init_process_group` first."
            )
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the part of this process.

        It consists of adjacent items, so that most frames stay with one process from step to step.
        """
        first, last = (len(items) * rank // self.size for rank in (self.rank, self.rank + 1))
        return items[first:last]

    def sum_(self, tensor: torch.Tensor) -> None:
        """Sum the tensors of all processes in place."""
        dist.all_reduce(tensor, group=self.group)

    def check_equal(self, name: str, tensor: torch.Tensor) -> None:
        """Raise a `ValueError` on all processes unless `tensor` is the same on all of them."""
        own = tensor.double().flatten()
        sums = torch.stack([own.sum(), own @ torch.linspace(0, 1, len(own), dtype=own.dtype, device=own.device)])
        all_sums = [torch.empty_like(sums) for _ in range(self.size)]
        dist.all_gather(all_sums, sums, group=self.group)
        if any(not torch.equal(other, sums) for other in all_sums):
            raise ValueError(f"`{name}` must be the same on all processes that share a clip.")

    def map(
        self,
        function: Callable[[torch.Tensor], torch.Tensor],
        chunks: Sequence[torch.Tensor],
        device: torch.device,
    ) -> torch.Tensor:
        """Apply a function to all chunks, and concatenate the results along their first axis on every process.

        Args:
            function (`Callable`):
                A function that does not change the length of the first axis of a tensor.
            chunks (`Sequence[torch.Tensor]`):
                Chunks of equal length, except that the last may be shorter.
            device (`torch.device`):
                Device of the result.
        """
        results = []
        for start in range(0, len(chunks), self.size):
            turn = chunks[start : start + self.size]
            # A process without a chunk repeats one, because `all_gather` needs tensors of one shape from all
            # processes.
            own = turn[min(self.rank, len(turn) - 1)]
            padded = torch.cat([own, own[-1:].expand(len(chunks[0]) - len(own), *own.shape[1:])])
            made = function(padded).contiguous()
            all_made = [torch.empty_like(made) for _ in range(self.size)]
            dist.all_gather(all_made, made, group=self.group)
            results += [part[: len(chunk)].to(device) for part, chunk in zip(all_made, turn, strict=False)]
        return torch.cat(results)


class WindowParallelismMixin:
    """A pipeline whose calls can be shared by processes."""

    _window_group: WindowGroup | None = None

    def enable_window_parallelism(self, group: dist.ProcessGroup | None = None) -> None:
        """Share the windows of time and the decoding of each clip between the processes of `torch.distributed`.

        All processes must make the same calls with the same arguments and equally seeded generators, and all get the
        result. It differs from that of a single process only by rounding. A clip of one window is denoised by one
        process.

        Args:
            group (`torch.distributed.ProcessGroup`, *optional*):
                The processes that share clips; by default all.

        Raises:
            RuntimeError: If `torch.distributed` is not initialized.
        """
        self._window_group = WindowGroup(group)

    def disable_window_parallelism(self) -> None:
        """Generate clips in this process alone."""
        self._window_group = None
