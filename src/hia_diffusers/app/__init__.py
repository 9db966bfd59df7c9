# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The web page: a picture and a motion in, a video out, for several users and for files that nobody vouches for."""
