"""A real Chromium without a window, for the checks of pages: what it complains of, and whom it asks, is kept."""

import contextlib
import os
import urllib.parse

from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")

# Screenshots, to be looked at; never committed.
SHOTS = os.path.abspath(os.environ.get("SHOTS", "target/browser"))

# A page has so long for anything that it must come to show, in milliseconds.
PATIENCE = 20_000


@contextlib.contextmanager
def chromium():
    """The browser; root cannot have its sandbox."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """A page of one origin, and what went wrong with it."""

    def __init__(self, browser, origin, **context):
        self.origin = origin
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.complaints = []
        self.elsewhere = []
        self.page.on("console", self._says)
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on("request", self._asks)

    def _says(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _asks(self, request):
        found = urllib.parse.urlsplit(request.url)
        if f"{found.scheme}://{found.netloc}" != self.origin:
            self.elsewhere.append(request.url)

    def open(self, path="/"):
        self.page.goto(self.origin + path)

    def until(self, script, argument=None):
        """Waits until a script says yes."""
        self.page.wait_for_function(script, arg=argument)

    def text(self, selector):
        return self.page.locator(selector).inner_text()

    def complaints_but_for_the_network(self):
        """A browser complains of each request that fails; where that is what is looked at, it is no fault of the page."""
        return [one for one in self.complaints if "Failed to load resource" not in one and "net::" not in one]

    def shot(self, name, **options):
        os.makedirs(SHOTS, exist_ok=True)
        path = os.path.join(SHOTS, f"{name}.png")
        self.page.screenshot(path=path, **options)
        return path

    def close(self):
        self.context.close()
