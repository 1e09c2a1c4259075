"""Does every configuration we hand out load, and name nothing that does not exist?"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from jupyterhub.proxy import ConfigurableHTTPProxy
from jupyterhub.spawner import Spawner
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from firecrestspawner import configure, settings
from firecrestspawner.authenticator import FirecRESTAuthenticator
from firecrestspawner.service import ServiceAccount
from firecrestspawner.spawner import FirecRESTSpawner

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "jupyterhub_config.py"
EXAMPLE = ROOT / "examples" / "site_config.py"

CLASSES = {
    each.__name__: each
    for each in (
        *(JupyterHub, ConfigurableHTTPProxy, Authenticator, Spawner),
        *(FirecRESTAuthenticator, FirecRESTSpawner, ServiceAccount),
    )
}
REQUIRED = {
    "FIRECREST_URL": "https://api.example.org/firecrest/v2",
    "OAUTH_CLIENT_ID": "jupyterhub",
    "OAUTH_CLIENT_SECRET": "s1",
    "SA_CLIENT_ID": "jupyterhub-service",
    "SA_CLIENT_SECRET": "s2",
    "SA_AUTH_TOKEN_URL": "https://sso.example.org/token",
    "JUPYTERHUB_CRYPT_KEY": "ab" * 32,
    "OIDC_ISSUER": "https://sso.example.org/realms/hpc",
    "HUB_PUBLIC_URL": "https://jupyter.example.org",
    "FIRECREST_SYSTEMS": "alps rigi",
    "FIRECREST_WORKDIR": "/users/{username}",
}
OPTIONAL = {
    "HUB_ADMINS": "ada bob",
    "FIRECREST_PROLOGUE": "module load jupyter",
    "HUB_CONNECT_URL": "http://10.0.0.5:8081",
    "FIRECREST_NETWORKS": "10.1.0.0/16 10.2.0.0/16",
    "FIRECREST_PORTS": "20000 20999",
    "HUB_BIND_URL": "http://0.0.0.0:80",
    "HUB_API_BIND_URL": "http://0.0.0.0:8081",
    "HUB_DATABASE_URL": "postgresql://hub@db/hub",
    "CONFIGPROXY_API_URL": "http://127.0.0.1:8001",
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*REQUIRED, *OPTIONAL):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def required_set(nothing_set: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def load(path: Path) -> Config:
    """As JupyterHub does it."""
    return PyFileConfigLoader(path.name, path=str(path.parent)).load_config()


def snippet(page: str) -> str:
    """The one configuration in a page."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    (found,) = (block for block in blocks if "configure(c)" in block)
    return found


def readme(tmp_path: Path) -> Path:
    path = tmp_path / "readme_config.py"
    path.write_text(snippet("README.md"))
    return path


def faults(config: Config) -> list[str]:
    """Settings that do not exist, or whose value their trait refuses."""
    found = []
    for section, given in config.items():
        traits = CLASSES[section].class_traits(config=True) if section in CLASSES else {}
        found += [f"{section}.{name}" for name in given if name not in traits]
    if found:
        return found
    # A value that a trait refuses raises here.
    spawner = FirecRESTSpawner(config=config)
    for each in (FirecRESTAuthenticator, ServiceAccount, JupyterHub):
        each(config=config)
    assert spawner.firecrest_url, "the URL comes from the environment"
    return found


def test_the_repositorys_configuration_sets_only_what_exists(required_set: None) -> None:
    assert faults(load(CONFIG)) == []


