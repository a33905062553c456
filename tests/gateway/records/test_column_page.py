"""`docs/extending/column.md`, followed on a copy of the package: the fact is recorded, shown, exported; old databases open."""

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
import json, sys
from pathlib import Path
import bitroute
from bitroute.cost import CostModel
from bitroute.gateway.records.export import export_records
from bitroute.gateway.records.history import History
from bitroute.gateway.records.reading import Filter
from bitroute.gateway.records.tables import VERSION
from support.traffic import LADDER, Play, recorder, until

path = Path(sys.argv[1])
kept = recorder(path)
played = Play(kept, "mine")
played.step("a")
played.step("b")
until(lambda: kept.pending == 0)
history = History(f"sqlite:///{path}", LADDER, CostModel.steps(LADDER))
old = next(row for row in history.episodes(None, 50) if row["id"] != "mine")
shown = [[step.get("opened", "missing") for step in history.episode(scope, id_)["played"]]
         for scope, id_ in (("", "mine"), (old["scope"], old["id"]))]
export_records(kept.engine, path.with_name("out.jsonl"), Filter(), "records")
lines = [json.loads(line) for line in path.with_name("out.jsonl").read_text().splitlines()]
exported = [line["step"]["opened"] for line in lines if line["step"]["episode"] == "mine"]
history.close()
kept.close()
print(json.dumps({"from": bitroute.__file__, "version": VERSION, "shown": shown, "exported": exported}))
"""


def inserted(text: str, line: str, before: str, after: str = "") -> str:
    """`text` with a line before the first `before` that follows `after`."""
    at = text.index(before, text.index(after))
    return text[:at] + line + "\n" + text[at:]


def test_the_page_that_says_how_to_record_a_fact_is_right(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "extending" / "column.md").read_text()
    blocks = re.findall(r'```diff title="src/bitroute/gateway/records/(\w+\.py)"\n\+(.*)\n```', page)
    (step, field), (again, value), (tables, migration) = blocks
    assert (step, again, tables) == ("step.py", "step.py", "tables.py")
    copy = tmp_path / "src" / "bitroute"
    shutil.copytree(ROOT / "src" / "bitroute", copy, ignore=shutil.ignore_patterns("__pycache__"))
    records = copy / "gateway" / "records"
    text = inserted((records / step).read_text(), field, "\n    @classmethod", "class StepRecord(")
    (records / step).write_text(inserted(text, value, "        )\n\n", "return cls("))
    (records / tables).write_text(inserted((records / tables).read_text(), migration, "}\nVERSION", "MIGRATIONS"))
    shutil.copy(ROOT / "tests" / "fixtures" / "gateway" / "records-0.1.db", tmp_path / "records.db")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(copy.parent), str(ROOT / "tests")))}
    command = [sys.executable, "-c", CHECK, str(tmp_path / "records.db")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found.pop("from")).is_relative_to(tmp_path)
    assert found == {"version": 3, "shown": [[True, False], [None, None]], "exported": [True, False]}
