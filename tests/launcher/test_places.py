"""The launchers' commands, their last words, and batch scripts: without any launcher."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from workbench.launcher import mpiexec, places, slurm
from workbench.launcher.mpiexec import Host, Mpiexec, family_of, parse_hosts

SECRET = "0123456789abcdef" * 4
ENV = {"WORKBENCH_STREAM": "192.0.2.7:1:2", "WORKBENCH_KEYS": SECRET}
HYDRA = Mpiexec("/opt/mpich/bin/mpiexec", "hydra", 5, "5.0.2")
OPEN5 = Mpiexec("/opt/ompi/bin/mpiexec", "openmpi", 5, "5.0.11")
OPEN4 = Mpiexec("/usr/bin/mpiexec", "openmpi", 4, "4.1.4")

# ---- whose mpiexec -------------------------------------------------------------------

MPICH_SAYS = """\
HYDRA build details:
    Version:                                 5.0.2
    Release Date:                            Fri Sep 25 20:45:26 UTC 2026
    CC:                              cc
"""


@pytest.mark.parametrize(
    ("said", "family", "version"),
    [
        (MPICH_SAYS, "hydra", "5.0.2"),
        ("mpiexec (Open MPI) 5.0.11\n\nReport bugs to ...\n", "openmpi", "5.0.11"),
        ("mpiexec (OpenRTE) 4.1.4\n\nReport bugs to ...\n", "openmpi", "4.1.4"),
        (
            "Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 20240701\n",
            "hydra",
            "2021.13",
        ),
    ],
)
def test_a_mpiexec_is_known_by_its_version(
    said: str, family: str, version: str
) -> None:
    found = family_of("mpiexec", said)
    assert (found.family, found.version) == (family, version)
    assert found.major == int(version.split(".")[0])


def test_another_mpiexec_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"says 'FunnyMPI 1'.*workbench run job\.toml"):
        family_of("mpiexec", "FunnyMPI 1\n")


def fake(folder: Path, name: str, said: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'E'\n{said}\nE\n")
    path.chmod(0o755)


def test_the_version_is_asked_of_the_program(tmp_path: Path) -> None:
    fake(tmp_path, "mpiexec", "mpiexec (Open MPI) 5.0.11")
    assert mpiexec.inspect(str(tmp_path / "mpiexec")).family == "openmpi"
    with pytest.raises(ValueError, match="does not tell its version"):
        mpiexec.inspect(str(tmp_path / "nothing"))


# ---- hosts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size", "ranks"),
    [
        ("a,b", 4, [2, 2]),
        ("a,b,c", 7, [3, 2, 2]),
        ("a:3,b:2", 4, [3, 1]),
        ("a:4,b:4", 4, [4]),
        ("a:2,b", 3, [2, 1]),
        ("a,b,c", 2, [1, 1]),
    ],
)
def test_ranks_go_to_hosts_in_blocks(text: str, size: int, ranks: list[int]) -> None:
    found = parse_hosts(text, size)
    assert [host.ranks for host in found] == ranks
    assert [host.name for host in found] == ["a", "b", "c"][: len(ranks)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:1,b:2", "room for 3 ranks, but the layout has 4"),
        ("", "hosts are wanted"),
        ("a,,b", "hosts are wanted"),
        ("-oProxyCommand=x", "hosts are wanted"),
        ("me@a", "ssh's own configuration"),
        ("a,a", "twice"),
        ("a:0", "room for 0 ranks"),
    ],
)
def test_hosts_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_hosts(text, 4)


# ---- commands ------------------------------------------------------------------------


def ssh_command(
    mpi: Mpiexec, folder: Path, **more: Any
) -> tuple[list[str], dict[str, str]]:
    return mpiexec.over_ssh(
        mpi,
        [Host("a", 2), Host("b", 1)],
        ["python", "-m", "pipeline_workbench", "rank"],
        ENV,
        wrapper=folder / "ssh.sh",
        host="192.0.2.7",
        **more,
    )


@pytest.mark.parametrize("mpi", [HYDRA, OPEN5, OPEN4], ids=["mpich", "ompi5", "ompi4"])
def test_no_command_holds_a_key_and_every_rank_gets_it(
    mpi: Mpiexec, tmp_path: Path
) -> None:
    rank = ["python", "-m", "pipeline_workbench", "rank"]
    for argv, env in (
        mpiexec.local(mpi, 4, rank, ENV),
        ssh_command(mpi, tmp_path),
    ):
        assert not [word for word in argv if SECRET in word]
        assert env["WORKBENCH_KEYS"] == SECRET
        assert argv[-4:] == rank
    if mpi.family == "openmpi":  # which passes on only what it is told by name
        names = [argv[i + 1] for i, word in enumerate(argv) if word == "-x"]
        assert set(ENV) <= set(names)


def test_open_mpi_gets_what_it_wants_by_environment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    argv, env = mpiexec.local(OPEN5, 4, ["true"], {})
    assert argv == [OPEN5.path, "-n", "4", "true"]
    assert env["OMPI_ALLOW_RUN_AS_ROOT"] == env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    assert env["PRTE_MCA_rmaps_default_mapping_policy"] == ":oversubscribe"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    env = mpiexec.local(OPEN4, 4, ["true"], {})[1]
    assert "OMPI_ALLOW_RUN_AS_ROOT" not in env
    assert env["OMPI_MCA_rmaps_base_oversubscribe"] == "1"
    assert mpiexec.local(HYDRA, 4, ["true"], {})[1] == {}


def test_this_machine_is_meant_within_an_allocation_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    argv = mpiexec.local(HYDRA, 4, ["true"], {})[0]
    assert argv[1:] == ["-rmk", "user", "-launcher", "fork", "-n", "4", "true"]
    assert mpiexec.local(OPEN5, 4, ["true"], {})[1]["PRTE_MCA_plm"].startswith("^slurm")


def test_a_hub_secret_is_not_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORKBENCH_HUB_KEYS", SECRET)
    assert "WORKBENCH_HUB_KEYS" not in ssh_command(OPEN5, tmp_path)[0]


def test_ssh_with_arguments_becomes_a_script_of_ones_own(tmp_path: Path) -> None:
    fake(tmp_path, "my ssh", "")
    (tmp_path / "my ssh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    wrapper = mpiexec.write_wrapper(tmp_path, f"'{tmp_path}/my ssh' -F 'a file'")
    assert stat.S_IMODE(wrapper.stat().st_mode) == 0o700
    said = subprocess.run(
        [str(wrapper), "-x", "host", "a b"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said[:2] == ["-F", "a file"]
    assert said[-3:] == ["-x", "host", "a b"]
    assert "BatchMode=yes" in said
    with pytest.raises(ValueError, match="no such program"):
        mpiexec.write_wrapper(tmp_path, "nosuchssh -F x")


@pytest.mark.parametrize(
    ("on", "options", "said"),
    [
        ("cloud", {}, "there is no such place"),
        ("mpi", {"nodes": 2}, "unknown options of on='mpi': nodes; known are python"),
        ("ssh:a", {"nodes": 2}, "unknown options of on='ssh:a': nodes"),
        ("slurm", {"hosts": 2}, "unknown options of on='slurm': hosts"),
        ("slurm", {"nodes": 5}, "more than the layout's 4 ranks"),
        ("slurm", {"nodes": 2, "ntasks_per_node": 1}, "room for 2"),
        ("slurm", {"nodes": 0}, "at least 1"),
        ("slurm", {"time": "soon"}, "time='soon'"),
        ("slurm", {"partition": "a\nb"}, "partition="),
    ],
)
def test_what_no_place_can_do(
    on: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        places.command(on, 4, tmp_path, ENV, **options)


def test_slurm_gets_its_layout_and_no_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("srun", "sbatch"):
        fake(tmp_path, name, "fine")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = {"nodes": 2, "time": "1-12", "account": "me", "mpi": "pmi2"}
    options["extra"] = ["--qos=low"]
    made = places.command("slurm", 4, tmp_path, ENV, **options)
    assert made.argv[0] == "srun"
    assert made.hello_seconds is None  # it may have to wait in the queue
    wanted = {"--kill-on-bad-exit=1", "--mpi=pmi2", "--ntasks=4", "--nodes=2"}
    wanted |= {"--ntasks-per-node=2", "--time=1-12", "--account=me", "--qos=low"}
    assert wanted <= set(made.argv)
    made = places.command("slurm", 4, tmp_path, ENV, batch=True, **options)
    texts = [(tmp_path / n).read_text() for n in ("batch.sh", "follow.sh")]
    for text in texts:
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        assert SECRET not in text
    assert "--kill-on-bad-exit=1" in texts[0]
    assert SECRET not in " ".join(made.argv)


@pytest.mark.parametrize(
    ("said", "wanted"), [("mpiexec (Open MPI) 5.0.11", "pmix"), (MPICH_SAYS, "pmi2")]
)
def test_srun_introduces_ranks_as_their_mpi_wants_it(
    said: str, wanted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in {"srun": "fine", "mpiexec": said}.items():
        fake(tmp_path, name, text)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(mpiexec, "find_mpiexec", lambda: str(tmp_path / "mpiexec"))
    assert f"--mpi={wanted}" in places.command("slurm", 4, tmp_path, ENV).argv


def test_what_slurm_cannot_start_is_refused_in_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\necho too much >&2; exit 1\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ValueError, match="too much"):
        places.command("slurm", 4, tmp_path, ENV)
    places.command("slurm", 4, tmp_path, ENV, check=False)


def test_without_slurm_its_programs_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no srun: launch on a machine"):
        places.command("slurm", 4, tmp_path, ENV)


# ---- addresses and ports -------------------------------------------------------------


def named(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    told = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 0)) for a in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: told)


def test_ranks_elsewhere_need_an_address_that_they_reach(
    monkeypatch: pytest.MonkeyPatch, make_job: Callable[..., wb.Job], tmp_path: Path
) -> None:
    named(monkeypatch, "2001:db8::7", "127.0.1.1", "192.0.2.7")
    assert places.reachable_address() == "192.0.2.7"
    named(monkeypatch, "127.0.1.1", "::1")
    with pytest.raises(ValueError, match=r"stands for 127\.0\.1\.1, ::1: .*host="):
        wb.launch(make_job(), on="ssh:a,b", folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("ports", [5801, (5801,), (5801, 5801), (0, 5801), "58"])
def test_two_ports_are_wanted(
    ports: Any, make_job: Callable[..., wb.Job], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="two different ports"):
        wb.launch(make_job(), on="mpi", ports=ports, folder=tmp_path / "run")


# ---- last words ----------------------------------------------------------------------

# What these programs said of a rank killed by signal 9, and of one that ended with 3.
HYDRA_KILLED = """\
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 4711 RUNNING AT host2
=   EXIT CODE: 9
=   CLEANING UP REMAINING PROCESSES
===================================================================================
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)
"""
OPEN_KILLED = """\
--------------------------------------------------------------------------
prterun noticed that process rank 2 with PID 4711 on node host2 exited on
signal 9 (Killed).
--------------------------------------------------------------------------
"""
OPEN5_EXIT = """\
   Process name: [prterun-vm-29812@1,2]
   Exit code:    3
