"""`bitroute serve --demo`: a suite's language model at two precisions behind two llama-servers of our own, and a gateway's
configuration that points at them. The gateway itself is started by others, and knows nothing of this.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bitroute.engines.llama_server import llama_server
from bitroute.envs.models import find_model
from bitroute.envs.registry import DEFAULT, load_suite
from bitroute.envs.suite import Role, Suite, split_for
from bitroute.gateway.core.config import GatewayConfig, Source
from bitroute.quantization.gguf import export_gguf

WORK: Final = Path("runs/gateway-demo")
DOCUMENTATION: Final = "https://bitroute.readthedocs.io"

Announce = Callable[[str, str], None]


@contextmanager
def start_demo(
    flags: Source,
    model: Path | None = None,
    work: Path = WORK,
    *,
    suite: Suite | None = None,
    environment: Source | None = None,
) -> Iterator[tuple[GatewayConfig, Announce]]:
    """Two running servers as (configuration, what to print when the gateway listens). They end with the context.

    `suite` None is the default one, `model` None its own; a trained router that lies beside the model, by the suite's name for
    it, decides. What `flags` set wins; what `environment` sets counts where nothing else does. The GGUF files are made in
    `work` the first time, where the records go, too. Raises ConfigError for a flag that is wrong, DataError when the model
    cannot be read or a file in `work` is another model's, ModuleNotFoundError without the extra `serve-demo`.
    """
    suite = suite or load_suite(DEFAULT)
    model = model or find_model(suite.defaults.model, suite)
    ladder = {"low": f"gguf-{suite.defaults.low}", "high": "gguf-f16"}  # cheapest first; what the trained router was trained on
    files = {name: export_gguf(model, scheme, work) for name, scheme in ladder.items()}
    trained = model.with_name(suite.defaults.router.name) if suite.defaults.router else None
    opening = opening_of(suite)
    with ExitStack() as stack:
        variants = [{"name": name, "urls": (stack.enter_context(llama_server(file, name)),)} for name, file in files.items()]
        own: dict[str, object] = {
            "variants": variants,
            # The router shares its cores with two servers and the client: here a late decision is better than none.
            "routing": {"router": str(trained) if trained and trained.is_dir() else "heuristic", "timeout": 1.0},
            "records": {"url": f"sqlite:///{work / 'records.db'}"},
        }
        config = GatewayConfig.merge([*([environment] if environment else []), Source("demo", own), flags])
        yield config, lambda url, admin: print(_introduction(config, url, admin, opening), flush=True)


def _introduction(config: GatewayConfig, url: str, admin: str, opening: str) -> str:
    return f"""\
bitroute serves {url}/v1: router {config.routing.router}, budget {config.routing.budget:.0%} of the steps at high precision
page, metrics and kill switch: {admin}
behind it: {", ".join(f"{variant.name} at {variant.urls[0]}" for variant in config.variants)}; records: {config.records.url}

{example(url, opening)}
"""


def opening_of(suite: Suite) -> str:
    """How an episode begins, as the model was trained to read it: the first validation task."""
    first = suite.environment().reset(suite.task(split_for(suite, Role.VALIDATION), 0))
    return suite.message([first])


def example(url: str, opening: str) -> str:
    """How to ask the server at `url` for the action after `opening`: with curl, and with the openai client."""
    body = json.dumps({"model": "auto", "temperature": 0, "messages": [{"role": "user", "content": opening}]})
    return f"""\
Try it:

curl -i {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="none")
opening = {json.dumps(opening)}
answer = client.chat.completions.create(model="auto", temperature=0, messages=[{{"role": "user", "content": opening}}])
print(answer.model, answer.choices[0].message.content)

Whole episodes, and what comes next: the guides to the gateway at {DOCUMENTATION}"""
