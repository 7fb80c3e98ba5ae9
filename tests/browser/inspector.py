"""The inspector's page in a real browser: headless Chromium, driven by Playwright, with real processes of the real binary.

    ADIT=target/debug/adit python tests/browser/inspector.py

It needs the package `playwright` and a Chromium (CHROMIUM, or /usr/bin/chromium); screenshots go to target/browser/."""

import http.client
import http.server
import json
import os
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
from fabric import Fabric, Service, check

from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SHOTS = os.path.join("target", "browser")
SECRET = "hunter2"
PATIENCE = 15_000


class Handler(http.server.BaseHTTPRequestHandler):
    """A small shop: it tells what has come, and what is asked of it."""

    protocol_version = "HTTP/1.1"
    came = []
    down = False
    more = threading.Event()

    def log_message(self, *_):
        pass

    def answer(self, status, kind, body, **fields):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        if self.down:
            self.close_connection = True
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.came.append((self.command, self.path, dict(self.headers), body))
        path = self.path.split("?")[0]
        if path == "/logo.png":
            self.answer(200, "image/png", bytes(range(256)) * 20)
        elif path == "/missing":
            self.answer(404, "text/plain", b"There is no such page.\n")
        elif path == "/broken":
            self.answer(500, "application/json", b'{"error":"the database does not answer"}')
        elif path == "/old":
            self.answer(302, "text/plain", b"", location="/orders?token=" + SECRET)
        elif path == "/slow":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.close_connection = True
            self.wfile.write(b"data: one\n\n")
            self.wfile.flush()
            self.more.wait(60)
            self.wfile.write(b"data: two\n\n")
        else:
            told = {"id": 1042, "access_token": SECRET, "said": body.decode("utf-8", "replace").replace(SECRET, "-"),
                    "items": [{"name": "lamp", "price": 12.5}, {"name": "<b>rope</b>", "price": 4}]}
            self.answer(200, "application/json", json.dumps(told).encode(), set_cookie=f"session={SECRET}; Path=/; HttpOnly")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = serve


class Page:
    """What a page has done that it should not."""

    def __init__(self, browser, address, scheme="light", width=1280):
        self.context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 800}, accept_downloads=True,
            permissions=["clipboard-read", "clipboard-write"])
        self.address, self.wrong = address, []
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", lambda message: self.note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("request", self.look_at)
        self.page.goto(f"http://{address}/")

    def note(self, kind, text):
        if kind in ("error", "warning"):
            self.wrong.append(f"{kind}: {text}")

    def look_at(self, request):
        url = request.url
        if not url.startswith((f"http://{self.address}/", "data:", "blob:")):
            self.wrong.append(f"foreign: {url}")

    def until(self, what, holds):
        """Waits for an expression of the page to hold, and says what did not. The page's policy keeps a function from being
        made of it, as Playwright's own wait would."""
        end = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(holds):
            if time.monotonic() > end:
                self.shot("failed")
                check(what, False)
            self.page.wait_for_timeout(20)
        check(what, True)

    def shot(self, name):
        os.makedirs(SHOTS, exist_ok=True)
        self.page.screenshot(path=os.path.join(SHOTS, f"inspector-{name}.png"))


def count(number):
    return f"document.querySelectorAll('#list li').length === {number}"


def ask(address, method, path, body=None, **fields):
    headers = {"x-adit-endpoint": "web", **{name.replace("_", "-"): value for name, value in fields.items()}}
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def traffic(edge):
    order = json.dumps({"customer": "ann", "password": SECRET, "items": ["lamp", "rope"], "note": "<script>x</script>"})
    ask(edge, "GET", f"/orders?page=2&token={SECRET}", cookie=f"session={SECRET}", user_agent="shop/1.0")
    ask(edge, "POST", "/orders", order, content_type="application/json", authorization=f"Bearer {SECRET}", x_api_key=SECRET)
    ask(edge, "GET", "/logo.png")
    ask(edge, "GET", "/missing")
    ask(edge, "GET", "/old")
    ask(edge, "PATCH", "/orders/7", b"state=sent&password=" + SECRET.encode(), content_type="application/x-www-form-urlencoded")
    ask(edge, "GET", "/broken")
    ask(edge, "DELETE", "/a/rather/long/path/that/does/not/fit/into/the/list/at/the/left/of/the/page?with=a&query=too")


