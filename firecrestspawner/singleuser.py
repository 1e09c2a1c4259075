"""How does a server start on its compute node, tell its Hub where it is, and end only on proof?

Standard library and Python 3.8 only, in one file: this source travels packed inside the batch
script (script.py), where ``{{cmd}}`` runs it.

1. *Claim.* Ticket and job facts come from the environment, or, where that was cleaned
   (``srun --export=NONE``, ``apptainer --cleanenv``), from a file that the script wrote, whose path
   is ``argv[1]``. Both are gone before anything starts. Of several tasks one acts.
2. *hello* until the Hub answers or patience is over. The answer brings environment and command.
3. The command runs in a group of its own, on a free port; *ready* once it, nobody else, listens.
4. *alive* as long as it lives. Only a verdict signed for this spawn (or a day of nothing but
   "unknown") ends it: no HTTP status, no login page, no dead Hub.
5. *exiting*, and the server's own exit code.

Requests go straight to the Hub, as the server's own do: no proxy variables, no cookies, and no
redirects, as one could carry the ticket elsewhere.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hmac
import json
import os
import pwd
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from urllib.parse import SplitResult, urlsplit

TYPE_CHECKING = False  # importing typing takes milliseconds
if TYPE_CHECKING:
    from typing import Any, BinaryIO

# Seconds, unless another unit is given.
FIRST_DELAY, LONGEST_DELAY = 0.5, 60.0  # between retries: doubles, jittered
REQUEST_DEADLINE = 10.0
SHORTEST_ALIVE, LONGEST_ALIVE = 1.0, 3600.0  # bounds on the Hub's "next"
START_SILENCE = 60.0  # not listening for so long: is the server still wanted?
LOOK_EVERY = 0.01
FAREWELL = 15.0  # for telling the Hub that the server ended; its monitor sees that too
UNKNOWN_PATIENCE = 86400
REQUEUED_PATIENCE = 30.0  # of a job that runs again and that its Hub does not know
ANSWER_LIMIT, LINE_LIMIT, HEADERS = 1 << 20, 1 << 16, 100  # bytes, bytes, lines
PORT_TRIES = 5
ADDRESS_LIMIT = 16

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
MPI_RANKS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
JOB_IDS = ("SLURM_JOB_ID", "SLURM_JOBID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
JOB_ENDS = ("SLURM_JOB_END_TIME", "FIRECREST_JOB_END")


def main() -> int:
    """Run one server. Returns its exit code, or 1 after one line on stderr that says why not."""
    path = sys.argv[1] if len(sys.argv) > 1 else ""
    os.environ.pop("FIRECREST_LAUNCHER", None)
    blob = os.environ.pop("FIRECREST_TICKET", "")
    if os.environ.pop("FIRECREST_WAIT", ""):
        os.environ.pop("SLURM_WAIT", None)  # the preamble's: it would end a notebook's own sruns
    facts = dict(os.environ)
    rank = next((facts[n] for n in (*MPI_RANKS, "SLURM_PROCID") if facts.get(n, "").isdigit()), "0")
    if int(rank) > 0:
        return stand_by("SLURM_PROCID" in facts)
    if blob:
        remove(path)
    else:
        claimed = claim(path)
        if claimed is None:
            return stand_by(True)
        blob = claimed.pop("FIRECREST_TICKET", "")
        facts = {**claimed, **facts}
    try:
        session = Session(blob, facts)
    except (ValueError, KeyError, TypeError):
        say("no usable ticket: neither its variable nor its file reached this node")
        return 1
    try:
        return session.run()
    finally:
        dismiss(facts)


def say(text: str) -> None:
    """One short line on stderr; a full disk there must not end the job."""
    line = "".join(c if c.isprintable() else " " for c in text)[:400]
    with contextlib.suppress(OSError):
        print("[firecrestspawner] " + line, file=sys.stderr, flush=True)


def stand_by(under_srun: bool) -> int:
    """What all tasks but one do, in silence.

    A task of srun that left early would start srun's WaitTime clock, which kills rank 0: it stays
    until `dismiss`, or until SLURM_WAIT (see the preamble) seconds after rank 0. mpirun's leave at
    once: it waits for everybody.
    """
    if not under_srun:
        return 0
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))
    while True:
        signal.pause()


def dismiss(facts: dict[str, str]) -> None:
    """Let the tasks that stand by go, on every node of this step; best effort, at most 5 s.

    Where even the step's number was cleaned away, all steps get the signal, which the batch shell
    does not (scancel(1)).
    """
    job, step = facts.get("SLURM_JOB_ID", ""), facts.get("SLURM_STEP_ID", "")
    if not job.isdigit() or facts.get("SLURM_STEP_NUM_TASKS", "1" if step else "") == "1":
        return
    if not step and "SLURM_JOB_NODELIST" in facts:
        return  # the batch shell's own, whole environment: there is no step
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    quiet = subprocess.DEVNULL
    command = ["scancel", "--quiet", "--signal=TERM", f"{job}.{step}" if step else job]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=5, check=False)


def remove(path: str) -> bool:
    """Remove a file; False if it is not there."""
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def claim(path: str) -> dict[str, str] | None:
    """Read and remove the script's file of NAME=value lines.

    None if another task was faster: unlink succeeds for one only. {} if there is nothing to claim.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="ascii") as file:
            mine = os.fstat(file.fileno()).st_uid == os.getuid()
            lines = file.read(ANSWER_LIMIT).splitlines() if mine else []
    except (OSError, ValueError):
        return None if os.path.isdir(os.path.dirname(path)) else {}
    pairs = (line.partition("=") for line in lines)
    found = {name: value for name, _, value in pairs if value and name != "FIRECREST_LAUNCHER"}
    return found if remove(path) else None


