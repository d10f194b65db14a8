"""Options that several commands have, and what the shell completes."""

from __future__ import annotations

import logging
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from landuse.model import shipped_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType


def one_of(*values: str) -> Callable[[], list[str]]:
    """Completion of an option that knows these values; the workflow that gets it refuses any other."""
    return lambda: list(values)


def _quiet(context: typer.Context, wanted: bool) -> bool:
    """Whether ``--quiet`` stands here or before the command's name."""
    wanted = wanted or bool(context.find_root().params.get("quiet"))
    if wanted:
        logging.getLogger().setLevel(logging.ERROR)
    return wanted


QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", callback=_quiet, help="Nothing on stderr but errors: no progress, no notes."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace results that are in --out already.")]
DeviceOption = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda or cuda:INDEX.", autocompletion=one_of("auto", "cpu", "cuda")),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="Arithmetic of a model that classifies each pixel. fp32: the same map on every machine. bf16: "
        "about twice as fast on processors that compute in it, much slower on others; some pixels differ. "
        "auto: times both here, says what each takes, and takes the faster one.",
        autocompletion=one_of("fp32", "bf16", "auto"),
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="Name of a shipped model (see `landuse models`) or path of a .safetensors.",
        autocompletion=shipped_models,
    ),
]
AnyModelOption = Annotated[
    str,
    typer.Option(
        help="Name of a shipped model (see `landuse models`), or path of a .safetensors, or of an ONNX or "
        "TorchScript file with its contract beside it.",
        autocompletion=shipped_models,
    ),
]
PrivateHostsOption = Annotated[
    bool,
    typer.Option(
        "--allow-private-hosts",
        help="Let a source on the web lead to addresses of this machine and of private networks, also "
        "other than its own.",
    ),
]

IMAGE_PANEL = "An image of your own, as of landuse catalog"
"""Heading of what has to be stated of an image that no catalogue describes."""

ImageLevelOption = Annotated[
    str | None,
    typer.Option(
        help="Processing level of an image: L1C or L2A.",
        autocompletion=one_of("L1C", "L2A"),
        rich_help_panel=IMAGE_PANEL,
    ),
]
ImageDatetimeOption = Annotated[
    str | None,
    typer.Option("--datetime", help="When an image was acquired, ISO 8601.", rich_help_panel=IMAGE_PANEL),
]
ImageBaselineOption = Annotated[
    str | None, typer.Option(help="Processing baseline of an image, NN.NN.", rich_help_panel=IMAGE_PANEL)
]
ImageScaleOption = Annotated[
    float | None,
    typer.Option(
        help="Of an image: reflectance = scale x stored + offset; default: tags, else 0.0001.",
        rich_help_panel=IMAGE_PANEL,
    ),
]
ImageOffsetOption = Annotated[
    float | None,
    typer.Option(
        help="Of an image, in reflectance; default: tags, else baseline.", rich_help_panel=IMAGE_PANEL
    ),
]
ImageNodataOption = Annotated[
    float | None,
    typer.Option(
        help="Of an image: stored value that means nodata; default: tags, else 0 (NaN for floats).",
        rich_help_panel=IMAGE_PANEL,
    ),
]


def grouped(panels: Mapping[str, Sequence[str]]) -> type[TyperCommand]:
    """A command whose help lists its parameters under headings.

    Args:
        panels: parameters' names by heading, in the order of the help. What is in none goes under its own
            ``rich_help_panel``, or under the last one.
    """

    class Grouped(TyperCommand):
        def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  # click's own signature
            records = {
                parameter.name: record
                for parameter in self.get_params(ctx)
                if (record := parameter.get_help_record(ctx)) is not None
            }
            all_panels = {title: list(names) for title, names in panels.items()}
            listed_names = {name for names in panels.values() for name in names}
            last = list(panels)[-1]
            for parameter in self.get_params(ctx):
                if parameter.name not in listed_names:
                    own = getattr(parameter, "rich_help_panel", None) or last
                    all_panels.setdefault(own, []).append(parameter.name)
            for title, names in all_panels.items():
                listed = [records[name] for name in names if name in records]
                with formatter.section(title):
                    formatter.write_dl(listed)

    return Grouped


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


@contextmanager
def terminable() -> Iterator[None]:
    """While ``kill`` and a system that shuts down let the run tidy up."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
