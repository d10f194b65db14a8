"""A Chromium without a window, for pages that tests look at."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

SIZE_PX = (1000, 700)


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own; the test is skipped where none is installed, but in the CI.

    One pixel of the page is one of its pictures. Selenium looks for nothing on the network.
    """
    driver = shutil.which("chromedriver")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if driver is None or browser is None:
        reason = "needs Chromium and chromedriver (Debian: apt install chromium-driver)"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(f"{reason}, and CI=true forbids the skip")
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for switch in (
        "headless=new",
        "no-sandbox",  # tests may run as root, in a container
        "disable-dev-shm-usage",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "hide-scrollbars",
        "force-color-profile=srgb",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        resize(page, *SIZE_PX)
        yield page
    finally:
        page.quit()


def resize(page: webdriver.Chrome, width_px: int, height_px: int, *, mobile: bool = False) -> None:
    """Give the page a viewport of this size, with one device pixel a CSS pixel."""
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": mobile},
    )


def picture(page: webdriver.Chrome) -> np.ndarray:
    """What the page looks like now, (y, x, 3)."""
    return np.asarray(Image.open(BytesIO(page.get_screenshot_as_png())).convert("RGB"))
