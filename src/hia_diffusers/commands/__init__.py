# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The commands of `hia-diffusers`: each module contains the parser and the main function of one."""
