"""A stranger on the network of a job that runs over two hosts: scans every port, talks garbage, guesses keys, plays back what the
hosts said to each other. Nothing crashes, nobody is let in, and the trained bits are those of one process."""

import contextlib
import json
import subprocess
import sys
import time

import pytest

from tests.hosts import needs_hosts
from tests.jobs import EXAMPLE
from tests.launch.hosts_rig import cluster
from tests.launch.rig import PHALANX, environment, started

pytestmark = needs_hosts

MESSAGES = 10_000
"""To each port; with so many every port there is is tried, with fewer those that are open."""
TRAINING = (
    EXAMPLE, "--model", "mlp", "--shards", "8", "--samples", "500", "--test-samples", "16", "--epochs", "999", "--max-steps",
)  # fmt: skip

RECORDER = """
import json, os, socket, struct, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
s.settimeout(0.2)
said, seen, looked = {}, set(), 0.0
print("ready", flush=True)
while True:
    if time.monotonic() > looked + 0.2:
        looked = time.monotonic()
        if os.path.exists(sys.argv[2]):
            break
    try:
        frame = s.recv(1 << 17)
    except TimeoutError:
        continue
    if len(frame) < 54 or frame[12:14] != b"\\x08\\x00" or frame[23] != 6:
        continue
    tcp = 14 + (frame[14] & 15) * 4
    size, port = struct.unpack("!H", frame[16:18])[0], struct.unpack("!H", frame[tcp + 2:tcp + 4])[0]
    data = frame[tcp + (frame[tcp + 12] >> 4) * 4:14 + size]
    key = socket.inet_ntoa(frame[30:34]) + ":" + str(port)
    number = (frame[26:34], frame[tcp:tcp + 8])  # the switch passes each frame on: it is seen twice
    if data and number not in seen and len(said.setdefault(key, bytearray())) < 200_000:
        seen.add(number)
        said[key] += data
json.dump({key: data.hex() for key, data in said.items()}, open(sys.argv[1], "w"))
"""

STRANGER = """
import errno, json, os, random, selectors, socket, sys, time
import zmq

hosts, messages, recorded = json.loads(sys.argv[1]), int(sys.argv[2]), json.load(open(sys.argv[3]))
ports = json.loads(sys.argv[4]) or range(1, 65536)
random.seed(1)

def scan(host, ports):
    found = []
    while ports:
        some, ports = ports[:500], ports[500:]
        tries = []
        for port in some:
            s = socket.socket(); s.setblocking(False)
            s.connect_ex((host, port)); tries.append((port, s))
        time.sleep(0.02)
        for port, s in tries:
            if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                try:
                    s.getpeername(); found.append(port)
                except OSError:
                    pass
            s.close()
    return found

def pour(host, port, pieces):
    sent = 0
    s = None
    for piece in pieces:
        for attempt in range(2):
            try:
                if s is None:
                    s = socket.create_connection((host, port), 2); s.settimeout(2)
                s.sendall(piece); sent += 1
                break
            except OSError:
                if s is not None: s.close()
                s = None
        if s is not None and sent % 97 == 0:
            s.close(); s = None
    return sent

def knock(address):
    context = zmq.Context()
    said = []
    for kind in (zmq.PUSH, zmq.DEALER, zmq.REQ, zmq.SUB):
        for keys in ("none", "curve", "plain"):
            door = context.socket(kind); door.linger = 0
            watch = door.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            if keys == "plain":
                door.plain_username, door.plain_password = b"phalanx", b"a guess"
            elif keys == "curve":
                public, secret = zmq.curve_keypair()
                door.curve_publickey, door.curve_secretkey, door.curve_serverkey = public, secret, public
            door.connect(address)
            said.append(bool(watch.poll(150)))
            door.disable_monitor(); door.close()
    return sum(said)

report = {}
for host in hosts:
    for port in scan(host, list(ports)):
        before = socket.create_connection((host, port), 2).close()
        garbage = (os.urandom(random.randint(1, 200)) for _ in range(messages))
        greeting = (b"\\xff\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x7f\\x03\\x00NULL" + bytes(48) for _ in range(50))
        key = f"{host}:{port}"
        old = bytes.fromhex(recorded.get(key, ""))
        report[key] = {
            "garbage": pour(host, port, garbage), "greetings": pour(host, port, greeting),
            "replayed": len(old), "pieces": pour(host, port, [old[at:at + 4096] for at in range(0, len(old), 4096)]),
            "let in": knock(f"tcp://{key}"),
        }
print(json.dumps(report))
"""


@contextlib.contextmanager
def _running(command):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _wait_for_lines(file, count, job, seconds=60.0):
    end = time.monotonic() + seconds
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert time.monotonic() < end and job.popen.poll() is None, job.popen.communicate(timeout=10)
        time.sleep(0.1)


def _listening(hosts):
    """The ports on which anything listens on the first two hosts, as these see it."""
    found = set()
    for host in range(2):
        command = ["ip", "netns", "exec", hosts.namespace(host), "ss", "-Hltn"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        found |= {int(line.split()[3].rpartition(":")[2]) for line in lines}
    return sorted(found)


@pytest.mark.parametrize("messages", [300, pytest.param(MESSAGES, marks=pytest.mark.whole)])
def test_a_stranger_changes_nothing(tmp_path, messages):
    (tmp_path / "run").mkdir()
    with cluster(tmp_path, 3, per_host=2) as three:
        hosts = three.hosts
        stop = tmp_path / "recorded.enough"
        told = ["ip", "netns", "exec", hosts.switch, sys.executable, "-c", RECORDER, str(tmp_path / "said"), str(stop)]
        ledger = tmp_path / "ledger"
        with _running(told) as recorder:
            assert recorder.stdout.readline() == "ready\n"
            with three.start(*TRAINING, "100000", "--ledger", str(ledger), "--checkpoint-dir", str(tmp_path / "run"),
                             hosts="h0:2,h1:2") as job:  # fmt: skip
                _wait_for_lines(ledger, 20, job)
                stop.touch()
                recorder.wait(20)
                assert json.loads((tmp_path / "said").read_text()), "nothing was recorded"
                told = [json.dumps([hosts.address(0), hosts.address(1)]), str(messages), str(tmp_path / "said")]
                told.append(json.dumps([] if messages == MESSAGES else _listening(hosts)))
                words = [sys.executable, "-c", STRANGER, *told]
                stranger = hosts.start(2, words, environment(), tmp_path / "stranger")
                assert stranger.wait(120) == 0, (tmp_path / "stranger").read_text()
                before = len(ledger.read_text().splitlines())
                _wait_for_lines(ledger, before + 20, job)
                (tmp_path / "run" / "STOP").touch()
                out, err = job.popen.communicate(timeout=30)
        assert job.popen.returncode == 0, err
        assert "Traceback" not in out + err, err
        steps = len(ledger.read_text().splitlines())
    report = json.loads((tmp_path / "stranger").read_text().splitlines()[-1])
    assert report, "the scan found no open port: it looked in the wrong place"
    for door, found in report.items():
        assert found["let in"] == 0, (door, report)
        assert found["garbage"] > messages // 2, (door, found)
    assert any(found["replayed"] for found in report.values()), report
    alone = tmp_path / "alone"
    with started(*PHALANX, "run", *TRAINING, str(steps), "--ledger", str(alone)) as job:
        _, err = job.popen.communicate(timeout=200)
    assert job.popen.returncode == 0, err
    assert ledger.read_bytes() == alone.read_bytes()
