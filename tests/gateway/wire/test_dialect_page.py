"""`docs/extending/dialect.md`, followed on a copy of the package: the dialect is routed, relayed, recorded and described."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

# In a process of its own, with the copy for a package.
CHECK = """
import asyncio, json, sys
from pathlib import Path
import aiohttp
import bitroute
from support import upstream as up
from support.gateway import gateway_config, running
from support.upstream import ScriptedUpstream

TIMINGS = {"prompt_n": 4, "predicted_n": 2, "cache_n": 30}
WHOLE = {"content": "go on", "stop": True, "model": "up", "timings": TIMINGS}
PIECES = [up.event({"content": "go", "stop": False}), up.event({"content": " on", "stop": True, "timings": TIMINGS})]

async def main():
    answers = [up.raw(json.dumps(WHOLE).encode()), up.stream(*PIECES)]
    async with ScriptedUpstream() as low, ScriptedUpstream(answers) as high:
        config = gateway_config(Path(sys.argv[1]), low.url, high.url, records={"store_content": True})
        async with running(config) as gateway, aiohttp.ClientSession(gateway.url) as client:
            async with client.post("/completion", json={"model": "auto", "prompt": "hi", "n_predict": 2}) as response:
                whole = await response.json()
            async with client.post("/completion", json={"model": "auto", "prompt": "hi", "stream": True}) as response:
                stream = (await response.read()).decode()
            async with client.post("/completion", json={"model": "auto"}) as response:
                refused = (await response.json())["error"]["message"]
            async with client.get("/completion") as response:
                other = response.status
            async with client.get("/openapi.json") as response:
                body = (await response.json())["paths"]["/completion"]["post"]["requestBody"]
            async with aiohttp.ClientSession(gateway.admin) as admin, asyncio.timeout(20):
                steps = []
                while len(steps) < 2:
                    async with admin.get("/steps.json") as response:
                        steps = (await response.json())["steps"]
        sent = [(seen.path, seen.json) for seen in high.requests]
    schema = body["content"]["application/json"]["schema"]
    return {
        "from": bitroute.__file__, "whole": whole, "stream": stream, "refused": refused, "other": other, "sent": sent,
        "required": schema["required"], "prompt": schema["properties"]["prompt"],
        "steps": [[step[name] for name in ("ended", "prefill", "cached", "decode")] for step in steps],
    }

print(json.dumps(asyncio.run(main())))
"""


def test_the_page_that_says_how_to_add_a_dialect_is_right(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "extending" / "dialect.md").read_text()
    ((name, code),) = re.findall(r'```python title="src/bitroute/gateway/wire/dialects/(\w+\.py)"\n(.*?)```', page, re.DOTALL)
    ((imported, entry),) = re.findall(r'```diff title="[\w/]+registry\.py"\n\+(.*)\n\.\.\.\n\+(.*)\n```', page)
    copy = tmp_path / "src" / "bitroute"
    shutil.copytree(ROOT / "src" / "bitroute", copy, ignore=shutil.ignore_patterns("__pycache__"))
    dialects = copy / "gateway" / "wire" / "dialects"
    (dialects / name).write_text(code)
    registry = (dialects / "registry.py").read_text()
    first, last = "from bitroute.gateway.wire.dialects.messages", "    )\n}\n"
    assert registry.count(first) == registry.count(last) == 1
    (dialects / "registry.py").write_text(
        registry.replace(first, f"{imported}\n{first}").replace(last, f"{entry}\n{last}"),
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(copy.parent), str(ROOT / "tests")))}
    command = [sys.executable, "-c", CHECK, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found.pop("from")).is_relative_to(tmp_path)
    timings = {"prompt_n": 4, "predicted_n": 2, "cache_n": 30}
    assert found == {
        "whole": {"content": "go on", "stop": True, "model": "high", "timings": timings},
        "stream": (
            'data: {"content": "go", "stop": false}\n\n'
            'data: {"content": " on", "stop": true, "timings": {"prompt_n": 4, "predicted_n": 2, "cache_n": 30}}\n\n'
        ),
        "refused": "Invalid 'prompt': is required.",
        "other": 405,
        "sent": [
            ["/completion", {"model": "high", "prompt": "hi", "n_predict": 2}],
            ["/completion", {"model": "high", "prompt": "hi", "stream": True}],
        ],
        "required": ["model", "prompt"],
        "prompt": {"type": "string"},
        "steps": [["complete", 4, 30, 2], ["complete", 4, 30, 2]],
    }