def looks(browser, at, edge, fabric):
    one = Page(browser, at)
    page = one.page
    one.until("says what is served while there is nothing", "document.querySelector('#empty').textContent.includes('web')")
    one.shot("empty")
    traffic(edge)
    one.until("requests appear live, by themselves", count(8))
    first = page.locator("#list li").first
    check("the newest is first", "DELETE" in first.inner_text())

    # By the keyboard.
    page.locator("#list").focus()
    page.keyboard.press("ArrowDown")
    one.until("an arrow chooses", "document.querySelector('#exchange h2')?.textContent.startsWith('DELETE')")
    page.keyboard.press("End")
    one.until("End goes to the oldest", "document.querySelector('#exchange h2')?.textContent.startsWith('GET /orders?page=2')")
    page.keyboard.press("ArrowUp")
    one.until("an arrow moves", "document.querySelector('#exchange h2')?.textContent.startsWith('POST /orders')")
    text = page.locator("#exchange").inner_text()
    check("JSON is on lines of its own", '"items": [\n    "lamp",' in text)
    check("headers are there", "content-type" in text and "Bearer [secret-" in text)
    check("markup is text", "<script>x</script>" in text and "<b>rope</b>" in text)
    check("no markup came of it", page.locator("#exchange pre script, #exchange pre b").count() == 0)
    one.shot("light")
    dark = Page(browser, at, "dark")
    dark.until("another page has all of it", count(8))
    dark.page.locator("#list li").nth(6).click()
    dark.until("a click chooses", "document.querySelector('#exchange h2')?.textContent.startsWith('POST /orders')")
    dark.shot("dark")
    narrow = Page(browser, at, width=560)
    narrow.until("a narrow page has all of it", count(8))
    narrow.page.locator("#list li").nth(2).click()
    narrow.until("a narrow page shows one", "document.querySelector('#exchange h2') !== null")
    narrow.shot("narrow")

    # Filters.
    page.keyboard.press("/")
    check("/ goes to the filter", page.evaluate("document.activeElement.id") == "text")
    page.keyboard.type("database does not")
    one.until("a text in a body is found", count(1))
    page.keyboard.press("Escape")
    one.until("Escape ends the filter", count(8))
    page.select_option("#status", "4xx")
    one.until("a status is filtered", count(1))
    page.select_option("#status", "")
    page.select_option("#method", "PATCH")
    one.until("a method is filtered", count(1))
    page.fill("#text", SECRET)
    one.until("what is hidden is not found", count(0))
    page.fill("#text", "")
    page.select_option("#method", "")
    one.until("without a filter all are there", count(8))

    # Binary.
    page.locator("#list li", has_text="/logo.png").click()
    one.until("bytes are shown as bytes", "document.querySelector('#exchange pre')?.textContent.startsWith('000000  00 01 02')")
    one.shot("binary")

    # Again, as it was.
    page.locator("#list li", has_text="POST").click()
    one.until("the order is shown", "document.querySelector('#exchange h2')?.textContent.startsWith('POST /orders')")
    before = len(Handler.came)
    page.click("#replay")
    one.until("a replay appears", count(9))
    one.until("it is shown", "document.querySelector('#exchange .facts')?.textContent.includes('replay of #2')")
    sent, again = [came for came in Handler.came if came[0] == "POST"][:2]
    check("the request was sent again", len(Handler.came) == before + 1 and again[:2] == sent[:2] and again[3] == sent[3])
    check("with its secrets", again[2]["authorization"] == f"Bearer {SECRET}" and SECRET.encode() in again[3])

    # Edited.
    page.locator("#list li").nth(1).click()
    page.keyboard.press("Home")
    page.locator("#list li[data-id='2']").click()
    one.until("the first order is shown", "document.querySelector('#exchange .facts')?.textContent.startsWith('#2 ')")
    page.locator("#list").focus()
    page.keyboard.press("e")
    page.fill("#edit-target", "/orders?again=1")
    body = page.input_value("#edit-body")
    check("the body is masked for editing", SECRET not in body and "[secret-" in body)
    page.fill("#edit-body", body.replace("lamp", "a brighter lamp"))
    fields = page.input_value("#edit-headers")
    check("what is of the connection is not for editing", "content-length" not in fields)
    page.fill("#edit-headers", fields + "\nX-Edited: yes")
    one.shot("edit")
    page.keyboard.press("Control+Enter")
    one.until("an edited replay appears", count(10))
    came = Handler.came[-1]
    check("the edited request has reached the service", came[1] == "/orders?again=1" and b"a brighter lamp" in came[3])
    check("with what its masks stand for", SECRET.encode() in came[3] and came[2].get("x-edited", came[2].get("X-Edited")) == "yes")
    one.until("it is shown as what it is", "document.querySelector('#exchange h2')?.textContent === 'POST /orders?again=1'")
    page.keyboard.press("e")
    page.keyboard.press("Escape")
    one.until("Escape leaves the editor", "document.querySelector('#edit-body') === null && document.querySelector('#replay') !== null")

    # Out of here.
    page.keyboard.press("c")
    one.until("it says that it has copied", "document.querySelector('#told').textContent.includes('Copied')")
    command = page.evaluate("navigator.clipboard.readText()")
    check("a curl command is copied", command.count("curl ") == 1 and "/orders?again=1'" in command and SECRET not in command)
    with page.expect_download() as download:
        page.click("#har")
    with open(download.value.path()) as file:
        archive = json.load(file)
    check("an archive is saved", download.value.suggested_filename == "adit.har" and len(archive["log"]["entries"]) == 10)
    check("without secrets in it", SECRET not in json.dumps(archive))

    # While it streams.
    streaming = threading.Thread(target=ask, args=(edge, "GET", "/slow"))
    streaming.start()
    one.until("a stream is listed", count(11))
    page.locator("#list li").first.click()
    one.until("what has come of it is shown", "document.querySelector('#exchange')?.textContent.includes('data: one')")
    check("it has not ended", "answering" in page.locator("#exchange .facts").first.inner_text())
    Handler.more.set()
    one.until("what comes then is shown by itself", "document.querySelector('#exchange')?.textContent.includes('data: two')")
    one.until("and its end", "document.querySelector('#exchange .facts')?.textContent.endsWith('done')")
    streaming.join()

    # Nothing that is secret, anywhere.
    for number in range(11):
        page.locator("#list li").nth(number).click()
        one.until(f"exchange {11 - number} is shown", f"document.querySelector('#exchange .facts')?.textContent.startsWith('#{11 - number} ')")
        check("without a secret", SECRET not in page.content())
    for other in (dark, narrow):
        check("nor on the other pages", SECRET not in other.page.content())
        check(f"no other page did what it should not: {other.wrong}", not other.wrong)
        other.context.close()
    check(f"no error, no warning, no request elsewhere: {one.wrong}", not one.wrong)
    return one


