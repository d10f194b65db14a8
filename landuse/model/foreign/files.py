"""ONNX and TorchScript files, opened so that nothing in them runs before they are seen to fit.

A pickle is a program in Python and is refused by its first bytes. An ONNX file is a graph of the operators
that ONNX Runtime brings; weights that it keeps in further files are not followed. A TorchScript file is a
program in a small language of its own, without Python: it cannot import or call anything of Python's, but it
may compute for ever, fill the memory, or read files. Open only those whose origin you trust.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

from landuse.errors import ModelError, UsageError
from landuse.model.foreign.contract import CHANNELS_LAST, DENSE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from landuse.model.foreign.contract import ForeignContract

MAX_BYTES = 2_000_000_000
"""Largest file of a model; what protocol buffers can hold."""

_MEND = (
    "Save the network as ONNX or TorchScript, or hold it in Python and give landuse.ForeignModel to "
    "landuse.map."
)


def read_model(path: Path) -> bytes:
    """The bytes of a model's file that may be opened: ONNX or TorchScript by what is in it.

    Raises:
        ModelError: it cannot be read, is too large, a pickle, or of another format.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ModelError(f"Model {path} has {size} bytes, more than {MAX_BYTES}.")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"Model {path} cannot be read ({error}). Check the path and its rights.") from error
    if content.startswith(b"PK\x03\x04"):
        _check_archive(path, content)
    elif not _is_onnx(content):
        if content[:1] == b"\x80":
            raise ModelError(f"Model {path} is a pickle, which is a program: it is not opened. {_MEND}")
        raise ModelError(f"Model {path} is neither safetensors nor whole ONNX nor TorchScript. {_MEND}")
    elif _has_outer_data(content):
        raise ModelError(
            f"Model {path} keeps weights in other files, which are not followed. Save it as one file: "
            "onnx.save(model, path, save_as_external_data=False)."
        )
    return content


def opened(
    path: Path, content: bytes, contract: ForeignContract, device: str
) -> Callable[[NDArray[np.float32]], object]:
    """The function that a model's file holds: float32 array in, array out.

    Raises:
        ModelError: the file is damaged, or its inputs and outputs are not the contract's.
        UsageError: the device is unknown or missing.
    """
    if content.startswith(b"PK"):
        return _torchscript(path, content, device)
    return _onnx(path, content, contract, device)


def _check_archive(path: Path, content: bytes) -> None:
    """Refuse all zip files but those of ``torch.jit.save``, which hold code beside their data."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelError(f"Model {path} is a damaged archive ({error}). {_MEND}") from error
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return
    if "data.pkl" in inner:
        raise ModelError(
            f"Model {path} is a pickle of torch.save, which is a program: it is not opened. {_MEND}"
        )
    raise ModelError(f"Model {path} is an archive, but none of torch.jit.save. {_MEND}")


def _torchscript(path: Path, content: bytes, device: str) -> Callable[[NDArray[np.float32]], object]:
    import torch

    from landuse.model.devices import resolve_device

    target = resolve_device(device)
    try:
        with warnings.catch_warnings():
            # torch advises torch.export for new programs; files that exist are read all the same.
            warnings.simplefilter("ignore", DeprecationWarning)
            script = torch.jit.load(io.BytesIO(content), map_location=target)  # type: ignore[no-untyped-call]  # torch has no types for it
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ModelError(f"Model {path} is a damaged TorchScript file ({reason}). {_MEND}") from error
    return torch_function(script, target)


def torch_function(network: torch.nn.Module, device: torch.device) -> Callable[[NDArray[np.float32]], object]:
    """A module in evaluation mode as a function of arrays."""
    import torch

    network = network.eval().to(device)

    def run(values: NDArray[np.float32]) -> object:
        with torch.inference_mode():
            out = network(torch.from_numpy(values).to(device))
        return out.float().cpu().numpy() if isinstance(out, torch.Tensor) else out

    return run


def _onnx(
    path: Path, content: bytes, contract: ForeignContract, device: str
) -> Callable[[NDArray[np.float32]], object]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            f"Model {path} is an ONNX file, and ONNX Runtime is not installed ({error}). Install it: "
            "pip install 'landuse[onnx]'."
        ) from error
    providers = _providers(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which are raised anyway
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # its errors share no class but this one
        raise ModelError(
            f"Model {path} is no ONNX file that can run ({_first_line(error)}). {_MEND}"
        ) from error
    output = _check_graph(path, session, contract)
    name = session.get_inputs()[0].name

    def run(values: NDArray[np.float32]) -> object:
        try:
            return session.run([output], {name: values})[0]
        except Exception as error:  # as above
            raise ModelError(
                f"Model {path} failed on an array of {values.shape} ({_first_line(error)}). Correct the "
                "model or its contract."
            ) from error

    return run


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _providers(device: str, available: list[str]) -> list[str]:
    """What ONNX Runtime computes on; each name falls back to none other."""
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    kind = device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device!r} is unknown. Use auto, cpu, cuda or cuda:INDEX.")
    if kind == "cuda" and cuda not in available:
        raise UsageError(
            f"--device {device}: this ONNX Runtime computes on {', '.join(available)} alone. Use --device "
            "cpu, or install onnxruntime-gpu."
        )
    return [cuda, cpu] if kind != "cpu" and cuda in available else [cpu]


def _check_graph(path: Path, session: Any, contract: ForeignContract) -> str:  # noqa: ANN401  # it is untyped
    """See that the inputs and outputs a graph states are the contract's; the name of the output."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        told = ", ".join(f"{entry.name} of {entry.type}" for entry in inputs)
        raise ModelError(
            f"Model {path} takes {told or 'nothing'}, and landuse gives one float32 array. {_MEND}"
        )
    names = [entry.name for entry in outputs]
    if contract.output_name is None and len(outputs) != 1:
        raise ModelError(
            f"Model {path} has {len(outputs)} outputs: {', '.join(names)[:200]}. Name one of them as "
            "output_name in its contract."
        )
    wanted = contract.output_name or names[0]
    if wanted not in names:
        raise ModelError(f"Model {path} has no output {wanted!r}. It has {', '.join(names)[:200]}.")
    _check_dims(path, "takes", inputs[0].shape, input_shape(contract))
    _check_dims(path, "gives", outputs[names.index(wanted)].shape, output_shape(contract))
    return wanted


