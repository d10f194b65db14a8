"""The nightly run as a Prefect 3 flow: a task run for each area, with retries; scheduled by ``serve``.

Needs the extra ``landuse[prefect]``. Nothing else here imports Prefect; the run itself knows nothing of it.
Areas follow one another in the flow's own thread: one of them fills a machine.
"""

# Prefect runs the file of a served flow without making it a module, where annotations that are text have no
# names to refer to: this file does not postpone them. Meanwhile Prefect puts the file's folder at the front
# of sys.path: so the file is not called prefect.py, which would then hide Prefect itself.

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from landuse.errors import LanduseError, UsageError
from landuse.workflows.nightly.config import load_config

if TYPE_CHECKING:
    from typing import Any

    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task

RETRY_DELAYS_S = (60.0, 600.0)
"""How long to wait before an area is tried again in the same night."""


class AreasFailedError(LanduseError):
    """Something of an area, or of a night, is not mapped; the ledger has the reasons."""


def _worth_retrying(_task: "Task[..., Any]", _run: "TaskRun", state: "State[Any]") -> bool:
    """Whether an area's failure may be over in minutes.

    A config does not mend itself, and scenes that failed are the ledger's to try again another night.
    """
    failure = state.result(raise_on_failure=False)
    return not isinstance(failure, UsageError | AreasFailedError)


@task(
    name="nightly-area",
    task_run_name="{area}",
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=list(RETRY_DELAYS_S),
    retry_condition_fn=_worth_retrying,
    cache_policy=NO_CACHE,  # what is done already is for the ledger to know
    persist_result=False,
)
def nightly_area(config: Path, area: str) -> None:
    """Map what is new in one area. The config goes by its path: Prefect keeps what it is given.

    Raises:
        LanduseError: the area could not be worked on, or something in it failed.
    """
    from landuse.workflows.nightly.run import run_area  # torch takes seconds to import

    settings = load_config(config)
    report = run_area(settings, settings.area(area))
    if report.error:
        raise LanduseError(report.error)
    if report.failed:
        raise AreasFailedError(
            f"{report.failed} maps of area {area!r} failed. Another night tries them again; "
            "`landuse nightly status` has the reasons."
        )


@flow(name="landuse-nightly", persist_result=False)
def nightly_flow(config: Path, areas: list[str] | None = None) -> None:
    """Map what is new in all areas of a config, or in those named; one's failure stops no other.

    Raises:
        UsageError: the config is wrong, or has no such area; no area is begun then.
        AreasFailedError: of some areas not everything is mapped.
    """
    from landuse.workflows.nightly.status import write_own_metrics  # pulls in what a scheduler never needs

    settings = load_config(config)
    names = [settings.area(name).name for name in dict.fromkeys(areas or ())]
    names = names or [area.name for area in settings.areas]
    states = {name: nightly_area(config, name, return_state=True) for name in names}
    failed = [name for name, state in states.items() if not state.is_completed()]
    told = f"{len(failed)} of {len(names)} areas failed: {', '.join(failed)}. Their task runs say why."
    try:
        write_own_metrics(settings)
    except LanduseError as error:
        if not failed:
            raise error from None  # Prefect logs the causes of what is raised: they may quote a password
        told = f"{told} Nor is there a metrics_file: {error}"
    if failed:
        raise AreasFailedError(told) from None
