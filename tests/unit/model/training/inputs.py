"""What networks are fed while they train."""

from contextlib import contextmanager

from torch.nn.modules.module import register_module_forward_pre_hook

from landuse.model.networks import PatchNetwork


@contextmanager
def training_inputs():
    """The inputs of every network of patches in training mode, in order."""
    seen = []

    def note(module, given):
        if isinstance(module, PatchNetwork) and module.training:
            seen.append(given[0])

    handle = register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
