"""A real browser for tests: Chromium without a window, driven by its DevTools protocol over a websocket.

`browser()` starts the process, `open_page` connects to it from the test's event loop. Waiting is the page's work: a promise
that its own changes fulfil, so that no test polls or sleeps.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 20.0  # seconds for anything to happen


def executable() -> str | None:
    """The path of Chromium; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def browser() -> Iterator[str]:
    """A running Chromium: the websocket to talk to it."""
    path = executable()
    assert path is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-extensions", "--no-proxy-server"]
        command = [path, *flags, *quiet, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("DevTools listening on "):
                    break
            else:
                raise AssertionError("chromium did not start: " + "".join(said))
            drain = threading.Thread(target=process.stderr.read, daemon=True)  # a full pipe would stop it
            drain.start()
            try:
                yield said[-1].removeprefix("DevTools listening on ").strip()
            finally:
                process.terminate()
                drain.join()


class Page:
    """One tab. `problems` collects what its console and the browser complain about."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self._target = ""
        self.problems: list[str] = []

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        number = next(self._ids)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": self._session} if self._session else {}))
        return await asyncio.wait_for(future, PATIENCE)

    async def listen(self) -> None:
        """Sort what the browser sends, until it is closed."""
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                future = self._waiting.pop(data["id"])
                if future.done():
                    continue
                if "error" in data:
                    future.set_exception(AssertionError(data["error"]["message"]))
                else:
                    future.set_result(data["result"])
            else:
                self._note(data["method"], data["params"])

    def _note(self, event: str, data: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.problems.append(str(data["exceptionDetails"].get("exception", data["exceptionDetails"]).get("description")))
        elif event == "Log.entryAdded" and data["entry"]["level"] == "error":
            self.problems.append(f"{data['entry']['text']} {data['entry'].get('url', '')}")
        elif event == "Runtime.consoleAPICalled" and data["type"] == "error":
            self.problems.append(" ".join(str(part.get("value")) for part in data["args"]))

    async def attach(self) -> None:
        """Make the tab."""
        self._target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        self._session = (await self.send("Target.attachToTarget", targetId=self._target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")

    async def detach(self) -> None:
        """Close the tab: it would go on asking its server."""
        self._session = None
        await self.send("Target.closeTarget", targetId=self._target)

    async def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the tab a size in pixels and a theme."""
        await self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def go(self, url: str) -> None:
        """Load a page."""
        result = await self.send("Page.navigate", url=url)
        assert "errorText" not in result, result
        await self.until("document.readyState === 'complete'")

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to; a promise is awaited."""
        result = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"].get("exception", result["exceptionDetails"])
        return result["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until the page's own changes make a condition true."""
        await self.value(f"""new Promise((done, fail) => {{
            const look = () => {{ if ({condition}) {{ watcher.disconnect(); done(true); }} }};
            const watcher = new MutationObserver(look);
            watcher.observe(document, {{ subtree: true, childList: true, attributes: true, characterData: true }});
            document.addEventListener("readystatechange", look);
            setTimeout(() => fail(new Error({json.dumps("never: " + condition)})), {PATIENCE * 900});
            look();
        }})""")

    async def text(self, selector: str) -> str:
        """What the first element that matches shows."""
        return str(await self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def click(self, selector: str) -> None:
        """Move the mouse to the middle of the first element that matches, and click what is there."""
        x, y = await self.value(f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{ block: "center" }});
            const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str) -> None:
        """A key such as Escape, Tab or Enter."""
        code = {"Escape": 27, "Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def picture(self) -> bytes:
        """What is seen of the page, as PNG."""
        return base64.b64decode((await self.send("Page.captureScreenshot"))["data"])


@contextlib.asynccontextmanager
async def open_page(socket: str) -> AsyncIterator[Page]:
    """A new tab of the browser behind `socket`."""
    async with aiohttp.ClientSession() as session, session.ws_connect(socket, max_msg_size=0) as connection:
        page = Page(connection)
        listening = asyncio.create_task(page.listen())
        try:
            await page.attach()
            yield page
            await page.detach()
        finally:
            await connection.close()
            await listening
