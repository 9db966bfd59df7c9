# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""How good a video is: per frame, per region, over time, and as a distribution."""
