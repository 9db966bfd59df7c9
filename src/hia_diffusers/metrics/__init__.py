# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics of videos: per frame, per region, over time, and as a distribution."""
