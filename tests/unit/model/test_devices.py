"""What ``auto`` stands for on a device."""

from __future__ import annotations

import pytest
import torch

from landuse.errors import UsageError
from landuse.model.devices import computes_bfloat16, training_precision


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({}, "fp32"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"architecture": "aarch64", "bf16": True}, "bf16"),
    ],
)
def test_training_computes_in_bfloat16_where_the_processor_does(monkeypatch, features, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert training_precision("auto", "cpu") == expected
    assert training_precision("bf16", "cpu") == "bf16"
    assert training_precision("fp16", "cpu") == "fp16"  # the recipe refuses it, with its own message


def test_a_pytorch_that_cannot_tell_is_taken_for_one_without(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not computes_bfloat16(torch.device("cpu"))


def test_an_unknown_device_is_told_of():
    with pytest.raises(UsageError, match="--device 'tpu' is unknown"):
        training_precision("auto", "tpu")
