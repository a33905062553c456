"""Just enough of ALFWorld's domain and grammar for the loader to know them: what an export needs where no official file is."""

from __future__ import annotations

from typing import Final

from bitroute.envs.alfworld.simulator.export import Rules

ACTIONS: Final = {
    "look": "look",
    "inventory": "inventory",
    "examineReceptacle": "examine {r}",
    "examineObject": "examine {o}",
    "GotoLocation": "go to [{r.name | receptacleatlocation(r:receptacle, lend:location)}]",
    "OpenObject": "open {r}",
    "CloseObject": "close {r}",
    "PickupObject": "take {o} from {r}",
    "PutObject": "move {o} to {r}",
    "CleanObject": "clean {o} with {r}",
    "HeatObject": "heat {o} with {r}",
    "CoolObject": "cool {o} with {r}",
    "ToggleObject": "use {o}",
    "SliceObject": "slice {co} with {ko}",
    "help": "help",
}
RULES: Final = Rules(
    domain="(define (domain alfred)\n" + "\n".join(f"(:action {name} )" for name in ACTIONS) + ")",
    grammar='grammar :: """ {"task": [ { "rhs": "Your task is to: UNKNOWN \\"GOAL\\"." } ]} """;\n'
    + "\n".join(f'action {name} {{\n    template :: "{template}";\n}}' for name, template in ACTIONS.items()),
)
