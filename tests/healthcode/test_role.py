from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from loadtest.healthcode.settings import read, read_file

ROLE = Path(__file__).resolve().parents[2] / "infra/ansible/roles/healthcode"


def test_the_settings_the_role_writes_are_the_ones_the_service_reads(tmp_path: Path) -> None:
    jinja = Environment(
        loader=FileSystemLoader(ROLE / "templates"), undefined=StrictUndefined, trim_blocks=True
    )
    text = jinja.get_template("healthcode.env.j2").render(
        site="site-a",
        site_address="10.77.0.11",
        ports={"service": 8444, "primary": 5000},
        pki_dir="/etc/zaibei/pki",
        zaibei_etc="/etc/zaibei",
        healthcode_doors=["10.77.0.11", "10.77.0.12"],
        healthcode_workers=2,
        healthcode_pool_size=8,
        healthcode_in_flight=256,
        healthcode_cpu_us=0,
        healthcode_settings={"COMMAND": "4s"},
    )
    (tmp_path / "env").write_text(text)
    settings = read(read_file(tmp_path / "env"))
    assert settings.hosts() == (["10.77.0.11", "10.77.0.12"], [5000, 5000])
    assert (settings.port, settings.workers, settings.command.total_seconds()) == (8444, 2, 4)
    assert settings.tls_key == Path("/etc/zaibei/pki/healthcode.pem")
    assert settings.db_ca_file == Path("/etc/zaibei/pki/postgres.crt")