"""
OPEN4_EXIT = """\
  Process name: [[6525,1],2]
  Exit code:    3
"""
SLURM_SAYS = """\
srun: error: host2: task 2: Killed
srun: launch/slurm: _step_signal: Terminating StepId=1.0
slurmstepd-host1: error: *** STEP 1.0 ON host1 CANCELLED AT 2026-11-23T17:01:02 ***
srun: error: host1: tasks 0-1: Terminated
srun: error: host2: task 3: Exited with exit code 3
srun: error: host2: task 4: Segmentation fault (core dumped)
srun: error: host2: task 5: Exited with exit code 137
"""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (HYDRA_KILLED, places.Death(None, "host2", 4711, 9, 9)),
        (OPEN_KILLED, places.Death(2, "host2", 4711, 9, None)),
        (OPEN5_EXIT, places.Death(2, exit=3)),
        (OPEN4_EXIT, places.Death(2, exit=3)),
    ],
    ids=["mpich", "open", "open5", "open4"],
)
def test_a_launchers_last_words(text: str, wanted: places.Death) -> None:
    assert places.last_words("mpi", text) == [wanted]


def test_slurms_last_words() -> None:
    found = places.last_words("slurm", SLURM_SAYS)
    assert [(d.rank, d.host, d.signal, d.exit) for d in found] == [
        (2, "host2", 9, None),
        (0, "host1", 15, None),
        (1, "host1", 15, None),
        (3, "host2", None, 3),
        (4, "host2", 11, None),
        (5, "host2", 9, 137),  # a shell's way to tell of a signal
    ]


@pytest.mark.parametrize("on", ["mpi", "ssh:a", "slurm"])
def test_nothing_is_read_into_other_words(on: str) -> None:
    assert places.last_words(on, "all is well\nrank 2 is fine, exit code 0\n") == []


# ---- batch scripts -------------------------------------------------------------------


def directives(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.MULTILINE))


def test_a_batch_script_is_what_an_admin_accepts(
    make_job: Callable[..., wb.Job], tmp_path: Path
) -> None:
    path = tmp_path / "a folder" / "train.sh"
    path.parent.mkdir()
    script = wb.slurm_script(
        make_job(),
        nodes=3,
        time="2:00:00",
        partition="gpu",
        account="me",
        output="my logs/%j",
        setup=["module load mpich", "source ~/venv/bin/activate"],
        path=path,
    )
    assert path.read_text() == script
    subprocess.run(["bash", "-n", str(path)], check=True)
    told = directives(script)
    assert told["ntasks"] == told["nodes"] == "3"
    assert (told["partition"], told["account"]) == ("gpu", "me")
    assert told["signal"] == "B:TERM@60"
    assert '#SBATCH --output="my logs/%j"\n' in script
    first = script.index("set -euo pipefail")
    assert first < script.index("module load mpich") < script.index("\nsrun ")
    assert "--kill-on-bad-exit=1" in script
    # The job beside it is the job.
    again = wb.Job.from_toml(path.with_suffix(".toml"))
    assert (again.steps, again.schedule.num_ranks) == (make_job().steps, 3)
    assert again.chosen_clock == "wall"  # processes have no other


def test_its_lines_are_all_before_the_first_command(
    make_job: Callable[..., wb.Job],
) -> None:
    """Slurm reads no #SBATCH after a command."""
    lines = wb.slurm_script(make_job(), time=30).splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])
    assert lines[0].startswith("#!")


