"""Memory that is used again. Oracle: the kernel's count of pages that were touched for the first time."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from landuse.model.memory import reused_memory

SIZE = 64 * 2**20
PAGES = SIZE // resource.getpagesize()

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        bytes([1]) * SIZE
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert new_pages() > 4 * PAGES
with reused_memory():
    new_pages()
    with reused_memory():
        assert new_pages() < PAGES
    assert new_pages() < PAGES  # the inner one ended nothing
assert new_pages() > 4 * PAGES
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_what_is_freed_is_used_again_and_then_given_back():
    # A process of its own: what other tests have freed would be used again too.
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
