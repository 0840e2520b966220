"""Brokers of our own for one measurement: broky and nats-server, alone or as clusters of three, on free loopback ports.

Each is a context manager: entered, all of its nodes take work; left, they are gone, and so is what they wrote. Only
processes started here are ended, by their process id. Standard library only.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

START_SECONDS = 30
CLUSTER = 3
JETSTREAM_MEMORY = 4 << 30  # what the streams of a server may take; the bench's keeps 64 MiB

NATS_CONFIG = """
server_name: n{number}
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{admin}"
jetstream {{ store_dir: "{directory}", max_mem: {memory}, max_file: 1073741824 }}
cluster {{ name: bench, listen: "127.0.0.1:{peer}", routes: [{routes}] }}
"""


def free_ports(count):
    """Ports that are free for TCP and UDP now. All are held until all are chosen, so none is given twice."""
    held, ports = [], []
    while len(ports) < count:
        tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        held += [tcp, udp]
        tcp.bind(("127.0.0.1", 0))
        port = tcp.getsockname()[1]
        try:
            udp.bind(("127.0.0.1", port))
        except OSError:
            continue
        ports.append(port)
    for each in held:
        each.close()
    return ports


class Node:
    """One process of a broker; its output goes to a file that is shown when it does not start."""

    def __init__(self, command, port, admin=None, ready="/readyz", ready_codes=(200,)):
        self.address, self.admin, self.ready, self.ready_codes = f"127.0.0.1:{port}", admin, ready, ready_codes
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def is_ready(self):
        try:
            host, port = self.address.split(":")
            socket.create_connection((host, int(port)), timeout=1).close()
            if self.admin is None:
                return True
            connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=1)
            connection.request("GET", self.ready)
            return connection.getresponse().status in self.ready_codes
        except (OSError, http.client.HTTPException):
            return False

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-2000:]

    def cpu_seconds(self):
        """User and system time so far, all threads."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError, ValueError):
            return None

    def run_seconds(self):
        """Time on a core so far, all threads, to the nanosecond: ticks are too coarse for a node that does nothing."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except (OSError, IndexError, ValueError):
                continue
        return total / 1e9

    def memory_mib(self, field):
        """A field of /proc/PID/status: VmRSS, VmHWM."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            return int(status.split(field + ":")[1].split()[0]) / 1024
        except (OSError, IndexError, ValueError):
            return None

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Broker:
    """Nodes that work together. `flags`: what tells the generator to use them."""

    def __init__(self, kind, tools):
        self.kind, self.nodes, self.directory = kind, [], None
        try:
            self.flag = START[kind](self, tools)
        except Exception:
            self.stop()
            raise

    @property
    def flags(self):
        return [self.flag, ",".join(node.address for node in self.nodes)]

    def __enter__(self):
        deadline = time.monotonic() + START_SECONDS
        while not all(node.is_ready() for node in self.nodes):
            ended = any(node.process.poll() is not None for node in self.nodes)
            if ended or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.kind} did not start:\n" + "\n".join(node.said() for node in self.nodes))
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self.stop()

    def cpu_seconds(self):
        """Of all nodes. `None`: not to be had."""
        times = [node.cpu_seconds() for node in self.nodes]
        return None if None in times else sum(times)

    def peak_mib(self):
        """Of the largest node."""
        peaks = [node.memory_mib("VmHWM") for node in self.nodes]
        return None if None in peaks else max(peaks)

    def stop(self):
        for node in self.nodes:
            node.stop()
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)


def start_nats(broker, tools):
    port, = free_ports(1)
    broker.nodes.append(Node([tools.nats_server, "-a", "127.0.0.1", "-p", str(port)], port))
    return "--nats"


def start_jetstream(broker, tools):
    broker.directory = tempfile.mkdtemp(prefix="broky-compare-")
    ports = free_ports(3 * CLUSTER)
    ports, peers, admins = ports[:CLUSTER], ports[CLUSTER:2 * CLUSTER], ports[2 * CLUSTER:]
    routes = ", ".join(f'"nats://127.0.0.1:{peer}"' for peer in peers)
    for number, (port, peer, admin) in enumerate(zip(ports, peers, admins), 1):
        directory = Path(broker.directory) / f"n{number}"
        directory.mkdir()
        config = directory / "nats.conf"
        config.write_text(NATS_CONFIG.format(number=number, port=port, peer=peer, admin=admin, directory=directory,
                                             memory=JETSTREAM_MEMORY, routes=routes))
        broker.nodes.append(Node([tools.nats_server, "-c", str(config)], port, admin, ready="/healthz"))
    return "--jetstream"


def start_broky(broker, tools):
    port, peer, admin = free_ports(3)
    command = [tools.broky, "serve", "--listen", f"127.0.0.1:{port}", "--memory", tools.memory]
    # Builds that cannot form a cluster know only the client's listener, and some do not know when they are ready.
    if "--peer-listen" in tools.serve_help:
        command += ["--peer-listen", f"127.0.0.1:{peer}"]
    if "--admin-listen" in tools.serve_help:
        command += ["--admin-listen", f"127.0.0.1:{admin}"]
    else:
        admin = None
    broker.nodes.append(Node(command, port, admin, ready_codes=(200, 404)))
    return "--server"


def start_broky_cluster(broker, tools):
    ports = free_ports(3 * CLUSTER)
    ports, peers, admins = ports[:CLUSTER], ports[CLUSTER:2 * CLUSTER], ports[2 * CLUSTER:]
    join = ",".join(f"127.0.0.1:{peer}" for peer in peers)
    for number, (port, peer, admin) in enumerate(zip(ports, peers, admins), 1):
        command = [tools.broky, "serve", "--name", f"n{number}", "--memory", tools.memory]
        command += ["--expect", str(CLUSTER), "--join", join, "--replicas", "3", "--min-isr", "2"]
        command += ["--listen", f"127.0.0.1:{port}", "--peer-listen", f"127.0.0.1:{peer}"]
        command += ["--admin-listen", f"127.0.0.1:{admin}"]
        broker.nodes.append(Node(command, port, admin))
    return "--server"


START = {"nats": start_nats, "jetstream": start_jetstream, "broky": start_broky, "broky-3": start_broky_cluster}
