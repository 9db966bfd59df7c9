# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The components that an empty prompt needs."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def text_parts() -> dict[str, Any]:
    """A tiny text encoder with random weights, and a real tokenizer with a vocabulary of single letters."""
    letters = ["<|startoftext|>", "<|endoftext|>", "a", "a</w>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({token: i for i, token in enumerate(letters)}))
        merges.write_text("#version: 0.2\n")
        tokenizer = CLIPTokenizer(str(vocabulary), str(merges), model_max_length=5)
    config = CLIPTextConfig(
        vocab_size=4,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=5,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {"text_encoder": CLIPTextModel(config).eval(), "tokenizer": tokenizer}
