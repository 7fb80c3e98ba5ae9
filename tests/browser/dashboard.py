"""The dashboard in a real browser, at real nodes: what happens in the cluster is seen on the page.

ADIT is the program, CHROMIUM the browser; screenshots come to SHOTS, target/browser unless said otherwise.
"""

import json
import os
import re
import signal
import subprocess
import urllib.request

from support.browser import Page, chromium
from support.cluster import ADIT, Cluster, Traffic, adit_ports, check, echo, post

AGENTS = 1000

# What a name of an agent must not become.
MARKUP = "<img src=x onerror=alert(1)>"

ROWS = "(text) => [...document.querySelectorAll('#table tbody tr')].some((row) => row.innerText.includes(text))"
BOX = "(label) => [...document.querySelectorAll('#picture .box')].some((box) => box.getAttribute('aria-label').startsWith(label))"
STORY = "(text) => [...document.querySelectorAll('#story li')].some((item) => item.textContent.includes(text))"
TILE = "([name, low, high]) => { const value = parseFloat(document.querySelector(`#tile-${name} dd`).textContent.replace(',', '')); " \
       "return value >= low && value <= high; }"


def number(page, tile):
    return float(re.sub(r"[^0-9.]", "", page.text(f"#tile-{tile} dd")) or 0)


def live(page):
    page.until("() => document.getElementById('live').textContent === 'live' && !document.getElementById('main').hidden")


def life_of_a_cluster(browser):
    """A cluster that grows, works, and shrinks again, as its first node tells of it."""
    service = echo()
    with Cluster() as cluster:
        one = cluster.node("n1")
        page = Page(browser, f"http://{one.admin}", color_scheme="light")
        page.open("/")
        live(page)
        check("the root leads to the dashboard, which is live", page.page.url.endswith("/dashboard"))
        check("one node is shown, and no agent", page.text("#tile-nodes-ready dd") == "1 of 1" and "No agent" in page.text("#legend"))

        two = cluster.node("n2", "--drain-delay", "4s", "--grace-period", "20s", join=one)
        page.until(BOX, "node n2, ready")
        page.until(ROWS, "n2")
        page.until(STORY, "n2 has joined")
        check("a node that joins appears in the picture, in the table and in what happens", True)
        page.until("() => /ms/.test(document.querySelector('#picture .arcs .rtt')?.textContent ?? '')")
        check("the link between the two has its round-trip time", True)

        cluster.agent("http", "web", service.address, two, "--name", MARKUP)
        page.until(BOX, "web")
        page.until(BOX, MARKUP)
        check("an agent and its endpoint appear, and a name with markup is text",
              page.page.locator("img").count() == 0 and MARKUP in page.page.locator("#picture").text_content())

        before = number(page, "requests-s")
        with Traffic(one.edge, "web") as traffic:
            page.until(TILE, ["requests-s", 1, 1e6])
            page.until("() => /ms/.test(document.querySelector('#tile-99-answered-in dd').textContent)")
            # By the keyboard: the largest rate first.
            page.page.get_by_role("button", name="Requests/s", exact=True).click()
            page.until("() => document.querySelector('#table tbody tr').innerText.startsWith('n1')")
            page.shot("traffic")
        check(f"requests move the numbers: from {before} to some a second, {traffic.answered} in all", before == 0)
        page.until(TILE, ["requests-s", 0, 0])
        check("the numbers fall when they end", True)
        with Traffic(one.edge, "web", path="/fail"):
            page.until(TILE, ["errors-s", 0.1, 1e6])
        check("responses with a status of 500 are counted as errors", True)

        late = Page(browser, f"http://{one.admin}")
        late.open("/dashboard")
        late.until(STORY, "node n2: node linked")
        check("what has happened before the page was opened is listed", late.page.locator("#story li", has_text="node n2: node linked").count() == 1)
        late.close()

        scripts(page)
        keyboard(page)
        hang(page, two)
        drain(page, one, two)
        loss(page, one)
        check(f"nothing was asked of another origin: {page.elsewhere}", not page.elsewhere)
        complaints = page.complaints_but_for_the_network()
        check(f"the browser has nothing to complain of: {complaints}", not complaints)
        page.close()


