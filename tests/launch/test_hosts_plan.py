"""Hosts, host files, plans over hosts, and what is refused before anything is started."""

import dataclasses

import pytest

from phalanx.dist import env, rendezvous
from phalanx.dist.env import RankEnvironment
from phalanx.dist.errors import LaunchError
from phalanx.launch import frames, over_hosts
from phalanx.launch.arguments import RunArguments
from phalanx.launch.finish import FinishMarks
from phalanx.launch.frames import Frames, Kind
from phalanx.launch.hosts import Host, mark_of, parse_hostfile, parse_hosts
from phalanx.launch.link import Remote, explain
from phalanx.launch.logs import parse_ranks
from phalanx.launch.mpirun import Mpirun, command, untag
from phalanx.launch.options import default_ranks, read_key
from phalanx.launch.plan import Machine, make_plan
from phalanx.launch.run import without_hosts
from phalanx.launch.supervise import Outcome
from tests.launch.rig import phalanx

MACHINE = Machine("/venv/python", 8, {"HOME": "/root", "PHALANX_X": "1", "PYTHONPATH": "/lib"}, package_root="/tree")
TWO = (Host("a", 2, cores=4), Host("b", 2, cores=8))
REMOTE = Remote(("ssh",), "/venv/python", "/work", "", "mark")


def plan_of(**options):
    return make_plan(RunArguments("train.py", **{"ranks": 3, "hosts": TWO, **options}), MACHINE, "secret", "a:4000")


@pytest.mark.parametrize("word", ["", "a:", "a:0", "a:-1", "a:x", "a b", "a,,b", ":4", "a:2:3x", "-oProxyCommand=x"])
def test_what_is_no_list_of_hosts_is_refused(word):
    with pytest.raises(LaunchError, match="--hosts"):
        parse_hosts(word)


@pytest.mark.parametrize("text", ["a slots=x", "a slots=0", "a nonsense", "# nothing", "a:2 slots=0"])
def test_what_is_no_host_file_is_refused_with_its_line(text):
    with pytest.raises(LaunchError, match="file"):
        parse_hostfile(text, "file")


def test_ranks_fill_one_host_after_the_other_and_know_where_they_are():
    plan = plan_of()
    found = [env.read(rank.environment) for rank in plan.ranks]
    assert [rank.host for rank in plan.ranks] == ["a", "a", "b"]
    assert [(e.rank, e.size, e.node, e.local_rank, e.local_size) for e in found] == [
        (0, 3, 0, 0, 2), (1, 3, 0, 1, 2), (2, 3, 1, 0, 1)
    ]  # fmt: skip
    assert {e.hosts for e in found} == {"a:2,b:1"} and found[0].host_of(2) == "b" and found[0].host_of(3) is None
    assert [rank.environment["OMP_NUM_THREADS"] for rank in plan.ranks] == ["2", "2", "8"]


def test_hosts_get_what_is_named_and_not_the_launchers_environment():
    given = plan_of(forward=("A=1", "HOME", "OMP_NUM_THREADS=3")).ranks[2].environment
    assert (given["A"], given["HOME"], given["PHALANX_X"], given["OMP_NUM_THREADS"]) == ("1", "/root", "1", "3")
    assert given["PYTHONPATH"] == "/lib:/tree" and "HOME" not in plan_of().ranks[2].environment
    with pytest.raises(LaunchError, match="--env NOT: it is not set here"):
        plan_of(forward=("NOT",))


def test_cores_are_shared_out_in_equal_parts():
    assert [rank.cores for rank in plan_of(bind=True).ranks] == [(0, 1), (2, 3), tuple(range(8))]
    assert [rank.cores for rank in plan_of(bind=True, hosts=(Host("a", 3, cores=2),)).ranks] == [(0,), (1,), (0,)]