def test_a_warning_lets_the_ranks_finish(
    make_job: Callable[..., wb.Job], tmp_path: Path
) -> None:
    """The script itself, with programs in Slurm's place: TERM is passed on to the ranks
    by scancel, and the script ends as they do, not before."""
    fakes = {
        "srun": "trap 'sleep 0.3; echo ranks end; exit 7' USR1\n"
        "echo $$ > pid; while :; do sleep 0.05; done",
        "scancel": 'echo "$@"; kill -USR1 "$(cat pid)"',
    }
    for name, body in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    wb.slurm_script(make_job(), path=tmp_path / "train.sh")
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    begun = subprocess.Popen(
        ["bash", "-c", "./train.sh & echo $! > shell; wait $!"],
        cwd=tmp_path,
        env={**env, "SLURM_JOB_ID": "42"},
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert begun.poll() is None
    os.kill(int((tmp_path / "shell").read_text()), 15)
    said = begun.communicate(timeout=20)[0]
    assert said.splitlines() == ["--signal=TERM 42", "ranks end"]
    assert begun.returncode == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nodes": 4}, "more than the layout's 3 ranks"),
        ({"nodes": 1, "ranks_per_node": 2}, "room for 2, but the layout has 3"),
        ({"ranks_per_node": 0}, "at least 1"),
        ({"time": "2 hours"}, "time='2 hours'"),
        ({"partition": "a b"}, "partition="),
        ({"account": "x\n#SBATCH --exclusive"}, "account="),
        ({"output": "a\nb"}, "one line"),
        ({"setup": ["a\nb"]}, "one line"),
        ({"setup": "module load x"}, "a list of lines"),
        ({"mpi": "pmi2; rm"}, "mpi="),
        ({"path": "job.toml"}, "not the job's file"),
    ],
)
def test_scripts_that_cannot_be(
    options: dict[str, Any], said: str, make_job: Callable[..., wb.Job]
) -> None:
    with pytest.raises(ValueError, match=said):
        wb.slurm_script(make_job(), **options)


def test_ranks_per_node_tell_how_many_nodes(make_job: Callable[..., wb.Job]) -> None:
    told = directives(wb.slurm_script(make_job(), ranks_per_node=2))
    assert (told["nodes"], told["ntasks-per-node"]) == ("2", "2")
    assert slurm.Layout(ranks=4).options() == ["--ntasks=4", "--cpus-per-task=1"]


def test_the_doctor_names_every_launcher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from workbench.launcher.doctor import launchers

    (tmp_path / "srun").write_text("#!/bin/sh\necho slurm-wlm 22.05.8\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    told = launchers()
    assert told["slurm"] == f"22.05.8, {tmp_path}/srun"
    assert "pipeline-workbench[mpi]" in told["mpi"]
    assert "openssh-client" in told["ssh"]
    assert {"mpi4py", "ipyparallel", "address"} <= set(told)
