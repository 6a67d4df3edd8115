#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Work for a guest that is watched: processes, files and connections, the same for the same seed.

Prints what it did, one JSON object a line: the ground truth. What a name or number in it means is what the system call was
given, `result` is 0 or the negative errno. Nothing runs in the background; `--rounds` says how much there is to do.
"""

import argparse
import errno
import json
import os
import random
import socket
import sys
import time

UNREACHABLE = ("192.0.2.%d", "198.51.100.%d", "203.0.113.%d")
PROGRAMS = ("/usr/bin/true", "/usr/bin/echo", "/usr/bin/uname", "/usr/bin/id", "/usr/bin/ls")
WORDS = (
    "plain",
    "two words",
    "tab\there",
    "quote'\"",
    "dollar$HOME",
    "uml\u00e4ut",
    "new\nline",
    "--flag=1",
    "",
    "x" * 200,
)


class Work:
    """Does the actions; each method is one kind."""

    def __init__(self, seed, folder):
        self.random = random.Random(seed)
        self.folder = folder
        self.count = 0
        os.makedirs(folder, exist_ok=True)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.path = os.path.join(folder, "socket")
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(self.path)
        self.unix.listen(64)

    def tell(self, action, **fields):
        """Print what was done."""
        self.count += 1
        print(json.dumps({"n": self.count, "action": action, **fields}), flush=True)

    def name(self):
        """Return a file name that no round has used yet."""
        self.count_names = getattr(self, "count_names", 0) + 1
        return os.path.join(self.folder, "file-%d-%08x" % (self.count_names, self.random.getrandbits(32)))

    def fork(self):
        """A child that ends with a code of its own."""
        code = self.random.randrange(256)
        child = os.fork()
        if child == 0:
            os._exit(code)
        os.waitpid(child, 0)
        self.tell("fork", pid=os.getpid(), child=child)
        self.tell("exit", pid=child, status=code)

    def execute(self):
        """A program with arguments that are hard to write down."""
        argv = [self.random.choice(PROGRAMS)]
        if argv[0] in ("/usr/bin/true", "/usr/bin/echo"):
            argv += self.random.sample(WORDS, self.random.randrange(1, 5))
        self.spawn(argv)

    def spawn(self, argv, **fields):
        """Run a program to its end, without output."""
        null = os.open("/dev/null", os.O_RDWR)
        child = os.fork()
        if child == 0:
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.dup2(null, 2)
            try:
                os.execve(argv[0], argv, {"PATH": "/usr/bin", "LANG": "C"})
            finally:
                os._exit(127)
        os.close(null)
        _, status = os.waitpid(child, 0)
        self.tell(
            "exec",
            pid=child,
            path=argv[0],
            argv=argv,
            cwd=os.getcwd(),
            status=os.waitstatus_to_exitcode(status),
            **fields,
        )

    def script(self):
        """A script, written, made executable, run, removed."""
        path = self.name() + ".sh"
        shell = self.random.choice(("/bin/sh", "/bin/bash"))
        self.create(path, ("#!%s\nexit %d\n" % (shell, self.random.randrange(100))).encode())
        self.chmod(path, 0o755)
        self.spawn([path, "argument"], script=path, interpreter=shell)
        self.unlink(path)

    def files(self):
        """Create, write, read, rename, delete; and open one that is not there."""
        first, second = self.name(), self.name()
        self.create(first, self.random.randbytes(self.random.randrange(1, 5000)))
        self.open(first, os.O_RDONLY)
        self.open(first, os.O_RDWR | os.O_APPEND)
        os.rename(first, second)
        self.tell("rename", path=first, new_path=second, result=0)
        self.chmod(second, 0o600)
        self.unlink(second)
        self.open(second, os.O_RDONLY)

    def create(self, path, data):
        """Write a new file."""
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.write(number, data)
        os.close(number)
        self.tell("open", path=path, flags=os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, result=0)
        self.tell("write", path=path, bytes=len(data))

    def open(self, path, flags):
        """Open and close."""
        result = 0
        try:
            os.close(os.open(path, flags | os.O_CLOEXEC))
        except OSError as error:
            result = -error.errno
        self.tell("open", path=path, flags=flags | os.O_CLOEXEC, result=result)

    def chmod(self, path, mode):
        """Change a mode."""
        os.chmod(path, mode)
        self.tell("chmod", path=path, mode=mode, result=0)

    def unlink(self, path):
        """Delete."""
        os.unlink(path)
        self.tell("unlink", path=path, result=0)

    def connect(self, family, address, port):
        """Try a TCP connection and give it up at once."""
        with socket.socket(family) as sock:
            sock.settimeout(1.0)
            result = sock.connect_ex((address, port))
        if result in (errno.EAGAIN, errno.EINPROGRESS, errno.ETIMEDOUT):
            result = errno.EINPROGRESS
        self.tell(
            "connect",
            family="inet" if family == socket.AF_INET else "inet6",
            protocol="tcp",
            address=address,
            port=port,
            result=-result,
        )

    def tcp(self):
        """To a listener of this guest, to a closed port of it, and to addresses that cannot be reached."""
        self.connect(socket.AF_INET, "127.0.0.1", self.port)
        self.listener.accept()[0].close()
        self.connect(socket.AF_INET, "127.0.0.1", self.random.randrange(1, 1000))
        self.connect(
            socket.AF_INET,
            self.random.choice(UNREACHABLE) % self.random.randrange(1, 255),
            self.random.randrange(1, 65536),
        )
        self.connect(socket.AF_INET6, "::1", self.random.randrange(1, 1000))
        self.connect(socket.AF_INET6, "2001:db8::%x" % self.random.randrange(1, 65536), self.random.randrange(1, 65536))

    def udp(self):
        """A datagram to nowhere."""
        address, port = (
            self.random.choice(UNREACHABLE) % self.random.randrange(1, 255),
            self.random.randrange(1024, 65536),
        )
        size = self.random.randrange(1, 500)
        result = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(bytes(size), (address, port))
            except OSError as error:
                result = -error.errno
        self.tell("datagram", family="inet", protocol="udp", address=address, port=port, size=size, result=result)

    def dns(self):
        """Ask for a name that is nowhere."""
        name = "host-%06x.example.test" % self.random.getrandbits(24)
        try:
            socket.getaddrinfo(name, 80, socket.AF_INET, socket.SOCK_STREAM)
        except OSError:
            pass
        self.tell("dns", name=name)

    def local(self):
        """Unix sockets: one that is there, one that is not."""
        for path in (self.path, self.path + "-missing"):
            with socket.socket(socket.AF_UNIX) as sock:
                result = sock.connect_ex(path)
            if result == 0:
                self.unix.accept()[0].close()
            self.tell("connect", family="unix", path=path, result=-result)


KINDS = {
    "fork": Work.fork,
    "exec": Work.execute,
    "script": Work.script,
    "file": Work.files,
    "tcp": Work.tcp,
    "udp": Work.udp,
    "dns": Work.dns,
    "unix": Work.local,
}


def main():
    """Do some rounds of all kinds, or of those that were named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how often each kind is done")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, with commas: " + ",".join(KINDS))
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between rounds")
    parser.add_argument("--folder", default="/tmp/workload")
    options = parser.parse_args()
    kinds = options.only.split(",")
    for kind in kinds:
        if kind not in KINDS:
            parser.error("no such kind: " + kind)
    work = Work(options.seed, options.folder)
    for number in range(options.rounds):
        for kind in kinds:
            KINDS[kind](work)
        if options.pause and number + 1 < options.rounds:
            time.sleep(options.pause)
    return 0


if __name__ == "__main__":
    sys.exit(main())