def scripts(page):
    """What the page makes of clusters that are larger than one that a check could start."""
    made = page.page.evaluate("""async () => {
        const [{ plan }, { story }, { note, sorted }] = await Promise.all(
            ['picture', 'story', 'tables'].map((name) => import(`/dashboard/${name}.js`)));
        const rows = (count, make) => new Map(Array.from({ length: count }, (_, place) => make(place)).map((row) => [row.key, row]));
        const node = (place) => ({ key: `n${place}`, phase: place === 150 ? 'draining' : 'ready', this: place === 7, suspect: false, agent_links: 5, flows: 0 });
        const agent = (place) => ({ key: `t/${place}`, tenant: 't', agent: `${place}`.padStart(32, '0'), name: null, nodes: [`n${place % 200}`],
            endpoints: ['web'], endpoints_total: 1, flows: 0, suspect: false });
        const links = rows(199, (place) => ({ key: `n7 x${place}`, nodes: ['n7', `n${place < 7 ? place : place + 1}`], suspect: false, loss: 0, rtt_ms: 1 }));
        const state = { node: 'n7', nodes: rows(200, node), links, agents: rows(1000, agent), endpoints: rows(1, () => ({ key: 't/web', tenant: 't',
            endpoint: 'web', agents: 1000, suspects: 0, flows: 0 })) };
        const large = plan(state);
        const boxes = [...large.nodes, ...large.agents, ...large.endpoints];
        const apart = boxes.every((a) => boxes.every((b) => a === b || a.x !== b.x || Math.abs(a.y - b.y) >= a.high));
        const alone = { ...state, nodes: rows(1, node), agents: new Map(), endpoints: new Map() };
        return {
            nodes: large.nodes.length, seen: large.nodes.map((one) => one.key), agents: large.agents.length, high: large.high, apart,
            left: story(alone, { ...alone, agents: state.agents }).map(([, sentence]) => sentence),
            drains: story(state, { ...state, nodes: new Map([...state.nodes, ['n1', { ...node(1), phase: 'draining', flows: 1 }]]) }).map(([, said]) => said),
            notes: [note('agents', 100, 1000, 1000, false), note('agents', 0, 0, 3, false), note('agents', 0, 0, 0, false)],
            order: sorted([{ key: 'a', n: 2 }, { key: 'b', n: 10 }, { key: 'c', n: null }], { number: true, by: (row) => row.n ?? -1 }, true).map((row) => row.key),
        };
    }""")
    check("of 200 nodes those are drawn that matter, without covering each other",
          made["nodes"] == 24 and {"n7", "n150"} <= set(made["seen"]) and made["agents"] == 10 and made["apart"] and made["high"] < 1300)
    check(f"many that come are told in one sentence: {made['left']}", made["left"] == ["1,000 agents are linked"])
    check(f"a drain is told with what it waits for: {made['drains']}", made["drains"] == ["n1 is draining: it has 5 agents and 1 open flow"])
    check("what a table leaves out is said", made["notes"] == [
        "Showing 100 of 1,000 agents: search to narrow.", "None of 3 agents is found by this search.", "No agents."])
    check("numbers are sorted as numbers, and what is not known last", made["order"] == ["b", "a", "c"])


def keyboard(page):
    keys = page.page.keyboard
    page.page.locator("body").click(position={"x": 2, "y": 2})
    keys.press("/")
    keys.type("n2")
    page.until("() => document.querySelectorAll('#table tbody tr').length === 1")
    check("/ leads to the search, which finds the row", page.page.evaluate("document.activeElement.id") == "search")
    keys.press("Escape")
    page.until("() => document.querySelectorAll('#table tbody tr').length === 2")
    page.page.locator("#tab-nodes").focus()
    keys.press("ArrowRight")
    page.until(ROWS, "web")
    check("arrow keys change the table", page.page.evaluate("document.activeElement.id") == "tab-endpoints")
    page.page.locator("#picture .box[tabindex='0']").focus()
    keys.press("ArrowDown")
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    label = page.page.evaluate("document.activeElement.getAttribute('aria-label')")
    keys.press("Enter")
    page.until("() => document.getElementById('search').value === 'web'")
    check(f"arrow keys go through the picture, and Enter shows the row: {label}", label.startswith("web"))
    page.page.locator("#search").press("Escape")
    page.page.locator("#tab-nodes").click()


def hang(page, node):
    node.process.process.send_signal(signal.SIGSTOP)
    page.until(BOX, "node n2, silent")
    page.until(STORY, "n2 does not answer")
    page.shot("silent")
    node.process.process.send_signal(signal.SIGCONT)
    page.until(BOX, "node n2, ready")
    page.until(STORY, "n2 answers again")
    check("a node that hangs is shown as silent, and as ready when it goes on", True)


def drain(page, one, two):
    post(one.admin, "/api/v1/drain?node=n2")
    page.until(BOX, "node n2, draining")
    page.until(STORY, "n2 is draining")
    page.until(ROWS, "draining")
    page.shot("draining-light")
    page.page.emulate_media(color_scheme="dark")
    page.shot("draining-dark")
    page.page.emulate_media(color_scheme="light")
    check("a node that drains is shown as that in the picture, in the table and in what happens", True)
    page.until("() => !document.querySelector('#picture .nodes').textContent.includes('n2')")
    page.until(STORY, "n2 has left")
    check("it is gone when it has left", two.process.process.wait(30) == 0)


