"""``cupy.cuda.nccl``: ranks in processes or threads that exchange over sockets of this machine, in memory of the host.

Stricter than NCCL where that would hang or corrupt: what two ranks send and receive must agree in size and type, and a rank that is gone
is an error at once. Two ranks on one device are refused, as NCCL does.
"""

from __future__ import annotations

import contextlib
import json
import queue
import secrets
import socket
import struct
import threading
from typing import Any

import numpy as np

from .. import _order, _state

available = True
NCCL_CHAR = NCCL_INT8 = 0
NCCL_UINT8 = 1
NCCL_INT = NCCL_INT32 = 2
NCCL_UINT32 = 3
NCCL_INT64 = 4
NCCL_UINT64 = 5
NCCL_HALF = NCCL_FLOAT16 = 6
NCCL_FLOAT = NCCL_FLOAT32 = 7
NCCL_DOUBLE = NCCL_FLOAT64 = 8
NCCL_BFLOAT16 = 9
NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN, NCCL_AVG = range(5)
_NAMES = ["int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", "bfloat16"]
_HEAD = struct.Struct("<qi")
_PATIENCE_S = 120.0


class NcclError(RuntimeError):
    """What NCCL answers instead of doing it."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


def _dtype(code: int) -> np.dtype[Any]:
    if _NAMES[code] == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(_NAMES[code])


def get_version() -> int:
    return 22809


def get_build_version() -> int:
    return 22707


def get_unique_id() -> bytes:
    """128 bytes that name a group; whoever asks listens for its ranks."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=_introduce, args=(listening,), daemon=True).start()
    words = json.dumps({"port": listening.getsockname()[1], "word": secrets.token_hex(8)}).encode()
    return words.ljust(128, b"\0")


def _introduce(listening: socket.socket) -> None:
    """Tell all ranks of a group where the others listen."""
    listening.settimeout(_PATIENCE_S)
    found: dict[int, tuple[socket.socket, Any]] = {}
    try:
        while not found or len(found) < next(iter(found.values()))[1]["size"]:
            connection, _ = listening.accept()
            row = json.loads(_read_line(connection))
            found[row["rank"]] = connection, row
        table = json.dumps([found[rank][1] for rank in sorted(found)]).encode() + b"\n"
        for connection, _ in found.values():
            connection.sendall(table)
    except OSError:
        pass
    finally:
        for connection, _ in found.values():
            connection.close()
        listening.close()


def _read_line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            raise NcclError(6, "NCCL_ERROR_REMOTE_ERROR: remote process exited or there was a network error")
        data += piece
    return data


class _Grouped(threading.local):
    depth = 0
    calls: list[Any]


_grouped = _Grouped()


def groupStart() -> None:
    if not _grouped.depth:
        _grouped.calls = []
    _grouped.depth += 1


def groupEnd() -> None:
    if not _grouped.depth:
        raise NcclError(5, "NCCL_ERROR_INVALID_USAGE: groupEnd without groupStart")
    _grouped.depth -= 1
    if not _grouped.depth:
        calls, _grouped.calls = _grouped.calls, []
        for stream in dict.fromkeys(stream for stream, *_ in calls):
            part = [call for call in calls if call[0] == stream]
            _state.run(lambda part=part: _together(part), stream)


def _together(calls: list[Any]) -> None:
    """All sends leave before the first receive waits."""
    for _, send, _ in calls:
        if send is not None:
            send()
    for _, _, receive in calls:
        if receive is not None:
            receive()


def _submit(stream: int, send: Any, receive: Any) -> None:
    if _grouped.depth:
        _grouped.calls.append((stream, send, receive))
    else:
        _state.run(lambda: _together([(stream, send, receive)]), stream)