# --- the node ---


def free(host: str, port: int) -> int:
    """`port` (0: any) if a server could listen on it now, else 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return 0
        return int(probe.getsockname()[1])


def choose_port(host: str, low: int, high: int) -> int:
    """A port of the inclusive range that is free on all addresses (as `owns` looks at them all),
    searched from a random start; 0 if there is none."""
    start = int.from_bytes(os.urandom(4), "big")
    size = high - low + 1
    ports = filter(None, (free(host, low + (start + n) % size) for n in range(size)))
    return next((port for port in ports if not listeners(port)), 0)


def listeners(port: int) -> set[str]:
    """Inodes of all sockets that listen on `port`.

    The kernel's tables name every connection of the node: they are for kernels that do not answer
    the question itself.
    """
    try:
        return diagnosed(port)
    except OSError:
        return tabulated(port)


def diagnosed(port: int) -> set[str]:
    """`listeners` as sock_diag(7) tells them. Raises OSError where there is no such thing."""
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4) as kernel:  # NETLINK_SOCK_DIAG
            kernel.settimeout(1.0)
            # nlmsghdr: length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP; inet_diag_req_v2:
            # family, protocol, the states wanted (10 is TCP_LISTEN), the port in network order.
            header = struct.pack("=IHHII", 72, 20, 0x301, 0, 0)
            wanted = struct.pack("=BBxxI", family, socket.IPPROTO_TCP, 1 << 10)
            kernel.sendto(header + wanted + struct.pack("!H46x", port), (0, 0))
            kind = 20
            while kind == 20:
                data = kernel.recv(1 << 16)
                while data:
                    length, kind = struct.unpack_from("=IH", data)
                    value = struct.unpack_from("=i", data, 84 if kind == 20 else 16)[0]
                    if kind == 20:  # an inet_diag_msg, whose last field is the inode
                        found.add(str(value & 0xFFFFFFFF))
                    elif value:  # NLMSG_ERROR, or an NLMSG_DONE that says why there is no more
                        raise OSError(-value, "sock_diag")
                    data = data[(length + 3) & ~3 :]
    return found


def tabulated(port: int) -> set[str]:
    """`listeners` as proc(5) tells them (/proc/net/tcp; 0A is LISTEN)."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as lines:
                rows = [line.split() for line in lines if f":{port:04X} " in line]
        except OSError:
            continue  # no IPv6 here
        found |= {row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}
    return found


def family_of(root: int) -> set[int]:
    """`root`, all its descendants, and what is left of them in the session that it leads."""
    rows = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # ended meanwhile
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            rows[int(name)] = int(fields[1]), int(fields[3])
    members: set[int] = set()
    more = {root}
    while not more <= members:
        members |= more
        more = {pid for pid, (up, leader) in rows.items() if up in members or leader == root}
    return members