def loss(page, one):
    one.process.kill()
    page.until("() => !document.getElementById('banner').hidden")
    said = page.text("#banner")
    check(f"the page says that it lost the connection, and since when: {said}", re.search(r"lost at \d\d:\d\d:\d\d", said))
    check("what is shown is greyed out", page.page.evaluate("document.body.classList.contains('lost')"))
    page.shot("lost")
    one.again()
    page.until("() => document.getElementById('banner').hidden && document.getElementById('live').textContent === 'live'")
    page.until(STORY, "the connection is back")
    check("it heals by itself when the node is back", not page.page.evaluate("document.body.classList.contains('lost')"))


def tokens(browser):
    """A node that asks for a token: the page asks for one, too."""
    with Cluster() as cluster:
        def adit(*words):
            return subprocess.run([ADIT, *words], cwd=cluster.folder, check=True, capture_output=True, text=True).stdout

        adit("token", "key", "--out", "keys")
        token = adit("token", "--key", "keys/token.key", "--tenant", "*", "--action", "admin").strip()
        node = cluster.node("n1", "--admin-auth-key-file", "keys/token.pub")
        page = Page(browser, f"http://{node.admin}")
        page.open("/dashboard")
        field = page.page.locator("#token")
        field.wait_for()
        page.shot("token")
        check("a token is asked for, and nothing shown", not page.page.locator("#main").is_visible())
        field.fill("nonsense")
        field.press("Enter")
        page.until("() => document.getElementById('refused').textContent.length > 20")
        check(f"a wrong one is refused, and it is said why: {page.text('#refused')}", page.page.locator("#login").is_visible())
        field.fill(token)
        field.press("Enter")
        live(page)
        check("the right one is taken", page.text("#tile-nodes-ready dd") == "1 of 1")
        page.page.reload()
        live(page)
        kept = page.page.evaluate("[localStorage.length, document.cookie, location.href, Object.keys(sessionStorage).join()]")
        check(f"it is kept in the tab's session alone: {kept}", kept[:2] == [0, ""] and token not in kept[2] and kept[3] == "adit-token")
        complaints = page.complaints_but_for_the_network()
        check(f"the browser has nothing to complain of: {complaints}", not complaints)
        page.close()


def many_agents(browser):
    """A node with a thousand agents, all of one process."""
    with Cluster() as cluster:
        bench = cluster.start("bench", "idle", "--agents", str(AGENTS), "--settle", "10m", "--duration", "1s")
        admin = next(filter(is_admin, adit_ports(bench.process.pid)))
        page = Page(browser, f"http://127.0.0.1:{admin}")
        page.page.set_default_timeout(120_000)
        page.open("/dashboard")
        live(page)
        page.until(TILE, ["agents", AGENTS, AGENTS])
        page.until(TILE, ["endpoints", AGENTS, AGENTS])
        page.until("() => document.querySelectorAll('#picture .agents .box').length <= 12")
        drawn = page.page.locator("#picture .box").count()
        check(f"a thousand agents are drawn as few boxes: {drawn}", drawn < 40)
        page.page.locator("#tab-agents").click()
        page.until("() => document.getElementById('count').textContent.startsWith('Showing 100 of 1,000 agents')")
        check("of a table as many rows are shown as anybody reads", page.page.locator("#table tbody tr").count() == 100)
        page.page.evaluate("""() => {
            window.longest = 0;
            new PerformanceObserver((list) => {
                for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration);
            }).observe({ type: 'longtask' });
        }""")
        page.page.keyboard.press("/")
        page.page.keyboard.type(f"idle-{AGENTS - 1}")
        page.until("() => document.querySelectorAll('#table tbody tr').length === 1")
        check("the search finds one of them", f"idle-{AGENTS - 1}" in page.text("#table tbody"))
        page.shot("many-light")
        page.page.emulate_media(color_scheme="dark")
        page.page.locator("#search").press("Escape")
        page.shot("many-dark")
        longest = page.page.evaluate("window.longest")
        complaints = page.complaints_but_for_the_network()
        check(f"the browser has nothing to complain of: {complaints}; its longest task took {longest:.0f} ms", not complaints)
        page.close()
        # It ends its node.
        bench.stop()


def is_admin(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/status", timeout=5) as answer:
            return "phase" in json.load(answer)
    except (OSError, ValueError):
        return False


with chromium() as browser:
    print(f"{os.path.basename(__file__)}: Chromium {browser.version}, {ADIT}")
    life_of_a_cluster(browser)
    tokens(browser)
    many_agents(browser)
