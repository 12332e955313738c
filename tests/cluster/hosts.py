"""Several hosts on one machine: network and host-name namespaces with an address each,
sshd on all of them, and a Slurm over them. Needs root and NET_ADMIN.

Everything has a place of its own (names, addresses, ports, munge's socket), so that two
runs of these tests do not meet, and ``close`` leaves nothing behind.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nsenter": "util-linux",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "srun": "slurm-client",
    "sbatch": "slurm-client",
}


def why_not() -> str | None:
    """Why there can be no such hosts here; None when there can."""
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [p for p in PROGRAMS if shutil.which(p, path=search) is None]
    if missing:
        packages = sorted({PROGRAMS[program] for program in missing})
        return f"no {', '.join(missing)} (Debian: {' '.join(packages)})"
    if os.geteuid() != 0:
        return "hosts as network namespaces need root"
    name = f"wb-try-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if done.returncode:
        return f"no network namespaces here (NET_ADMIN): {done.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


def sh(*words: str) -> str:
    """A command's output. Its words are in the error when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def until(true: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)


class Hosts:
    """host1, host2, ...: each with an address on one bridge, and an sshd."""

    def __init__(self, count: int = 2) -> None:
        self.net = os.getpid() % 250 + 1
        self.address = f"10.77.{self.net}.1"  # of this machine, as the hosts reach it
        self.bridge = f"wb{self.net}"
        self.names = [f"host{i}" for i in range(1, count + 1)]
        self.addresses = {n: f"10.77.{self.net}.1{n[4:]}" for n in self.names}
        # Not pytest's folder: munge refuses folders that only root may pass.
        self.folder = Path(tempfile.mkdtemp(prefix="wb-hosts-"))
        self.folder.chmod(0o755)
        self._begun: list[subprocess.Popen[bytes]] = []
        self._has_bridge = False

    def space(self, name: str) -> str:
        return f"{self.bridge}{name}"

    def start(self, name: str, *words: str, host: str | None = None) -> None:
        """A daemon in the foreground, on a host or on this machine."""
        if host is not None:
            # Not `ip netns exec`, which mounts another /sys and hides cgroups.
            # A mount namespace, too: there the hosts know one another by name.
            known = f"mount --bind {self.folder}/etc-hosts /etc/hosts"
            inside = f'set -e; {known}; hostname {host}; exec "$@"'
            space = f"--net=/run/netns/{self.space(host)}"
            unshare = ("unshare", "-u", "-m", "sh", "-c", inside, "sh")
            words = ("nsenter", space, *unshare, *words)
        with (self.folder / f"{name}.log").open("ab") as log:
            begun = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log,
                                     stderr=log, start_new_session=True)  # fmt: skip
        self._begun.append(begun)

    def up(self) -> None:
        sh("ip", "link", "add", self.bridge, "type", "bridge")
        self._has_bridge = True
        sh("ip", "addr", "add", f"{self.address}/24", "dev", self.bridge)
        sh("ip", "link", "set", self.bridge, "up")
        named = [f"{address} {name}" for name, address in self.addresses.items()]
        lines = ["127.0.0.1 localhost", *named, ""]
        (self.folder / "etc-hosts").write_text("\n".join(lines))
        for name in self.names:
            self._add(name)
        self._start_ssh()

    def _add(self, name: str) -> None:
        space, outside = self.space(name), f"{self.bridge}v{name[4:]}"
        sh("ip", "netns", "add", space)
        sh("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0",
           "netns", space)  # fmt: skip
        sh("ip", "link", "set", outside, "master", self.bridge, "up")
        address = f"{self.addresses[name]}/24"
        sh("ip", "-n", space, "addr", "add", address, "dev", "eth0")
        for device in ("eth0", "lo"):
            sh("ip", "-n", space, "link", "set", device, "up")

    def _start_ssh(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        for key in ("key", "hostkey"):
            file = str(self.folder / key)
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file)
        lines = ["Host host*", "User root", f"IdentityFile {self.folder}/key"]
        lines += ["IdentitiesOnly yes", f"UserKnownHostsFile {self.folder}/known"]
        lines += ["StrictHostKeyChecking accept-new", "LogLevel ERROR"]
        for name, address in self.addresses.items():
            lines += [f"Host {name}", f"HostName {address}"]
            options = {
                "ListenAddress": address,
                "AuthorizedKeysFile": f"{self.folder}/key.pub",
                "PasswordAuthentication": "no",
                "PermitRootLogin": "prohibit-password",
                "StrictModes": "no",  # /tmp is everybody's
                "UsePAM": "no",
                "PidFile": "none",
            }
            words = [w for k, v in options.items() for w in ("-o", f"{k}={v}")]
            server = ("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null")
            self.start(f"sshd-{name}", *server, "-h", f"{self.folder}/hostkey", *words,
                       host=name)  # fmt: skip
        (self.folder / "ssh_config").write_text("\n".join(lines) + "\n")
        for name in self.names:
            ask = (*self.ssh.split(), "-o", "BatchMode=yes", name, "hostname")
            until(
                lambda ask=ask: not subprocess.run(ask, capture_output=True).returncode,
                f"ssh to {name}",
            )

    @property
    def ssh(self) -> str:
        return f"ssh -F {self.folder}/ssh_config"

    # ---- the network -----------------------------------------------------------------

    def link(self, name: str, state: str) -> None:
        """Takes a host's link "down" or "up"."""
        sh("ip", "-n", self.space(name), "link", "set", "eth0", state)

    def shape(self, name: str, rate: str | None) -> None:
        """Lets out no more than ``rate`` ("50mbit"); None: as much as there is."""
        device = ("dev", "eth0", "root")
        if rate is None:
            sh("tc", "-n", self.space(name), "qdisc", "del", *device)
        else:
            bucket = ("burst", "32kbit", "latency", "400ms")
            sh("tc", "-n", self.space(name), "qdisc", "add", *device, "tbf", "rate",
               rate, *bucket)  # fmt: skip

    # ---- the end ---------------------------------------------------------------------

    def processes(self) -> set[int]:
        """All that run on the hosts, daemons too."""
        spaces = sh("ip", "netns", "list").split()
        mine = [self.space(n) for n in self.names if self.space(n) in spaces]
        return {int(p) for s in mine for p in sh("ip", "netns", "pids", s).split()}

    def close(self) -> None:
        for process in reversed(self._begun):
            process.terminate()
        for process in reversed(self._begun):
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for name in self.names:
            subprocess.run(["ip", "netns", "del", self.space(name)], check=False,
                           capture_output=True)  # fmt: skip
        if self._has_bridge:
            sh("ip", "link", "del", self.bridge)
        shutil.rmtree(self.folder)


