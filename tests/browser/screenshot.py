"""Makes docs/dashboard.png of README.md: `adit demo`, with some requests, in a real browser.

    python -m venv venv && venv/bin/pip install -r tests/browser/requirements.txt
    cargo build && venv/bin/python tests/browser/screenshot.py docs
"""

import contextlib
import os
import sys

os.environ["SHOTS"] = sys.argv[1] if len(sys.argv) > 1 else "target/browser"

from support.browser import Page, chromium  # noqa: E402
from support.cluster import ANY, Cluster, Traffic, held  # noqa: E402

# So long that the plots have a shape, in events of the page.
EVENTS = 45

with Cluster() as cluster, chromium() as browser:
    demo = cluster.start("demo", "--edge-bind", ANY, "--link-bind", ANY, "--admin-bind", ANY)
    edge = demo.printed(r"edge +http://(\S+)")
    admin = demo.printed(r"admin +http://(\S+)")
    demo.printed(r"(Ctrl-C) ends it")
    page = Page(browser, f"http://{admin}", color_scheme="light", viewport={"width": 1280, "height": 730})
    page.page.set_default_timeout(120_000)
    page.open("/")
    with contextlib.ExitStack() as traffic:
        for pause in (0.01, 0.02, 0.2):
            traffic.enter_context(Traffic(edge, "hello", pause))
        # Flows that stay open.
        for _ in range(3):
            traffic.enter_context(held(edge, "hello", "/events"))
        page.until(f"() => (document.querySelector('#tiles path')?.getAttribute('d') ?? '').split(/[ML]/).length > {EVENTS}")
        path = page.shot("dashboard")
    page.close()
    print(f"{path}: {os.path.getsize(path)} bytes")
