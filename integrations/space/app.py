# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face Space with the web page of hia-diffusers; README.md names its variables."""

import os

import torch

from hia_diffusers.commands import app


def options() -> list[str]:
    model = os.environ.get("HIA_MODEL") or ("moore-animate-anyone" if torch.cuda.is_available() else None)
    words = ["--host", "0.0.0.0", "--port", os.environ.get("GRADIO_SERVER_PORT", "7860"), "--watermark"]
    words += ["--connections_per_address", "400"]  # all users come through the proxy of the Hub
    if model is not None:
        words += ["--model", model, "--size", os.environ.get("HIA_SIZE", "512x768")]
    return words


if __name__ == "__main__":
    app.main(options())
