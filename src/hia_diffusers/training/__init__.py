# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What training HIA needs beside the loop itself, which is `examples/train_hia.py`."""
