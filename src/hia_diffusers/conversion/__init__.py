# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Published weights of other projects as pipelines and parts of HIA, one module with one table per source."""
