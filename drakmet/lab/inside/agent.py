#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside an emulated dom0 and inside its guests: does what `drakmet lab` asks over TCP.

One request a connection. Both sides send frames: a kind (1 byte), a length (4 bytes, big endian), a payload.
To the agent: R request (JSON, first), I input, E end of input, S signal number. From it: O output, D diagnostics (standard
error), J a JSON answer, X exit code (4 bytes, last). It sleeps in poll() and costs nothing while nothing is asked.
"""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading

PORT = 7001
LIMIT = 1 << 26
CHUNK = 1 << 16


class Lost(Exception):
    """The other side has gone, or does not speak the protocol."""


def receive(sock, size):
    """Return exactly size bytes."""
    parts = []
    while size:
        data = sock.recv(min(size, 1 << 20))
        if not data:
            raise Lost
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def frame(sock):
    """Return the next frame as (kind, payload)."""
    head = receive(sock, 5)
    size = int.from_bytes(head[1:], "big")
    if size > LIMIT:
        raise Lost
    return head[:1], receive(sock, size)


def send(sock, kind, payload=b""):
    """Send a frame."""
    sock.sendall(kind + len(payload).to_bytes(4, "big") + payload)


def finish(sock, code):
    """Send the exit code, which ends a request."""
    send(sock, b"X", struct.pack(">i", code))


def execute(sock, request):
    """Run a command: its output as it comes, input and signals as they come, its exit code at the end."""
    env = dict(os.environ)
    env.update(request.get("env") or {})
    try:
        process = subprocess.Popen(
            request["argv"],
            cwd=request.get("cwd") or None,
            env=env,
            stdin=subprocess.PIPE if request.get("stdin") else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if request.get("merge") else subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        send(sock, b"D", ("%s: %s\n" % (request["argv"][0], error.strerror)).encode())
        finish(sock, 127 if isinstance(error, FileNotFoundError) else 126)
        return
    outputs = {pipe.fileno(): kind for pipe, kind in ((process.stdout, b"O"), (process.stderr, b"D")) if pipe}
    for number in outputs:
        os.set_blocking(number, False)
    pending = bytearray()
    ended = not process.stdin
    if process.stdin:
        os.set_blocking(process.stdin.fileno(), False)
    watch = select.poll()
    for number in outputs:
        watch.register(number, select.POLLIN)
    watch.register(sock, select.POLLIN)
    child = os.pidfd_open(process.pid)
    watch.register(child, select.POLLIN)
    try:
        running = True
        while running:
            for number, _ in watch.poll():
                if number in outputs:
                    drain(sock, number, outputs[number], watch, once=True)
                elif number == child:
                    running = False
                elif process.stdin and number == process.stdin.fileno():
                    ended = feed(process, pending, ended, watch)
                else:
                    kind, payload = frame(sock)
                    if kind == b"S":
                        os.killpg(process.pid, struct.unpack(">i", payload)[0])
                    elif kind == b"I" and process.stdin:
                        pending += payload
                        watch.register(process.stdin.fileno(), select.POLLOUT)
                    elif kind == b"E" and process.stdin:
                        ended = "asked"
                        watch.register(process.stdin.fileno(), select.POLLOUT)
        code = process.wait()
        for number, kind in outputs.items():
            drain(sock, number, kind, watch, once=False)
        finish(sock, code if code >= 0 else 128 - code)
    except (Lost, OSError):
        stop(process)
        raise
    finally:
        os.close(child)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                try:
                    pipe.close()
                except OSError:
                    pass


def drain(sock, number, kind, watch, once):
    """Pass on what a pipe holds now."""
    while True:
        try:
            data = os.read(number, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            try:
                watch.unregister(number)
            except KeyError:
                pass
            return
        send(sock, kind, data)
        if once:
            return


def feed(process, pending, ended, watch):
    """Write what is pending to the command's input, and close it when its end was asked for."""
    number = process.stdin.fileno()
    try:
        if pending:
            del pending[: os.write(number, bytes(pending[:CHUNK]))]
    except BlockingIOError:
        return ended
    except OSError:
        pending.clear()
        ended = "asked"
    if not pending:
        watch.unregister(number)
        if ended == "asked":
            process.stdin.close()
            process.stdin = None
            return True
    return ended


def stop(process):
    """End a command whose caller has gone: ask first, insist after ten seconds."""
    for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue
        except OSError:
            return


def push(sock, request):
    """Write files: the request lists path, mode, mtime (seconds) and size of each; their contents follow as input frames."""
    for path in request.get("remove", ()):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
    for entry in request["files"]:
        path = entry["path"]
        if os.path.isdir(path):
            path = os.path.join(path, entry["name"])
        os.makedirs(os.path.dirname(path) or "/", exist_ok=True)
        work = path + ".lab-new"
        left = entry["size"]
        with open(work, "wb") as out:
            while left:
                kind, payload = frame(sock)
                if kind != b"I" or len(payload) > left:
                    raise Lost
                out.write(payload)
                left -= len(payload)
        os.chmod(work, entry["mode"])
        if entry.get("mtime") is not None:
            os.utime(work, (entry["mtime"], entry["mtime"]))
        os.rename(work, path)
    finish(sock, 0)


def pull(sock, request):
    """Send a file."""
    try:
        with open(request["path"], "rb") as source:
            while data := source.read(1 << 20):
                send(sock, b"O", data)
    except OSError as error:
        send(sock, b"D", ("%s: %s\n" % (request["path"], error.strerror)).encode())
        finish(sock, 1)
        return
    finish(sock, 0)


def relay(sock, request):
    """Join the connection to another agent's (a guest's): what follows is between the caller and that one."""
    try:
        other = socket.create_connection((request["address"], PORT), timeout=request.get("timeout", 30))
    except OSError as error:
        send(sock, b"D", ("%s: %s\n" % (request["address"], error.strerror or error)).encode())
        finish(sock, 125)
        return
    other.settimeout(None)
    send(sock, b"J", b"{}")

    def pass_on(source, target):
        try:
            while data := source.recv(CHUNK):
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    there = threading.Thread(target=pass_on, args=(sock, other), daemon=True)
    there.start()
    pass_on(other, sock)
    there.join()
    other.close()


KINDS = {"exec": execute, "push": push, "pull": pull, "relay": relay}


def serve(sock, token):
    """Do one request."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind, payload = frame(sock)
        request = json.loads(payload) if kind == b"R" else {}
        if token and request.get("token") != token:
            send(sock, b"D", b"lab agent: wrong token\n")
            finish(sock, 125)
            return
        KINDS[request["op"]](sock, request)
    except Exception as error:
        try:
            send(sock, b"D", ("lab agent: %s: %s\n" % (type(error).__name__, error)).encode())
            finish(sock, 125)
        except OSError:
            pass
    finally:
        sock.close()


def main():
    """Serve on the address given, to those who know the token (if one is given)."""
    address, token = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "")
    threading.stack_size(1 << 18)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, PORT))
    listener.listen(64)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock, token), daemon=True).start()


if __name__ == "__main__":
    main()
