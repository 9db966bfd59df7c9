# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Training data: prepared or procedural clips, samples and batches."""
