# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The stages of [`HIAPipeline`] as blocks of a modular diffusers pipeline."""