def owns(root: int, inodes: set[str]) -> bool:
    """Whether all of `inodes` (at least one) are open sockets of `root`'s family."""
    held = set()
    for pid in family_of(root) if inodes else ():
        folder = f"/proc/{pid}/fd/"
        with contextlib.suppress(OSError):  # ended meanwhile: the next look tells
            for descriptor in os.listdir(folder):
                held.add(os.readlink(folder + descriptor))
    return bool(inodes) and all(f"socket:[{inode}]" in held for inode in inodes)


def addresses(host: str, node: str) -> list[str]:
    """Where a server bound to `host` is reached: there, or, for a wildcard, by the node's names
    and IPv4 numbers; loopback only for want of others."""
    if host not in ("", "0.0.0.0", "::"):  # noqa: S104 - recognised, not bound
        return [host]
    numbers = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                reply = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR, netdevice(7)
            except OSError:
                continue  # an interface without an IPv4 address
            numbers.append(socket.inet_ntoa(reply[20:24]))
    outside = [number for number in numbers if not number.startswith(("127.", "169.254."))]
    found = filter(None, [node, socket.gethostname(), *outside]) if outside else ["127.0.0.1"]
    return list(dict.fromkeys(found))[:ADDRESS_LIMIT]


def writable(folder: str) -> bool:
    """Whether a file can be made in `folder` and filled: a full quota shows only then."""
    trial = os.path.join(folder, ".firecrest-" + os.urandom(6).hex())
    try:
        with open(trial, "xb") as file:
            file.write(b"\0" * 4096)
    except OSError:
        return False
    finally:
        remove(trial)
    return True


def settle_home(env: dict[str, str]) -> str:
    """Give `env` a HOME that exists, and Jupyter a place for its own files.

    Submission over REST leaves HOME and USER unset; a container may have the working directory
    only, which then stands in for a HOME that does not exist. One that is read-only or full stays,
    with the user's files, kernels and configuration, but JUPYTER_RUNTIME_DIR and
    JUPYTER_DATA_DIR (unless set) go to a fresh private directory; so does JUPYTER_CONFIG_DIR where
    a first Jupyter would leave its mark there, or end. Returns that directory, or "".
    """
    try:
        account = pwd.getpwuid(os.getuid())
        own = {"USER": account.pw_name, "LOGNAME": account.pw_name, "SHELL": account.pw_shell}
        home = env.get("HOME") or account.pw_dir
    except KeyError:  # a container without the user's passwd entry
        own, home = {}, env.get("HOME", "")
    for name, value in own.items():
        env.setdefault(name, value)
    env["HOME"] = home if os.path.isdir(home) else os.getcwd()
    if writable(env["HOME"]):
        return ""
    bases = [env.get("TMPDIR", ""), os.getcwd(), "/tmp"]  # noqa: S108 - a private one within
    base = next((base for base in bases if base and writable(base)), "")
    if not base:
        say("neither HOME nor a temporary directory can be written")
        return ""
    scratch = os.path.join(base, ".jupyter-" + os.urandom(6).hex())
    os.mkdir(scratch, 0o700)
    kernels = os.path.join(env["HOME"], ".local", "share", "jupyter")
    env["JUPYTER_PATH"] = os.pathsep.join(filter(None, [env.get("JUPYTER_PATH"), kernels]))
    env.setdefault("JUPYTER_RUNTIME_DIR", os.path.join(scratch, "runtime"))
    env.setdefault("JUPYTER_DATA_DIR", os.path.join(scratch, "data"))
    config = os.path.join(env["HOME"], ".jupyter")
    if not ("JUPYTER_CONFIG_DIR" in env or os.path.exists(os.path.join(config, "migrated"))):
        env["JUPYTER_CONFIG_DIR"] = os.path.join(scratch, "config")
        paths = filter(None, [env.get("JUPYTER_CONFIG_PATH"), config])
        env["JUPYTER_CONFIG_PATH"] = os.pathsep.join(paths)
    say("HOME cannot be written: Jupyter keeps its own files in " + scratch)
    return scratch


