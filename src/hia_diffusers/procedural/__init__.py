# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Drawn people with exact keypoints and ground-truth motion blur, and an evaluation set of them."""
