"""The mutable state of a training run, and how it survives a kill."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.parallel import DistributedDataParallel

from landuse.errors import ModelError
from landuse.model.checkpoint import DAMAGE, write_safetensors
from landuse.model.networks import NETWORKS, BalancedAttention, build_network

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from landuse.contract import ModelContract
    from landuse.model.devices import Worker
    from landuse.model.networks import PatchNetwork
    from landuse.model.training.config import TrainConfig


class TrainingRun:
    """Network, moving average, optimiser and position in the schedule."""

    def __init__(self, config: TrainConfig, contract: ModelContract, out: Path, worker: Worker) -> None:
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
        self.optimizer = torch.optim.SGD(
            _parameter_groups(self.network, config), lr=config.peak_rate, momentum=0.9, nesterov=True
        )
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

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors[f"momentum.{index}"] = state["momentum_buffer"]
        return tensors

    def save(self) -> None:
        """Write the whole state, atomically.

        Raises:
            OutputError: the folder is not writable or the disk is full.
        """
        header = {
            "epoch": str(self.epoch),
            "step": str(self.step),
            "config": json.dumps(asdict(self.config)),
        }
        write_safetensors(self.state_file, self._tensors(), header)

    def resume(self) -> bool:
        """Take up a state written earlier; False where there is none.

        Raises:
            ModelError: it belongs to another configuration or is damaged.
        """
        path = self.state_file
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  # safe_open is no mapping
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read ({error}). Remove it to start again.") from error
        try:
            if json.loads(header["config"]) != asdict(self.config):
                raise ModelError(
                    f"{path} belongs to a run with other settings. Use another --out or remove it."
                )
            for prefix, module in (("network.", self.network), ("average.", self.average)):
                module.load_state_dict(
                    {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                )
            state: dict[str, Any] = self.optimizer.state_dict()
            state["state"] = {
                int(k.removeprefix("momentum.")): {"momentum_buffer": v}
                for k, v in tensors.items()
                if k.startswith("momentum.")
            }
            self.optimizer.load_state_dict(state)
            self.epoch, self.step = int(header["epoch"]), int(header["step"])
        except DAMAGE as error:
            raise ModelError(f"{path} is damaged ({error}). Remove it to start again.") from error
        return True


def _parameter_groups(network: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Weights under decay, and biases, norms and fusion scalars free of it."""
    fusion = {id(m.balance) for m in network.modules() if isinstance(m, BalancedAttention)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in network.parameters():
        scalar = id(parameter) in fusion
        (decayed if parameter.ndim > 1 or (scalar and config.decay_fusion) else free).append(parameter)
    return [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
