# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""From whole-body keypoints to the six-channel conditioning frames of `HIAControlNetModel`."""
