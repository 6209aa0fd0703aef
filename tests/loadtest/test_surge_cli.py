import json
import socket
from pathlib import Path

from inline_snapshot import snapshot
from typer.testing import CliRunner

from zaibei.cli.surge import app
from zaibei.kernel.errors import Refused

CLI = CliRunner()


def test_the_list_is_data_on_stdout() -> None:
    said = CLI.invoke(app, ["list", "--json"])

    assert said.exit_code == 0
    assert [s["name"] for s in json.loads(said.stdout)["scenarios"]] == snapshot(
        ["policy-step", "surge-during-failover"]
    )


def test_a_foreign_door_is_refused_with_the_exit_code_of_a_refusal() -> None:
    said = CLI.invoke(app, ["run", "policy-step", "--door", "https://192.0.2.10"])

    assert isinstance(said.exception, Refused)
    assert said.exception.exit_code == 4
    assert said.stdout == ""


NOBODY = """
name: nobody
title: {zh: 无人得到服务, en: nobody is served}
hazard: H2
summary: a port that nobody listens on
shape: {kind: constant, rate_rps: 20, duration: 2s}
persons: {count: 10}
visits: [{name: ask, weight: 1, steps: [{name: ask, path: /}]}]
patience: {refresh_after: 1s, refreshes_max: 0}
expect: {success_ratio_min: 0.99}
caps: {send_lag_p99: 0.001ms}
"""


def test_a_dead_service_is_fail_also_when_the_generator_missed_its_bound(tmp_path: Path) -> None:
    (tmp_path / "nobody.yml").write_text(NOBODY)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        door = f"http://127.0.0.1:{held.getsockname()[1]}"
        said = CLI.invoke(
            app,
            [
                "run",
                str(tmp_path / "nobody.yml"),
                "--door",
                door,
                "--json",
                "--run-dir",
                str(tmp_path / "run"),
            ],
        )

    assert said.stdout, said.exception
    told = json.loads(said.stdout)
    assert told["result"]["generator_verdict"]["word"] == "INVALID"
    assert told["verdict"] == "FAIL"
    assert "were never served" in told["harm"]
    assert said.exit_code == 1
