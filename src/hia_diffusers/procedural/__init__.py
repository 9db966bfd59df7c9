# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Drawn people with exact keypoints and true motion blur, and the evaluation set made of them."""
