"""The mutable state of a training run, and how it survives a kill."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.parallel import DistributedDataParallel

from landuse.errors import ModelError
from landuse.model.checkpoint import DAMAGE, write_safetensors
from landuse.model.networks import NETWORKS, BalancedAttention, build_network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from _typeshed import DataclassInstance
    from torch import Tensor, nn

    from landuse.contract import ModelContract
    from landuse.model.devices import Worker
    from landuse.model.networks import PatchNetwork


class RunConfig(Protocol):
    """What a run of any kind is set by; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def network(self) -> str:
        """Name in ``NETWORKS``."""

    @property
    def seed(self) -> int:
        """Of the initialisation."""

    @property
    def weight_decay(self) -> float:
        """On convolution and linear weights."""

    @property
    def decay_fusion(self) -> bool:
        """Whether the fusion scalars are under weight decay too."""

    @property
    def peak_rate(self) -> float:
        """Learning rate to begin with."""

    @property
    def ema(self) -> float:
        """Decay of the moving average."""

    @property
    def compile(self) -> bool:
        """Whether the step is compiled."""


C = TypeVar("C", bound=RunConfig)


class TrainingRun(Generic[C]):
    """Network, moving average, optimiser and position in the schedule."""

    def __init__(
        self, config: C, contract: ModelContract, out: Path, worker: Worker, optimizer: str = "sgd"
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.contract = contract
        self.state_file = out / "state.safetensors"
        network_config = NETWORKS[config.network](len(contract.bands), len(contract.classes))
        self.network: PatchNetwork = build_network(network_config)
        self.average: PatchNetwork = build_network(network_config).eval()
        for network in (self.network, self.average):
            network.to(device=worker.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
        self.average.load_state_dict(self.network.state_dict())
        groups = parameter_groups(self.network, config.weight_decay, decay_fusion=config.decay_fusion)
        self.optimizer: torch.optim.Optimizer
        if optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(groups, lr=config.peak_rate)
        else:
            self.optimizer = torch.optim.SGD(groups, lr=config.peak_rate, momentum=0.9, nesterov=True)
        self.epoch = 0
        self.step = 0

    def forward_module(self, worker: Worker) -> nn.Module:
        """The network as training calls it: compiled and wrapped as the run asks."""
        module: nn.Module = self.network
        if worker.count > 1:
            on_gpu = worker.device.type == "cuda"
            if on_gpu:
                # Registered modules are replaced in place, so the state keeps its names and tensors.
                module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]  # untyped in torch
            module = DistributedDataParallel(module, device_ids=[worker.device] if on_gpu else None)
        if self.config.compile:
            # Two patch sizes at most: a kernel for each is faster than one for any.
            return torch.compile(module, dynamic=False)  # type: ignore[return-value]  # torch types it as a function
        return module

    def update_average(self) -> None:
        """Move the average towards the network; early on faster than ``ema`` says."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        current = self.network.state_dict()
        with torch.no_grad():
            for name, value in self.average.state_dict().items():
                if value.dtype.is_floating_point:
                    value.lerp_(current[name], 1 - decay)
                else:
                    value.copy_(current[name])

    def save(self) -> None:
        """Write the whole state, atomically.

        Raises:
            OutputError: the folder is not writable or the disk is full.
        """
        header = {"epoch": str(self.epoch), "step": str(self.step)}
        write_state(self.state_file, self._modules, self.optimizer, self.config, header)

    def resume(self) -> bool:
        """Take up a state written earlier; False where there is none.

        Raises:
            ModelError: it belongs to another configuration or is damaged.
        """
        found = read_state(self.state_file, self._modules, self.optimizer, self.config, ("epoch", "step"))
        if found is None:
            return False
        self.epoch, self.step = found
        return True

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"network": self.network, "average": self.average}


def write_state(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    config: DataclassInstance,
    header: Mapping[str, str],
) -> None:
    """Write what a run needs to go on, whole or not at all.

    Args:
        path: the .safetensors file.
        modules: networks by name.
        optimizer: SGD with momentum, or AdamW.
        config: the run's settings, which a run that goes on must have too.
        header: whole numbers and what else must be known, as text.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    tensors = {f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{index}.{key}"] = value
    write_safetensors(path, tensors, {**header, "config": json.dumps(asdict(config))})


def read_state(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    config: DataclassInstance,
    numbers: tuple[str, ...],
    data_sha256: str | None = None,
) -> list[int] | None:
    """Take up what ``write_state`` wrote; the header's ``numbers``, or None where there is no file.

    Args:
        path: the .safetensors file.
        modules: networks by name, filled.
        optimizer: filled.
        config: the settings that the run must have had.
        numbers: keys of the header that hold whole numbers.
        data_sha256: what the header must hold as ``data``; None does not ask.

    Raises:
        ModelError: it belongs to another configuration or to other data, or is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  # safe_open is no mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}). Remove it to start again.") from error
    try:
        # By way of JSON, which makes lists of tuples.
        if json.loads(header["config"]) != json.loads(json.dumps(asdict(config))):
            raise ModelError(f"{path} belongs to a run with other settings. Use another --out or remove it.")
        if data_sha256 is not None and header["data"] != data_sha256:
            raise ModelError(f"{path} belongs to a run on other data. Use another --out or remove it.")
        for name, module in modules.items():
            prefix = f"{name}."
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
        state: dict[str, Any] = optimizer.state_dict()
        held: dict[int, dict[str, Tensor]] = {}
        for k, v in tensors.items():
            if k.startswith("optimizer."):
                _, index, key = k.split(".")
                held.setdefault(int(index), {})[key] = v
        state["state"] = held
        optimizer.load_state_dict(state)
        found = [int(header[name]) for name in numbers]
    except DAMAGE as error:
        raise ModelError(f"{path} is damaged ({error}). Remove it to start again.") from error
    return found


def parameter_groups(
    network: nn.Module, weight_decay: float, *, decay_fusion: bool = False
) -> list[dict[str, Any]]:
    """Weights under decay, and biases, norms and fusion scalars free of it."""
    fusion = {id(m.balance) for m in network.modules() if isinstance(m, BalancedAttention)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in network.parameters():
        scalar = id(parameter) in fusion
        (decayed if parameter.ndim > 1 or (scalar and decay_fusion) else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
