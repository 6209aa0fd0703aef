import json

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