def test_so_it_does_with_every_optional_variable(
    required_set: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in OPTIONAL.items():
        monkeypatch.setenv(name, value)
    config = load(CONFIG)
    assert faults(config) == []
    assert config.FirecRESTSpawner.port_range == (20000, 20999)
    assert config.FirecRESTSpawner.connect_networks == ["10.1.0.0/16", "10.2.0.0/16"]
    assert config.FirecRESTSpawner.hub_connect_url == "http://10.0.0.5:8081"
    assert config.Authenticator.admin_users == {"ada", "bob"}
    assert config.ConfigurableHTTPProxy.should_start is False


def test_every_variable_the_configuration_reads_is_explained(required_set: None) -> None:
    read = set(re.findall(r'(?:environ(?:\.get\(|\[)|words\()\s*"([A-Z_]+)"', CONFIG.read_text()))
    required = set(re.findall(r'^    "([A-Z_]+)":', CONFIG.read_text(), re.M))
    assert read | required == set(REQUIRED) | set(OPTIONAL)
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert [name for name in sorted(read | required) if f"`{name}`" not in page] == []


def test_the_readmes_configuration_sets_only_what_exists(
    required_set: None, tmp_path: Path
) -> None:
    assert faults(load(readme(tmp_path))) == []


def test_the_readmes_configuration_is_about_a_dozen_lines() -> None:
    lines = [line for line in snippet("README.md").splitlines() if line.strip()]
    assert len(lines) <= 14


def test_the_examples_configuration_sets_only_what_exists(required_set: None) -> None:
    assert faults(load(EXAMPLE)) == []


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_variable_is_named_in_one_sentence(
    name: str, required_set: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(SystemExit) as exit_:
        load(CONFIG)
    sentence = str(exit_.value.code)
    assert f"please set {name} (" in sentence
    assert "\n" not in sentence
    assert [other for other in REQUIRED if f"{other} (" in sentence] == [name]


def test_no_secret_is_read_into_the_configuration(required_set: None, tmp_path: Path) -> None:
    """S1: `jupyterhub --show-config` may be pasted into a ticket."""
    for path in (CONFIG, EXAMPLE, readme(tmp_path)):
        shown = repr(load(path))
        secret = ("OAUTH_CLIENT_SECRET", "SA_CLIENT_SECRET", "JUPYTERHUB_CRYPT_KEY")
        assert [name for name in secret if repr(REQUIRED[name]) in shown] == []


def test_jupyterhub_itself_says_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jupyterhub", "-f", str(CONFIG)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("jupyterhub_config.py: please set FIRECREST_URL (")
    assert len(done.stderr.splitlines()) == 1


def test_two_systems_get_what_each_needs_and_keep_nothing_of_the_other(
    required_set: None,
) -> None:
    spawner = FirecRESTSpawner(config=load(EXAMPLE))
    rigi, alps = settings.on(spawner, "rigi"), settings.on(spawner, "alps")
    assert (rigi.workdir, rigi.requests["partition"]) == ("/home/{username}", "interactive")
    assert rigi.port_range == (20000, 20999)
    assert alps.workdir == "/scratch/{username}"
    assert "partition" not in alps.requests
    assert alps.batch_script == "/etc/jupyterhub/alps.sh.j2"
    assert alps.port_range == (0, 0)


# --- configure(c) ---------------------------------------------------------------------------

SETTINGS = [
    ("JupyterHub", "authenticator_class", "dummy"),
    ("JupyterHub", "spawner_class", "simple"),
    ("JupyterHub", "cleanup_servers", True),
    ("JupyterHub", "concurrent_spawn_limit", 7),
    ("Authenticator", "enable_auth_state", False),
]


def test_configure_sets_what_a_hub_needs_and_only_what_exists(required_set: None) -> None:
    c = Config()
    configure(c)
    assert faults(c) == []
    assert c.JupyterHub.authenticator_class == c.JupyterHub.spawner_class == "firecrest"
    # R6: the Hub's own default would stop every server with the Hub.
    assert c.JupyterHub.cleanup_servers is False
    assert c.JupyterHub.concurrent_spawn_limit == 0
    assert {(s, name) for s, settings in c.items() for name in settings} == {
        # Where pages are looked for is added to, see test_pages.
        ("JupyterHub", "template_paths"),
        *((section, name) for section, name, _ in SETTINGS),
    }, "test_configure_leaves_what_a_site_has_set has to know every setting"


@pytest.mark.parametrize(("section", "name", "value"), SETTINGS)
def test_configure_leaves_what_a_site_has_set(section: str, name: str, value: object) -> None:
    c = Config()
    c[section][name] = value
    configure(c)
    assert c[section][name] == value


def test_configure_twice_is_configure_once() -> None:
    once, twice = Config(), Config()
    configure(once)
    configure(twice)
    configure(twice)
    # Changes of a default, which know no equality.
    changes = [c.JupyterHub.pop("template_paths").to_dict() for c in (once, twice)]
    assert changes[0] == changes[1]
    assert once == twice