_SLURM_CONF = """\
ClusterName=workbench
SlurmctldHost={here}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
MpiDefault=none
ReturnToService=2
SlurmctldPort={port}
SlurmdPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
InactiveLimit=0
KillWait=2
Waittime=0
PropagateResourceLimits=NONE
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


class Slurm:
    """A Slurm over the hosts: slurmctld and munged here, a slurmd on each."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.conf = hosts.folder / "slurm.conf"

    def up(self) -> None:
        hosts, folder = self.hosts, self.hosts.folder
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        names = {"key": "key", "socket": "sock", "pid": "pid", "log": "log"}
        told = {n: f"{folder}/munge.{end}" for n, end in names.items()}
        hosts.start(
            "munged",
            *("/usr/sbin/munged", "-F", f"--key-file={told['key']}"),
            *(f"--socket={told['socket']}", f"--pid-file={told['pid']}"),
            *(f"--log-file={told['log']}", f"--seed-file={folder}/munge.seed"),
        )
        (folder / "state").mkdir()
        nodes = [
            f"NodeName={n} NodeHostname={n} NodeAddr={a} CPUs=2 RealMemory=1000"
            for n, a in hosts.addresses.items()
        ]
        self.conf.write_text(
            _SLURM_CONF.format(
                here=platform.node().partition(".")[0],
                address=hosts.address,
                folder=folder,
                port=17000 + hosts.net,
                nodes="\n".join(nodes),
            )
        )
        os.environ["SLURM_CONF"] = str(self.conf)
        until(Path(told["socket"]).exists, "munged")
        conf = ("-f", str(self.conf), "-c")
        hosts.start("slurmctld", "/usr/sbin/slurmctld", "-D", *conf)
        for name in hosts.names:
            (folder / f"spool.{name}").mkdir()
            hosts.start(f"slurmd-{name}", "/usr/sbin/slurmd", "-D", "-N", name, *conf,
                        host=name)  # fmt: skip
        wanted = f"idle {len(hosts.names)}"
        until(lambda: self.ask("sinfo", "-h", "-o", "%T %D") == wanted, "idle nodes")

    def ask(self, *words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()

    def close(self) -> None:
        self.ask("scancel", "--user=root")
        os.environ.pop("SLURM_CONF", None)
