# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import torch
from torch import nn

from hia_diffusers.metrics.weights import sha256_of_weights


def test_the_hash_is_that_of_all_names_and_values_whatever_their_order():
    torch.manual_seed(0)
    networks = {"a": nn.Linear(2, 3), "b": nn.BatchNorm2d(2), "scheduler": object(), "missing": None}
    before = sha256_of_weights(networks)
    assert before == sha256_of_weights(dict(reversed(networks.items())))
    assert before != sha256_of_weights({"b": networks["a"], "a": networks["b"]})
    networks["b"].running_mean[0] += 1
    assert before != sha256_of_weights(networks)
