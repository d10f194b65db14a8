"""Runs the nightly flow on a schedule: python serve_prefect.py [CONFIG.yaml].

Needs the extra `prefect` of landuse, and a Prefect server (`prefect server start`) at PREFECT_API_URL.
"""

from __future__ import annotations

import sys
from pathlib import Path

from landuse.workflows.nightly.prefect_flow import nightly_flow

CRON = "30 3 * * *"
"""Every night at 03:30 UTC."""

if __name__ == "__main__":
    config = Path(sys.argv[1] if len(sys.argv) > 1 else "config.yaml").absolute()
    nightly_flow.serve(
        name="landuse-nightly",
        cron=CRON,
        parameters={"config": str(config)},
        limit=1,  # a night that is not over yet is not run into by the next
    )