class NcclCommunicator:
    """Rank ``rank`` of ``ndev``."""

    def __init__(self, ndev: int, commId: bytes, rank: int, config: Any = None) -> None:
        if not isinstance(commId, bytes) or len(commId) != 128:
            raise TypeError("commId must be 128 bytes")
        self._size, self._rank, self._device = ndev, rank, _state.thread.device
        self._broken: NcclError | None = None
        self._peers: dict[int, socket.socket] = {}
        self._outgoing: dict[int, queue.Queue[bytes | None]] = {}
        try:
            self._connect(json.loads(commId.rstrip(b"\0"))["port"])
        except OSError as error:
            raise NcclError(2, f"NCCL_ERROR_SYSTEM_ERROR: {error}") from error

    def _connect(self, port: int) -> None:
        listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        with listening, socket.create_connection(("127.0.0.1", port), _PATIENCE_S) as meeting:
            row = {
                "rank": self._rank, "size": self._size, "port": listening.getsockname()[1],
                "device": _state.Device(self._device).pci_bus_id,
            }  # fmt: skip
            meeting.sendall(json.dumps(row).encode() + b"\n")
            table = json.loads(_read_line(meeting))
            if len({other["device"] for other in table}) < self._size:
                raise NcclError(5, "NCCL_ERROR_INVALID_USAGE: Duplicate GPU detected")
            for other in range(self._rank):
                connection = socket.create_connection(("127.0.0.1", table[other]["port"]), _PATIENCE_S)
                connection.sendall(f"{self._rank}\n".encode())
                self._take_on(other, connection)
            for _ in range(self._rank + 1, self._size):
                connection, _ = listening.accept()
                self._take_on(int(_read_line(connection)), connection)

    def _take_on(self, peer: int, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peers[peer], self._outgoing[peer] = connection, queue.Queue()
        threading.Thread(target=self._send_all, args=(peer,), daemon=True).start()

    def _send_all(self, peer: int) -> None:
        while (data := self._outgoing[peer].get()) is not None:
            try:
                self._peers[peer].sendall(data)
            except OSError:
                self._broken = self._broken or _gone()
                return

    # -- what is asked ---------------------------------------------------------------------------------------------------------

    def size(self) -> int:
        return self._size

    def rank_id(self) -> int:
        return self._rank

    def device_id(self) -> int:
        return self._device

    def check_async_error(self) -> None:
        if self._broken is not None:
            raise self._broken

    def abort(self) -> None:
        self._broken = self._broken or NcclError(5, "NCCL_ERROR_INVALID_USAGE: the communicator was aborted")
        self._hang_up()

    def destroy(self) -> None:
        for outgoing in self._outgoing.values():
            outgoing.put(None)
        self._broken = self._broken or NcclError(4, "NCCL_ERROR_INVALID_ARGUMENT: the communicator was destroyed")

    def _hang_up(self) -> None:
        for peer, connection in self._peers.items():
            self._outgoing[peer].put(None)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # -- moving bytes ------------------------------------------------------------------------------------------------------------

    def _post(self, peer: int, data: np.ndarray, code: int) -> None:
        self.check_async_error()
        self._outgoing[peer].put(_HEAD.pack(data.nbytes, code) + data.tobytes())

    def _take(self, peer: int, out: np.ndarray, code: int) -> None:
        self.check_async_error()
        nbytes, sent = _HEAD.unpack(self._read(peer, _HEAD.size))
        if (nbytes, sent) != (out.nbytes, code):
            raise NcclError(
                5, f"rank {self._rank} receives {out.nbytes} bytes of type {code}, {peer} sent {nbytes} of {sent}"
            )
        out.view(np.uint8)[...] = np.frombuffer(self._read(peer, nbytes), np.uint8)

    def _read(self, peer: int, nbytes: int) -> bytes:
        data = bytearray()
        while len(data) < nbytes:
            try:
                piece = self._peers[peer].recv(nbytes - len(data))
            except OSError:
                piece = b""
            if not piece:
                self._broken = self._broken or _gone()
                raise self._broken
            data += piece
        return bytes(data)

    def _others(self) -> list[int]:
        return [rank for rank in range(self._size) if rank != self._rank]

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        source = _at(sendbuf, count, datatype)
        _reads(source, stream)
        _submit(stream, lambda: self._post(peer, source, datatype), None)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        out = _at(recvbuf, count, datatype)
        _writes(out, stream)
        _submit(stream, None, lambda: self._take(peer, out, datatype))

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        """In the order of ranks, one after the other: another order than the tree's."""
        source, out = _at(sendbuf, count, datatype), _at(recvbuf, count, datatype)
        _reads(source, stream)
        _writes(out, stream)

        def receive() -> None:
            rows = np.empty((self._size, count), out.dtype)
            rows[self._rank] = source
            for other in self._others():
                self._take(other, rows[other], datatype)
            wide = rows.astype(np.float32) if out.itemsize == 2 else rows
            total = wide[0]
            for row in wide[1:]:
                total = {NCCL_PROD: np.multiply, NCCL_MAX: np.maximum, NCCL_MIN: np.minimum}.get(op, np.add)(total, row)
            out[...] = (total / self._size if op == NCCL_AVG else total).astype(out.dtype)

        _submit(stream, lambda: [self._post(other, source, datatype) for other in self._others()], receive)

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:
        source, out = _at(sendbuf, count, datatype), _at(recvbuf, count * self._size, datatype)
        _reads(source, stream)
        _writes(out, stream)

        def receive() -> None:
            rows = out.reshape(self._size, count)
            rows[self._rank] = source.copy()
            for other in self._others():
                self._take(other, rows[other], datatype)

        _submit(stream, lambda: [self._post(other, source, datatype) for other in self._others()], receive)

    def broadcast(self, sendbuff: int, recvbuff: int, count: int, datatype: int, root: int, stream: int) -> None:
        source, out = _at(sendbuff, count, datatype), _at(recvbuff, count, datatype)
        _reads(source, stream)
        _writes(out, stream)

        def send() -> None:
            if self._rank == root:
                out[...] = source.copy()
                for other in self._others():
                    self._post(other, source, datatype)

        _submit(stream, send, None if self._rank == root else lambda: self._take(root, out, datatype))

    def bcast(self, buff: int, count: int, datatype: int, root: int, stream: int) -> None:
        self.broadcast(buff, buff, count, datatype, root, stream)


def _at(pointer: int, count: int, datatype: int) -> np.ndarray:
    dtype = _dtype(datatype)
    return _state._bytes_at(pointer, count * dtype.itemsize).view(dtype)


def _reads(array: np.ndarray, stream: int) -> None:
    _order.at_address(array.ctypes.data, array.nbytes, False, stream)


def _writes(array: np.ndarray, stream: int) -> None:
    _order.at_address(array.ctypes.data, array.nbytes, True, stream)


def _gone() -> NcclError:
    return NcclError(6, "NCCL_ERROR_REMOTE_ERROR: remote process exited or there was a network error")
