import os
import subprocess
import sys

import pytest

from bitroute.threads import OTHERS, POLICY, wait_passively


def test_threads_sleep_while_they_wait() -> None:
    environment = {"PATH": "/bin"}
    wait_passively(environment)
    assert environment == {"PATH": "/bin", "OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize("name", [POLICY, *OTHERS])
def test_what_the_user_says_stays(name: str) -> None:
    environment = {name: "30"}
    wait_passively(environment)
    assert environment == {name: "30"}


def test_the_command_line_says_so_before_torch_is_loaded() -> None:
    code = (
        "import os, sys\n"
        "from bitroute.cli.main import main\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "main(['--version'])\n"
        "print(os.environ['OMP_WAIT_POLICY'])\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in (POLICY, *OTHERS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "passive"
