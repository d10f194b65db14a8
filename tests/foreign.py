"""Models that landuse did not train, for tests: ONNX files written byte by byte, and their contracts.

The bytes are those of onnx.proto3; ONNX Runtime itself, which opens them, is the proof that they are right.
"""

import json
import os

import numpy as np
import pytest

BANDS = ("B04", "B03", "B02")
CLASSES = ("Dark", "Bright", "Green")
PX = 16


def needs_onnxruntime():
    """Skip without the extra ``onnx``, except in the CI."""
    try:
        import onnxruntime  # noqa: F401  # whether it is there
    except ImportError as error:
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(f"ONNX Runtime is not installed ({error}), and CI=true forbids the skip")
        pytest.skip(f"needs the extra landuse[onnx]: {error}")


def _varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _field(number, value):
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    value = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _tensor(name, values, extra=b""):
    dims = b"".join(_field(1, size) for size in values.shape)
    return dims + _field(2, 1) + _field(8, name) + (extra or _field(9, values.astype("<f4").tobytes()))


def _value(name, shape, kind=1):
    dims = b"".join(
        _field(1, _field(1, size) if isinstance(size, int) else _field(2, size)) for size in shape
    )
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, dims)))


def _node(kind, inputs, outputs, attributes=b""):
    return (
        b"".join(_field(1, name) for name in inputs)
        + b"".join(_field(2, name) for name in outputs)
        + _field(4, kind)
        + attributes
    )


def _model(nodes, tensors, inputs, outputs):
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, "test")
    graph += b"".join(_field(5, tensor) for tensor in tensors)
    graph += b"".join(_field(11, value) for value in inputs) + b"".join(
        _field(12, value) for value in outputs
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13))


def dense_onnx(weights, *, size="size", batch="n", extra=b"", kind=1, more=()):
    """A 1 x 1 convolution: (n, bands, size, size) to the logits of each pixel, by (class, band) weights."""
    classes, bands = weights.shape
    return _model(
        [_node("Conv", ["dn", "w"], ["scores"])],
        [_tensor("w", weights[:, :, None, None], extra)],
        [_value("dn", (batch, bands, size, size), kind)],
        [_value("scores", (batch, classes, size, size)), *(_value(name, (1,)) for name in more)],
    )


def patch_onnx(weights, *, size="size", batch="n"):
    """Means of a patch's bands, and a matrix of (class, band): (n, bands, size, size) to (n, classes)."""
    classes, bands = weights.shape
    return _model(
        [
            _node("GlobalAveragePool", ["dn"], ["mean"]),
            _node("Flatten", ["mean"], ["flat"]),
            _node("MatMul", ["flat", "w"], ["scores"]),
        ],
        [_tensor("w", np.ascontiguousarray(weights.T))],
        [_value("dn", (batch, bands, size, size))],
        [_value("scores", (batch, classes))],
    )


def contract(kind="dense", **changes):
    """A contract that ``WEIGHTS`` meet; a change to None removes a key."""
    values = {
        "format": "landuse-foreign-model-1",
        "name": f"test-{kind}",
        "kind": kind,
        "bands": list(BANDS),
        "levels": {"L2A": {}},
        "classes": list(CLASSES),
        "mean_dn": [1000, 900, 800],
        "std_dn": [500, 400, 300],
        "size_px": PX,
        "output": "logits",
    } | changes
    return {key: value for key, value in values.items() if value is not None}


WEIGHTS = np.array([[-1.0, -0.5, -0.2], [1.0, 0.4, 0.3], [-0.6, 1.2, 0.1]], np.float32)
"""(class, band)."""


def shares_by_hand(dn, weights=WEIGHTS):
    """(bands, ...) DN to (class, ...): what ``contract`` and ``WEIGHTS`` mean, in double precision."""
    mean, std = (
        np.array(v, float).reshape(3, *[1] * (dn.ndim - 1)) for v in ([1000, 900, 800], [500, 400, 300])
    )
    logits = np.tensordot(weights.astype(float), (dn.astype(float) - mean) / std, 1)
    shares = np.exp(logits - logits.max(0))
    return shares / shares.sum(0)


def save(folder, content, values, name="model.onnx"):
    """A model's file and its contract beside it; the path of the first."""
    path = folder / name
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(values))
    return path