def _check_dims(path: Path, verb: str, stated: list[int | str | None], wanted: tuple[int, ...]) -> None:
    """Refuse a stated shape that cannot be what is wanted; names and None stand for any number."""
    fits = len(stated) == len(wanted) and all(
        not isinstance(one, int) or one == other for one, other in zip(stated, wanted, strict=True)
    )
    if stated and not fits:
        raise ModelError(
            f"Model {path} {verb} an array of ({', '.join(map(str, stated))}), and its contract means "
            f"({', '.join(map(str, wanted))}). Correct bands, classes, size_px, batch_size, kind or layout "
            "of the contract, or export the model anew."
        )


def input_shape(contract: ForeignContract) -> tuple[int, ...]:
    """What a forward pass is given."""
    size, bands = contract.model.patch_size_px, len(contract.model.bands)
    inner = (size, size, bands) if contract.layout == CHANNELS_LAST else (bands, size, size)
    return (contract.batch_size, *inner)


def output_shape(contract: ForeignContract) -> tuple[int, ...]:
    """What a forward pass has to return."""
    size, classes = contract.model.patch_size_px, len(contract.model.classes)
    if contract.kind != DENSE:
        return (contract.batch_size, classes)
    inner = (size, size, classes) if contract.layout == CHANNELS_LAST else (classes, size, size)
    return (contract.batch_size, *inner)


# Protocol buffers, as far as it takes to tell an ONNX file and where its weights are. Source: onnx.proto3.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 7, 1, 5, 15
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_MODEL_FUNCTIONS, _FUNCTION_NODE, _FUNCTION_ATTRIBUTE = 25, 7, 11
_MAX_DEPTH = 32


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message.

    Raises:
        ValueError: it is no message.
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(message) or shift > 63:
                raise ValueError("a number is cut off")
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size = varint()
        if size is None or number == 0 or at + size > len(message):
            raise ValueError("a field is cut off or of an unknown kind")
        yield number, message[at : at + size]
        at += size


def _is_onnx(content: bytes) -> bool:
    """Whether the bytes are a message whose field 7, the graph, is a message too."""
    try:
        graphs = [value for number, value in _fields(memoryview(content)) if number == _MODEL_GRAPH]
        return len(graphs) == 1 and isinstance(graphs[0], memoryview) and bool(list(_fields(graphs[0])))
    except ValueError:
        return False


def _has_outer_data(content: bytes) -> bool:
    """Whether some tensor of an ONNX file says that its values are in another file."""
    follow: dict[str, dict[int, str]] = {
        "model": {_MODEL_GRAPH: "graph", _MODEL_FUNCTIONS: "function"},
        "function": {_FUNCTION_NODE: "node", _FUNCTION_ATTRIBUTE: "attribute"},
        "graph": {_GRAPH_NODE: "node", _GRAPH_INITIALIZER: "tensor", _GRAPH_SPARSE: "sparse"},
        "sparse": {_SPARSE_VALUES: "tensor", _SPARSE_INDICES: "tensor"},
        "node": {_NODE_ATTRIBUTE: "attribute"},
        "attribute": {
            _ATTRIBUTE_TENSOR: "tensor",
            _ATTRIBUTE_GRAPH: "graph",
            _ATTRIBUTE_TENSORS: "tensor",
            _ATTRIBUTE_GRAPHS: "graph",
            _ATTRIBUTE_SPARSE: "sparse",
            _ATTRIBUTE_SPARSES: "sparse",
        },
    }

    def has(message: memoryview, kind: str, depth: int) -> bool:
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        for number, value in _fields(message):
            if kind == "tensor":
                found = number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value == 1)
            else:
                inner = follow[kind].get(number)
                found = inner is not None and isinstance(value, memoryview) and has(value, inner, depth + 1)
            if found:
                return True
        return False

    try:
        return has(memoryview(content), "model", 0)
    except ValueError as error:
        raise ModelError(f"The ONNX file is damaged ({error}). {_MEND}") from error
