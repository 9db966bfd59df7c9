# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""From an image and a driving clip to a video file."""