def test_a_launcher_on_each_host_starts_its_share_alone():
    arguments = RunArguments("t.py", ranks=6, nodes=3, node_rank=1, rendezvous="a:4000", key="k")
    plan = make_plan(arguments, MACHINE, "a secret of the user", "a:4000")
    assert [(rank.rank, rank.host, rank.slot) for rank in plan.ranks] == [(2, "node-1", 0), (3, "node-1", 1)]
    assert all(rank.environment[env.AGENT] == f"{mark_of('a secret of the user')}.1" for rank in plan.ranks)
    assert "secret" not in mark_of("a secret of the user") and "a-secret" not in mark_of("a-secret-of-mine")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ranks": 5}, "the hosts have 4 slots: a:2,b:2"),
        ({"tee": (3,)}, "there are 3 ranks, 0 to 2"),
        ({"hosts": (), "nodes": 2, "ranks": 3, "rendezvous": "a:1"}, "equally many on each"),
        ({"hosts": (), "nodes": 3}, "needs --rendezvous HOST:PORT"),
        ({"hosts": (), "nodes": 3, "rendezvous": "a"}, "expected HOST:PORT"),
        ({"hosts": (), "nodes": 3, "node_rank": 3, "rendezvous": "a:1"}, "expected a number from 0 to nodes - 1"),
    ],
)
def test_what_cannot_be_planned_is_refused(options, words):
    with pytest.raises(LaunchError, match=words):
        plan_of(**options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--hosts", "a", "--threads"), "--threads and --hosts"),
        (("--hosts", "a", "--nodes", "2"), "two ways to run over hosts"),
        (("--nodes", "2", "--mpi"), "use --hosts"),
        (("--ssh", "rsh"), "--ssh is for other hosts"),
        (("--tee", "2-1"), "expected ranks, for example 0,4-6"),
        (("--hosts", "a", "--hostfile", "b"), "give one of them"),
        (("--nodes", "2", "--rendezvous", "a:1"), "the hosts need a secret of at least 16 characters"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(arguments, words):
    done = phalanx("run", *arguments, "-m", "this")
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_dry_run_shows_every_host_and_starts_nothing():
    done = phalanx("run", "--dry-run", "--hosts", "nowhere:1,far:2", "--bind", "--env", "A=1", "-m", "this")
    assert done.returncode == 0 and "rank 2 on far, slot 1, cores" in done.stdout and "  A=1" in done.stdout
    assert done.stdout.count("PHALANX_RENDEZVOUS=nowhere:PORT") == 3
    done = phalanx(
        "run", "--dry-run", "--nodes", "2", "--node-rank", "1", "-n", "4", "--rendezvous", "a:1", "-m", "this"
    )
    assert (
        "PHALANX_RENDEZVOUS=a:1" in done.stdout
        and "rank 2 on node-1, slot 0" in done.stdout
        and "rank 1 on" not in done.stdout
    )


def test_a_key_must_be_long_and_closed(tmp_path):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef\n")
    key.chmod(0o600)
    assert read_key(str(key), {}) == "0123456789abcdef" == read_key(None, {"PHALANX_JOB": "0123456789abcdef"})
    key.chmod(0o640)
    with pytest.raises(LaunchError, match="chmod 600"):
        read_key(str(key), {})
    key.chmod(0o600)
    key.write_text("short")
    for path, words in ((str(key), "can be guessed"), (str(tmp_path / "none"), "No such file")):
        with pytest.raises(LaunchError, match=words):
            read_key(path, {})


@pytest.mark.parametrize(
    ("told", "code", "words"),
    [
        ("ssh: Could not resolve hostname x: Name or service not known\r\n", 255, "no host of this name"),
        ("ssh: connect to host x port 22: Connection timed out\r\n", 255, "cannot be reached"),
        ("Host key verification failed.\r\n", 255, "without a password"),
        ("sh: 1: cd: can't cd to /work\n", 2, "no folder /work"),
        ("bash: line 1: cd: /work: No such file or directory\n", 1, "no folder /work"),
        ("env: '/venv/python': No such file or directory\n", 127, "there is no /venv/python"),
        ("/venv/python: No module named phalanx\n", 1, "has no phalanx"),
        ("/venv/python: Error while finding module specification (ModuleNotFoundError: No module named 'phalanx')\n",
         1, "has no phalanx"),
        ("", None, "no answer in time"),
        ("Segmentation fault\n", 139, "ended before phalanx answered there (Segmentation fault)"),
    ],
)  # fmt: skip
def test_what_ssh_says_becomes_the_cause_and_the_fix(told, code, words):
    assert words in explain("x", REMOTE, told, code)


def test_frames_come_out_as_they_went_in_however_they_are_cut():
    sent = [(Kind.OUT, 3, b"line\n" * 50), (Kind.EXIT, 3, b"-9"), (Kind.DONE, 0, b"")]
    stream = b"".join(frames.frame(*each) for each in sent)
    for size in (1, 7, len(stream)):
        reader = Frames()
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [found for piece in pieces for found in reader.feed(piece)] == sent
    with pytest.raises(ValueError, match=r"not a valid Kind|too long"):
        list(Frames().feed(b"GET / HTTP/1.1\r\n\r\n"))


def test_mpirun_gets_names_of_variables_and_no_values():
    for mpi, word in (
        (Mpirun("m", "Open MPI"), "tag"),
        (Mpirun("m", "Open MPI", 4), "--tag-output"),
        (Mpirun("m", "MPICH"), "-prepend-rank"),
    ):
        words = command(mpi, 3, TWO, ["PHALANX_JOB"])
        assert word in words and "a:2,b:2" in words and words[-2:] == ("-n", "3")
    assert untag(b"[1,2]<stderr>: [3] mine") == (2, b"[3] mine")


def test_success_is_the_ranks_word_and_not_mpiruns():
    marks = FinishMarks("w", 3)
    assert marks.take(b"unfinished linew 0 0") == b"unfinished line" and marks.take(b"w 1 0") == b""
    assert marks.verdict()[0] == 255 and "rank 2 did not finish" in marks.verdict()[1]
    marks.take(b"w 2 3")
    assert marks.verdict() == (3, "rank 2 ended with exit code 3")
    marks.take(b"w 2 0")
    assert marks.verdict() == (0, "")


def test_the_hosts_that_remain_take_what_they_can(capsys):
    asked = RunArguments("t.py", ranks=4, hosts=TWO, tee=(0, 3))
    assert without_hosts(asked, ()) == asked
    left = without_hosts(asked, ("host a",))
    assert (left.hosts, left.ranks, left.tee) == ((TWO[1],), 2, (0,))
    assert "goes on with 2 ranks on b:2" in capsys.readouterr().err
    assert without_hosts(asked, ("host a", "host b")) is None
    assert Outcome(0).lost == ()


def test_missing_ranks_are_named_with_their_hosts(monkeypatch):
    told = RankEnvironment(0, 4, hosts="a:2,b:2")
    lines = []
    server = rendezvous.RendezvousServer(4, "job", 9.0, report=lines.append, host_of=told.host_of)
    assert server._progress() == (
        "0 of 4 ranks joined, waiting for ranks 0 (host a), 1 (host a), 2 (host b), 3 (host b)"
    )
    server._listener.close()


def test_small_things():
    assert default_ranks(TWO, 1) == 4 and default_ranks((), 3) == 3 and parse_ranks("3,0-1") == (0, 1, 3)
    assert over_hosts.used(TWO, 2) == (TWO[0],)
    assert dataclasses.replace(TWO[0], slots=1).slots == 1
