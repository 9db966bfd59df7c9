# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Training of HIA; `examples/train_hia.py` contains the loop."""
