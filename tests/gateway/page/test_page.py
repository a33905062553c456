"""The page in a real browser, which clicks and reads; recorded text is hostile, and the console must stay silent."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from bitroute.cost import CostModel
from bitroute.gateway.admin.app import admin_app
from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.telemetry.metrics import Metrics
from support.browser import Page, browser, executable, open_page
from support.recorded import LADDER, FakeKeys, FakePolicy, FakeRecorder, FakeUpstreams, fill, opening, row, write

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="there is no chromium to look with"),
]

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
DRAWN = " && ".join(
    [
        "document.querySelectorAll('#steps tbody .chip').length === 12",
        "document.querySelectorAll('#episodes tbody button').length === 25",
        "document.querySelectorAll('#policies tbody tr').length >= 2",
        "document.querySelector('#chart-share svg') && document.querySelector('#chart-cost svg')",
    ]
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[str]:
    with browser() as websocket:
        yield websocket


class Site:
    """An admin port over made-up parts and records of the hour until now."""

    def __init__(self, folder: Path) -> None:
        self.records, self.now = f"sqlite:///{folder / 'records.db'}", time.time()
        self.policy = FakePolicy()
        fill(self.records, 40, now=self.now)
        variants = [{"name": name, "urls": ["http://a"]} for name in LADDER]
        config = GatewayConfig.of({"variants": variants, "records": {"url": self.records}}, "test")
        metrics = Metrics(LADDER, CostModel.steps(LADDER))
        app = admin_app(self.policy, FakeUpstreams(), FakeRecorder(), metrics, FakeKeys(), config)
        self.server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None))

    def visit(self, chromium: str, work: Callable[[Page], Awaitable[None]], *, width: int = 1400, dark: bool = False) -> None:
        """Open the page, wait until all of it is drawn, and `work` on it."""

        async def main() -> None:
            sock = socket.create_server(("127.0.0.1", 0))
            serving = asyncio.create_task(self.server.serve([sock]))
            try:
                async with open_page(chromium) as page:
                    await page.look(width, 900, dark=dark)
                    await page.go(f"http://127.0.0.1:{sock.getsockname()[1]}/")
                    await page.until(DRAWN)
                    await work(page)
                    assert page.problems == []
            finally:
                self.server.should_exit = True
                await serving

        asyncio.run(main())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_page_shows_what_was_recorded(site: Site, chromium: str) -> None:
    async def work(page: Page) -> None:
        assert await page.text("#link") == "live"
        assert await page.text("#what") == "signals@1 · split · budget 0.3"
        tiles = [await page.text(f"#{name}") for name in ("share", "saved", "took", "count")]
        assert [text[-1] for text in tiles[:2]] == ["%", "%"]
        assert tiles[2].endswith(" ms")
        label = await page.value("document.querySelector('#chart-share svg').getAttribute('aria-label')")
        assert re.fullmatch(r"Share at high precision against budget: \d+ % of [\d,]+ routed steps, budget 30 %", label)
        policies = await page.text("#policies tbody")
        assert policies.splitlines()[0].startswith("signals@1\t27\t")
        assert "signals@1 · trial\t13\t" in policies
        replicas = await page.text("#replicas tbody")
        assert "http://127.0.0.1:8002\t✕ down\t0\t17" in replicas
        assert replicas.count("● healthy") == 2
        assert "not reported" in await page.text("#episodes tbody tr")
        colours = await page.value(
            "['low', 'high'].map(name => [...document.querySelectorAll('#steps .chip')].find(c => c.innerText === name))"
            ".map(chip => getComputedStyle(chip, '::before').backgroundColor)"
        )
        assert colours[0] != colours[1]
        heights = await page.value("[...document.querySelectorAll('#strip i')].map(i => i.getBoundingClientRect().height)")
        assert len(heights) == 200
        assert len(set(heights)) == 2

    site.visit(chromium, work)


def test_older_episodes_and_other_times(site: Site, chromium: str) -> None:
    async def work(page: Page) -> None:
        await page.click("#older")
        await page.until("document.querySelectorAll('#episodes tbody tr').length === 40")
        assert await page.value("document.querySelector('#older').hidden")
        await page.value(
            "(() => { const w = document.querySelector('#window'); w.value = '24h'; w.dispatchEvent(new Event('change')); })()"
        )
        await page.until("document.querySelector('#count-note').innerText === 'answered in 24 hours'")

    site.visit(chromium, work)


@pytest.mark.slow
def test_steps_arrive_while_one_looks(site: Site, chromium: str) -> None:
    def arrive(episode: str) -> None:
        more = {"reason": "router-error", "ended": "dropped", "status": 200, "score": 0.125, "threshold": 0.5}
        write(site.records, [opening(episode, site.now)], [row(episode, 0, site.now, "high", intended="low", **more)])

    async def work(page: Page) -> None:
        arrive("newcomer")
        await page.until("document.querySelector('#steps tbody tr').innerText.includes('newcomer')")
        cells = (await page.text("#steps tbody tr")).split("\t")
        assert cells[1:6] == ["newcomer", "0", "high", "0.125", "router-error, router: low"]
        assert cells[-1] == "dropped 200"
        assert await page.value("document.querySelector('#strip').lastChild.className") == "failed"

        await page.click("#pause")
        assert await page.value("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
        arrive("later")
        await page.until("document.querySelector('#episodes tbody').innerText.includes('later')")
        await page.click("#pause")
        await page.until("document.querySelector('#steps tbody tr').innerText.includes('later')")

    site.visit(chromium, work)


def test_the_kill_switch_asks_first(site: Site, chromium: str) -> None:
    async def work(page: Page) -> None:
        await page.click("#choices button[value=high]")
        await page.until("document.querySelector('#confirm').open")
        assert await page.text("#confirm-title") == "Send everything to high?"
        await page.click("#confirm button[value=no]")
        await page.until("!document.querySelector('#confirm').open")
        assert site.policy.asked == []

        await page.click("#choices button[value=high]")
        await page.press("Escape")
        await page.until("!document.querySelector('#confirm').open")
        assert site.policy.asked == []

        await page.click("#choices button[value=high]")
        await page.click("#confirm-yes")
        await page.until("!document.querySelector('#alert').hidden")
        assert site.policy.asked == ["high"]
        assert await page.text("#alert") == "The kill switch is on: everything goes to high."
        assert await page.value("document.querySelector('#choices button[value=high]').getAttribute('aria-pressed')") == "true"

        await page.click("#choices button[value='']")
        await page.click("#confirm-yes")
        await page.until("document.querySelector('#alert').hidden")
        assert site.policy.asked == ["high", None]

    site.visit(chromium, work)


def test_one_episode_step_by_step(site: Site, chromium: str) -> None:
    told = {
        "message": HOSTILE,
        "action": "open <b>drawer</b>",
        "reason": HOSTILE,
        "score": 0.75,
        "threshold": 0.5,
        "floor": HOSTILE,
    }
    played = [row("hostile", i, site.now + i, ("low", "high")[i % 2], policy=HOSTILE, **told) for i in range(4)]
    write(site.records, [opening("hostile", site.now + 1, success=True, session=HOSTILE, policy="p<b>")], played)

    async def work(page: Page) -> None:
        await page.value("document.querySelector('#episodes tbody button').focus()")
        await page.press("Enter")
        await page.until("document.querySelector('#episode').open && document.querySelectorAll('#played li').length === 4")
        assert await page.text("#episode-title") == "Episode hostile"
        facts = await page.text("#episode-facts")
        assert "✓ success" in facts
        assert "50 %" in facts
        assert HOSTILE in facts
        first = await page.text("#played li:nth-child(2)")
        assert first.startswith("Step 1")
        assert "score 0.750 ≥ 0.500" in first
        assert "60 prefilled, 300 cached, 20 decoded" in first
        assert HOSTILE in first
        assert "open <b>drawer</b>" in first
        await page.click("#played li:nth-child(2) summary")
        recorded = await page.text("#played li:nth-child(2) dl")
        for name, value in (("floor", HOSTILE), ("first_token", "0.1"), ("attempts", '[{"variant":"high"')):
            assert f"{name}\n{value}" in recorded
        assert "message" not in recorded.lower()
        assert await page.value("document.querySelectorAll('img, #played b, #episode script').length") == 4  # the step numbers
        assert await page.value("document.title") == "bitroute"
        assert await page.value("document.querySelectorAll('#episode-chart circle.mark').length") == 4
        await page.press("Escape")
        await page.until("!document.querySelector('#episode').open")

    site.visit(chromium, work)


@pytest.mark.parametrize(("width", "dark"), [(390, False), (820, True)])
def test_narrow_windows_scroll_tables_and_not_the_page(site: Site, chromium: str, width: int, dark: bool) -> None:
    async def work(page: Page) -> None:
        assert await page.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        background = await page.value("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(20, 23, 28)" if dark else "rgb(244, 245, 247)")
        await page.click("#episodes tbody button")
        await page.until("document.querySelector('#episode').open")
        assert await page.value("document.querySelector('#episode').getBoundingClientRect().right <= innerWidth")

    site.visit(chromium, work, width=width, dark=dark)


def test_a_gateway_that_is_gone_is_said(site: Site, chromium: str) -> None:
    async def work(page: Page) -> None:
        site.server.should_exit = True
        await page.until("document.querySelector('#link').className === 'off'")
        assert (await page.text("#link")).startswith("no answer")
        page.problems.clear()  # the browser says so, too

    site.visit(chromium, work)