class Server:
    """The single-user server: a group, and (to PBS a job is one) a session of its own."""

    def __init__(self, start: dict[str, Any], facts: dict[str, str]) -> None:
        self.command = [str(word) for word in start["command"]]
        self.low, self.high = (int(port) for port in start["ports"])
        self.env = dict(os.environ)
        self.env.update((name, str(value)) for name, value in start["environment"].items())
        self.url = urlsplit(self.env["JUPYTERHUB_SERVICE_URL"])
        self.host = self.url.hostname or ""
        self.pbs = "PBS_JOBID" in facts
        self.addresses = addresses(self.host, facts.get("SLURMD_NODENAME", ""))
        self.port = 0
        self.process: subprocess.Popen[bytes]

    def launch(self) -> str:
        """Run the command on another free port; returns why that is impossible, or ""."""
        self.port = choose_port(self.host, self.low, self.high)
        if not self.port:
            return f"no free port in {self.low}-{self.high} on the node"
        name = f"[{self.host}]" if ":" in self.host else self.host
        url = self.url._replace(netloc=f"{name}:{self.port}")
        self.env["JUPYTERHUB_SERVICE_URL"] = url.geturl()
        try:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                start_new_session=not self.pbs,
                preexec_fn=os.setpgrp if self.pbs else None,
            )
        except (OSError, ValueError) as error:
            say("PATH on the node: " + self.env.get("PATH", ""))
            if not isinstance(error, FileNotFoundError):
                return f"{self.command[0]} cannot be run on the node: {error}"[:200]
            return f"{self.command[0]} not found on the node: is its environment loaded, and whole?"
        return ""

    def ended(self) -> int | None:
        """The exit status (negative: a signal), or None; what is left of the group ends with it."""
        if self.process.returncode is None:
            if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                return None
            self.signal(signal.SIGKILL)  # before reaping: until then the number is still ours
        return self.process.wait()

    def signal(self, number: int) -> None:
        """To the group; SIGKILL also to descendants in sessions of their own, such as kernels."""
        pid = self.process.pid
        others = family_of(pid) if number == signal.SIGKILL else set()
        for send, target in [(os.killpg, pid), *((os.kill, other) for other in others)]:
            with contextlib.suppress(OSError):  # ended meanwhile
                send(target, number)


# --- the conversation ---


