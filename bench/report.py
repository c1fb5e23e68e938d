"""The demo's pages: how large they are, how long they take to be made and to open in Chromium, and a page over 200,000 answers.

Run after `steercache demo` in the folder whose `cache` it filled: python -m bench.report --root cache
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steercache.api.cache import open_cache_at
from tests.report.browser import browser_tab
from tests.report.test_large import large_cache

PAGES = ("demo.html",)
SWEEP = "demo-count"


def run(root: Path = Path("cache")) -> Iterator[dict[str, Any]]:
    """One row for every number; nothing of the demo where it was not run here."""
    with tempfile.TemporaryDirectory() as folder, browser_tab(Path(folder) / "browser") as tab:
        pages = [root / "pictures" / name for name in PAGES if (root / "pictures" / name).is_file()]
        if (root / "sweeps").is_dir():
            started = time.perf_counter()
            pages.append(open_cache_at(root).report(SWEEP, Path(folder) / "sweep.html"))
            took = time.perf_counter() - started
            yield {"name": "make the page of the demo's sweep", "value_s": took, "target": "< 5 s", "met": took < 5}
        for page in pages:
            size = page.stat().st_size / 2**20
            yield {"name": f"size of {page.name}", "value_mib": size, "target": "< 5 MiB", "met": size < 5}
            took = _opened(tab, page)
            yield {"name": f"open {page.name} in Chromium", "value_s": took, "target": "< 2 s", "met": took < 2}
        cache, n = large_cache(Path(folder) / "large")
        started = time.perf_counter()
        page = cache.report("large", Path(folder) / "large.html")
        took, size = time.perf_counter() - started, page.stat().st_size / 2**20
        yield {"name": f"make a page over {n:,} answers", "value_s": took, "target": "< 40 s", "met": took < 40}
        yield {"name": "its size", "value_mib": size, "target": "< 5 MiB", "met": size < 5}


def _opened(tab: Any, page: Path) -> float:
    """Seconds until the page is loaded and laid out at the width of a desk."""
    tab.look(1400)
    started = time.perf_counter()
    tab.open(page)
    tab.ask("document.documentElement.scrollHeight")
    return time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("cache"))
    for row in run(parser.parse_args().root):
        print(row)