def foreign(browser, at):
    """A page of another origin has a browser that reaches the inspector."""
    class Evil(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            body = f"""<!doctype html><iframe src="http://{at}/"></iframe><script>
                const tried = [fetch('http://{at}/api/exchanges/2/replay', {{ method: 'POST', mode: 'no-cors' }}),
                               fetch('http://{at}/api/exchanges/2').then((answer) => answer.text())];
                Promise.allSettled(tried).then((ended) => {{ document.title = ended[1].status; }});
            </script>""".encode()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    evil = Service(Evil)
    before = len(Handler.came)
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://{evil.address}/")
    page.wait_for_function("document.title !== ''", timeout=PATIENCE)
    check("a foreign page reads nothing", page.title() == "rejected")
    frames = [frame for frame in page.frames if frame.parent_frame]
    check("and shows nothing in a frame", all(frame.locator("#list").count() == 0 for frame in frames))
    check("and has nothing sent again", len(Handler.came) == before)
    context.close()


def lost(one, fabric, agent, service):
    """The agent goes, and comes back at the same address."""
    page, at = one.page, one.address
    agent.kill()
    one.until("it says that the agent is lost", "!document.querySelector('#lost').hidden")
    one.shot("lost")
    again = fabric.start("agent", "http", "web", service.address, "--connect", fabric.link, "--inspect", at)
    again.printed(r"(serving) ")
    one.until("it heals by itself", "document.querySelector('#lost').hidden")
    one.until("and shows what is there now", count(0))
    one.until("of the old run nothing is left", "document.querySelector('#exchange').hidden")
    ask(fabric.http, "GET", "/orders")
    one.until("and it goes on", count(1))
    page.click("#clear")
    one.until("all of it can be cleared", count(0))
    strange = [text for text in one.wrong if "ERR_CONNECTION_REFUSED" not in text and "ERR_INCOMPLETE_CHUNKED" not in text
               and "ERR_EMPTY_RESPONSE" not in text and "ERR_CONNECTION_RESET" not in text]
    check(f"but for the lost connection no error: {strange}", not strange)


def unreached(one, fabric, service):
    service.shutdown()
    service.server_close()
    # Connections that stand go on, until they are used once more.
    Handler.down = True
    check("the client is told 502", any(ask(fabric.http, "GET", "/orders") == 502 for _ in range(20)))
    one.until("a service that is down is shown", "document.querySelector('#list li .status')?.textContent === 'failed'")
    one.page.locator("#list li").first.click()
    one.until("with what was wrong", "document.querySelector('#exchange .error')?.textContent.includes('cannot connect')")
    one.shot("down")


def main():
    service = Service(Handler)
    with Fabric() as fabric, sync_playwright() as playwright:
        agent = fabric.agent("http", "web", service.address, "--inspect", "0")
        at = agent.printed(r"inspect http://(\S+)/")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        one = looks(browser, at, fabric.http, fabric)
        foreign(browser, at)
        lost(one, fabric, agent, service)
        unreached(one, fabric, service)
        browser.close()


main()