def signature(message: dict[str, Any], key: str) -> str:
    """hex HMAC-SHA256 of the canonical JSON of `message` without its "mac"."""
    unsigned = {name: value for name, value in message.items() if name != "mac"}
    text = json.dumps(unsigned, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(key.encode(), text.encode(), "sha256").hexdigest()


def jittered(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, capped, 50-100 % of it."""
    share = 0.5 + os.urandom(1)[0] / 512
    return share * min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures, 30))


class Bell:
    """Wakes the main thread: a stop signal was `caught`, a child ended, a request is done."""

    def __init__(self) -> None:
        self.caught = 0
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in STOP_SIGNALS:
            signal.signal(number, self._catch)

    def _catch(self, number: int, _frame: object) -> None:
        self.caught = self.caught or number

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes just as well
            os.write(self._write, b"!")

    def wait(self, seconds: float) -> None:
        if select.select([self._read], [], [], max(0.0, seconds))[0]:
            os.read(self._read, 4096)


def connect(url: SplitResult) -> socket.socket:
    """A connection to the Hub; for https its name is checked against the system's authorities."""
    secure, host = url.scheme == "https", url.hostname or ""
    if secure:
        import ssl  # slow

    # The first of several addresses may drop what comes: there is time for others.
    port = url.port or (443 if secure else 80)
    plain = socket.create_connection((host, port), REQUEST_DEADLINE / 3)
    plain.settimeout(REQUEST_DEADLINE)
    if not secure:
        return plain
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def post(hub: socket.socket, url: SplitResult, body: bytes) -> tuple[int, bytes]:
    """Status and content of the answer to one request (RFC 9112), ANSWER_LIMIT + 1 bytes at most.

    Raises OSError when it breaks off, ValueError when it is no HTTP/1. http.client imports slowly.
    """
    host = url.netloc.rpartition("@")[2]
    if not host.isascii():  # it was looked up so, too
        host = host.encode("idna").decode("ascii")
    head = (
        f"POST {url.path or '/'} HTTP/1.1\r\nHost: {host}\r\n"
        "Content-Type: application/json\r\nAccept: application/json\r\n"
        f"Accept-Encoding: identity\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    hub.sendall(head.encode("ascii") + body)
    with hub.makefile("rb") as answer:
        status = 100
        while status < 200:  # a proxy may send a 100 or a 103 before the answer
            status, headers = read_head(answer)
        # These two have no content, and some connections stay open whatever was asked.
        return status, b"" if status in (204, 304) else read_content(answer, headers)


def read_head(answer: BinaryIO) -> tuple[int, dict[bytes, bytes]]:
    version, status = read_line(answer).split(None, 2)[:2]
    if not (version.startswith(b"HTTP/1.") and len(status) == 3 and status.isdigit()):
        raise ValueError("no HTTP")
    headers: dict[bytes, bytes] = {}
    for _ in range(HEADERS):
        line = read_line(answer)
        if not line.strip():
            return int(status), headers
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip().lower()
    raise ValueError("too many headers")


def read_content(answer: BinaryIO, headers: dict[bytes, bytes]) -> bytes:
    if headers.get(b"transfer-encoding", b"identity") != b"identity":
        text = bytearray()  # grows in place
        while len(text) <= ANSWER_LIMIT:
            size = length(read_line(answer).partition(b";")[0], 16)
            if not size:
                break
            text += read_bytes(answer, size + 2)[:size]  # with the end of its line
        return bytes(text[: ANSWER_LIMIT + 1])
    if b"content-length" in headers:
        return read_bytes(answer, length(headers[b"content-length"], 10))
    return answer.read(ANSWER_LIMIT + 1)  # all until the connection is closed


def length(digits: bytes, base: int) -> int:
    if not digits.strip().isalnum():  # a sign
        raise ValueError("no length")
    return int(digits, base)


def read_bytes(answer: BinaryIO, size: int) -> bytes:
    """`size` bytes, of which those beyond the limit are not waited for."""
    wanted = min(size, ANSWER_LIMIT + 1)
    text = answer.read(wanted)
    if len(text) < wanted:
        raise ConnectionError("the answer breaks off")
    return text


def read_line(answer: BinaryIO) -> bytes:
    line = answer.readline(LINE_LIMIT)
    if not line.endswith(b"\n"):
        raise ConnectionError("the answer breaks off")
    return line


class Call:
    """One POST in a thread of its own: a mute Hub delays neither signals nor the server's end.

    When `done`, `verdict` is what an answer signed with `secret` says, or "unknown", which needs no
    signature, or "" and there is a `problem`.
    """

    def __init__(self, url: str, message: dict[str, Any], secret: str, bell: Bell) -> None:
        self.answer: dict[str, Any] = {}
        self.verdict, self.problem = "", "no answer"
        self.done = False
        self._message, self._secret, self._bell = message, secret, bell
        self._spawn_id = message.get("spawn_id") or message["ticket"].partition(".")[0]
        self._url = urlsplit(url)
        self._socket: socket.socket | None = None
        try:
            threading.Thread(target=self._run, daemon=True).start()
        except RuntimeError as error:  # the user is at the limit of processes
            self.done, self.problem = True, str(error)

    def _run(self) -> None:
        try:
            self._read(*self._post(json.dumps(self._message).encode()))
        except (OSError, ImportError) as error:  # the latter: a Python that was built without ssl
            self.problem = f"{type(error).__name__}: {error}"
        except Exception as error:
            # Whatever else a broken answer provokes, the job must survive it and ask again.
            self.problem = f"an answer that cannot be read ({type(error).__name__})"
        self.done = True
        self._bell.ring()

    def _post(self, body: bytes) -> tuple[int, bytes]:
        with connect(self._url) as self._socket:
            return post(self._socket, self._url, body)

    def _read(self, status: int, text: bytes) -> None:
        if status != 200 or len(text) > ANSWER_LIMIT:
            self.problem = f"HTTP status {status}, {len(text)} bytes"
            return
        answer = json.loads(text)
        self.problem = "an answer that is not the Hub's"
        if answer["spawn_id"] != self._spawn_id:
            return
        mac = str(answer.get("mac")).encode()
        if hmac.compare_digest(mac, signature(answer, self._secret).encode()):
            self.answer, self.verdict = answer, str(answer["verdict"])
        elif answer["verdict"] == "unknown":
            self.problem, self.verdict = "this Hub does not know the server", "unknown"

    def abandon(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # not connected, or closed by now
            self._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]


class Session:
    """One spawn, from hello to exiting. Raises ValueError, KeyError or TypeError on a bad ticket.

    `blob` is base64url of JSON {"url", "ticket": "<spawn id>.<secret>", "patience": seconds,
    "unknown_patience": seconds}; `facts` are the job's environment variables.
    """

    def __init__(self, blob: str, facts: dict[str, str]) -> None:
        boot = json.loads(base64.urlsafe_b64decode(blob + "=" * (-len(blob) % 4)))
        self.url, self.ticket = str(boot["url"]), str(boot["ticket"])
        self.spawn_id, _, self.secret = self.ticket.partition(".")
        self.patience = float(boot["patience"])
        self.unknown_patience = float(boot.get("unknown_patience", UNKNOWN_PATIENCE))
        if not (self.secret and urlsplit(self.url).hostname):
            raise ValueError("incomplete ticket")
        self.facts = facts
        self.bell = Bell()
        self.server: Server | None = None
        self.stopping = ""
        self.listening = self.told = False
        self.failures = 0
        self.warnings: list[float] = []
        self.unknown_for = self.unknown_since = 0.0
        self.look_at = self.talk_at = self.kill_at = 0.0

    def run(self) -> int:
        """Returns the exit code."""
        start = self.hello()
        if isinstance(start, int):
            return start
        scratch = ""
        try:
            self.secret = str(start["secret"])
            grace = float(start["grace"])
            self.warnings = [60.0 * minutes for minutes in start.get("warnings", ())]
            server = Server(start, self.facts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            code, reason = 1, f"the Hub's start cannot be used ({type(error).__name__})"
        else:
            scratch = settle_home(server.env)
            code, reason = self.serve(server, grace)
        say(reason)
        self.farewell(code, reason)
        if scratch:
            import shutil  # slow

            shutil.rmtree(scratch, ignore_errors=True)
        return code

    def over(self) -> bool:
        """Whether something is more urgent than waiting for the Hub."""
        return bool(self.bell.caught or (self.server and self.server.ended() is not None))

    def pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.over():
            self.bell.wait(end - time.monotonic())

    def ask(self, kind: str, **fields: Any) -> Call:
        """Say it and wait for the verdict, for something more urgent, or for the deadline."""
        message = {"message": kind, **fields}
        if kind != "hello":
            message["spawn_id"] = self.spawn_id
            message["mac"] = signature(message, self.secret)
        deadline = time.monotonic() + REQUEST_DEADLINE
        call = Call(self.url, message, self.secret, self.bell)
        while not (call.done or self.over() or time.monotonic() >= deadline):
            self.bell.wait(deadline - time.monotonic())
        if not call.done:
            call.abandon()
        return call

    def hello(self) -> dict[str, Any] | int:
        """The Hub's signed `start`, or the exit code where there is nothing to start."""
        nonce = os.urandom(16).hex()
        job_id = next((self.facts[name] for name in JOB_IDS if self.facts.get(name)), "")
        # sbatch(1): set, and not 0, if the job was requeued.
        requeued = self.facts.get("SLURM_RESTART_COUNT", "0") != "0"
        began = time.monotonic()
        give_up = began + self.patience
        for failures in range(sys.maxsize):
            call = self.ask("hello", ticket=self.ticket, nonce=nonce, job_id=job_id)
            if call.verdict == "start":
                return call.answer
            if call.verdict == "ended":
                say(f"the Hub no longer wants this server: {call.answer.get('reason')}")
                return 0
            if call.verdict == "unknown" and requeued:
                # Its first run is over, and nothing of this one can be lost yet.
                give_up = min(give_up, began + REQUEUED_PATIENCE)
            delay = jittered(failures)
            if self.bell.caught:
                break
            if time.monotonic() + delay > give_up:
                say(f"gave up on the Hub at {self.url}: {call.problem}")
                return 1
            if failures == 0:
                say(f"waiting for the Hub at {self.url}: {call.problem}")
            self.pause(delay)
        return 128 + self.bell.caught

    def serve(self, server: Server, grace: float) -> tuple[int, str]:
        """Start the server and stay with it to its end; returns (exit code, reason)."""
        for attempt in range(PORT_TRIES):
            problem = server.launch()
            if problem:
                return 127, problem
            self.server, self.look_at = server, time.monotonic()
            self.talk_at = self.look_at + START_SILENCE
            status = self.watch(server, grace)
            self.server = None
            if self.listening or self.stopping or free(server.host, server.port):
                break
            say(f"port {server.port} was taken by another process ({attempt + 1})")
        if self.stopping:
            reason = self.stopping
        elif status < 0:
            reason = f"killed by signal {-status} ({signal.strsignal(-status)})"
            reason += ", perhaps out of memory" if status == -signal.SIGKILL else ""
        else:
            reason = f"exited with code {status}"
        return (128 - status if status < 0 else status), reason

    def watch(self, server: Server, grace: float) -> int:
        """Look for the server's socket, talk to the Hub, pass on a stop; returns its status."""
        while True:
            if self.bell.caught and not self.stopping:  # it may have ended the server, too
                self.stopping = "stopped by " + signal.Signals(self.bell.caught).name
            status = server.ended()
            if status is not None:
                return status
            now = time.monotonic()
            if self.stopping and not self.kill_at:
                server.signal(signal.SIGTERM)
                self.kill_at = now + grace
            if self.stopping and now >= self.kill_at:
                server.signal(signal.SIGKILL)
                self.kill_at = now + 1.0
            if self.stopping:
                self.bell.wait(self.kill_at - now)
            elif not self.listening and now >= self.look_at:
                self.look(server)
            elif now >= self.talk_at:
                self.talk(server)
            else:
                wake = self.talk_at if self.listening else min(self.talk_at, self.look_at)
                self.bell.wait(min(wake - now, self.warn()))

    def left(self) -> int | None:
        """Seconds of the job's time, as it was when the job began; None where nobody says."""
        end = next((self.facts[name] for name in JOB_ENDS if self.facts.get(name)), "")
        return max(0, int(end) - int(time.time())) if end.isdigit() else None

    def warn(self) -> float:
        """Say, when that is due, how near the time limit is; returns seconds until it is again."""
        left = self.left()
        if left is None or not self.warnings:
            return LONGEST_ALIVE
        later = [seconds for seconds in self.warnings if seconds < left]
        if len(later) < len(self.warnings):
            self.warnings = later
            say(f"the job's time is over in {-(-left // 60)} min, unless it was extended")
        return left - max(later) if later else LONGEST_ALIVE

    def look(self, server: Server) -> None:
        """See whether the server listens by now; takes at most a tenth of a core."""
        began = time.thread_time()  # a node that stands still needs no rest
        self.listening = owns(server.process.pid, listeners(server.port))
        took = time.thread_time() - began
        now = time.monotonic()
        self.look_at = now + max(LOOK_EVERY, 10 * took)
        if self.listening:
            say(f"the server listens on port {server.port}")
            self.talk_at = now

    def talk(self, server: Server) -> None:
        """Say `ready`, or `alive`, and heed the verdict."""
        ready = self.listening and not self.told
        if ready:
            call = self.ask("ready", addresses=server.addresses, port=server.port)
        else:
            call = self.ask("alive")
        now = time.monotonic()
        if call.verdict == "ended":
            self.stopping = f"ended by the Hub: {call.answer.get('reason')}"
        elif call.verdict == "alive":
            if self.failures:
                say("the Hub answers again")
            self.failures, self.unknown_for, self.unknown_since = 0, 0.0, 0.0
            self.told = self.told or ready
            pause = call.answer.get("next")
            pause = pause if isinstance(pause, int) else LONGEST_DELAY
            self.talk_at = now + max(SHORTEST_ALIVE, min(LONGEST_ALIVE, pause))
        else:
            # Only the time between two `unknown` in a row counts: an outage proves nothing.
            if call.verdict and self.unknown_since:
                self.unknown_for += now - self.unknown_since
            self.unknown_since = now if call.verdict else 0.0
            if self.unknown_for > self.unknown_patience:
                self.stopping = f"unknown to the Hub for {self.unknown_for:.0f} s"
            if not self.failures and not self.over():
                say(f"no verdict from the Hub, the server goes on: {call.problem}")
            self.talk_at = now + jittered(self.failures)
            self.failures += 1

    def farewell(self, code: int, reason: str) -> None:
        """Tell the Hub that the server ended; `walltime` is what was left of the job's, seconds."""
        left = self.left()
        give_up = time.monotonic() + FAREWELL
        self.bell.caught = 0  # a further signal ends the farewell
        for failures in range(sys.maxsize):
            call = self.ask("exiting", code=code, reason=reason[:200], walltime=left)
            delay = jittered(failures)
            if call.verdict or self.bell.caught or time.monotonic() + delay > give_up:
                return
            self.pause(delay)


if __name__ == "__main__":
    sys.exit(main())
