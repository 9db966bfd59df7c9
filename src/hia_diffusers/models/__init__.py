# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The three networks of HIA, appearance encoder, ControlNet and motion UNet, and the autoencoders they run on."""
