# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch

from hia_diffusers.commands.loading import choose_dtype


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_the_dtype_fits_the_instructions_of_the_cpu(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_dtype("auto", "cpu") == dtype
    assert choose_dtype("float32", "cpu") == torch.float32
    assert choose_dtype("auto", "cuda:0") == torch.float16


def test_without_knowledge_of_the_cpu_it_is_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_dtype("auto", "cpu") == torch.float32
