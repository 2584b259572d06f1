"""``cupy.cuda.runtime``: what the project asks the CUDA runtime for."""

from __future__ import annotations

from .. import _order, _state
from .._state import CUDARuntimeError as CUDARuntimeError

is_hip = False
memcpyHostToHost, memcpyHostToDevice, memcpyDeviceToHost, memcpyDeviceToDevice, memcpyDefault = range(5)
eventDefault, eventBlockingSync, eventDisableTiming, eventInterprocess = 0, 1, 2, 4
streamDefault, streamNonBlocking = 0, 1
streamCaptureModeGlobal, streamCaptureModeThreadLocal, streamCaptureModeRelaxed = range(3)
streamCaptureStatusNone, streamCaptureStatusActive, streamCaptureStatusInvalidated = range(3)
cudaDevAttrMultiProcessorCount, cudaDevAttrComputeMode = 16, 20
_registered: dict[int, int] = {}


def getDeviceCount() -> int:
    count = _state.device_count()
    if count == 0:
        raise CUDARuntimeError("cudaErrorNoDevice", "no CUDA-capable device is detected")
    return count


def getDevice() -> int:
    return _state.thread.device


def setDevice(device: int) -> None:
    _state.check_device(device)
    _state.thread.device = device


def getDeviceProperties(device: int) -> dict[str, object]:
    _state.check_device(device)
    return {
        "name": b"Stand-in for a GPU", "totalGlobalMem": _state.TOTAL_BYTES, "multiProcessorCount": 132, "major": 9, "minor": 0,
        "pciBusID": device, "pciDeviceID": 0, "pciDomainID": 0, "uuid": bytes([device] * 16), "warpSize": 32, "l2CacheSize": 50 << 20,
        "maxThreadsPerBlock": 1024, "maxThreadsPerMultiProcessor": 2048, "sharedMemPerBlock": 48 << 10, "sharedMemPerBlockOptin": 227 << 10,
        "regsPerBlock": 65536, "clockRate": 1980000, "memoryClockRate": 2619000, "memoryBusWidth": 5120, "asyncEngineCount": 3,
    }  # fmt: skip


def deviceGetAttribute(attribute: int, device: int) -> int:
    _state.check_device(device)
    return {cudaDevAttrMultiProcessorCount: 132, cudaDevAttrComputeMode: 0}[attribute]


def deviceGetPCIBusId(device: int) -> str:
    _state.check_device(device)
    return f"0000:{device:02x}:00.0"


def deviceCanAccessPeer(device: int, peer: int) -> int:
    return 0


def deviceSynchronize() -> None:
    _state.refuse_while_capturing("cudaDeviceSynchronize")
    _order.host_waits_for_all()


def memGetInfo() -> tuple[int, int]:
    return _state.TOTAL_BYTES - _state.default_pool._held(_state.thread.device), _state.TOTAL_BYTES


def runtimeGetVersion() -> int:
    return 13000


def driverGetVersion() -> int:
    return 13000


def _host(kind: int) -> bool:
    return kind in (memcpyHostToDevice, memcpyDeviceToHost)


def memcpy(dst: int, src: int, size: int, kind: int) -> None:
    if _host(kind):
        _state.refuse_while_capturing("cudaMemcpy")
    _order.at_address(src, size, False)
    _order.at_address(dst, size, True)
    _order.host_waits_for()
    _state.run(lambda: _state.copy_bytes(dst, src, size))


def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    _order.at_address(src, size, False, stream)
    _order.at_address(dst, size, True, stream)
    _state.run(lambda: _state.copy_bytes(dst, src, size), stream, host=_host(kind))


def memset(ptr: int, value: int, size: int) -> None:
    _state.run(lambda: _state._bytes_at(ptr, size).fill(value))


def memsetAsync(ptr: int, value: int, size: int, stream: int) -> None:
    _order.at_address(ptr, size, True, stream)
    _state.run(lambda: _state._bytes_at(ptr, size).fill(value), stream)


def streamIsCapturing(stream: int) -> bool:
    return _state.recording_of(stream) is not None


def streamSynchronize(stream: int) -> None:
    if _state.recording_of(stream) is not None:
        raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing")
    _order.host_waits_for(stream)


def hostRegister(ptr: int, size: int, flags: int) -> None:
    if ptr in _registered:
        raise CUDARuntimeError(
            "cudaErrorHostMemoryAlreadyRegistered", "part or all of the requested memory range is already mapped"
        )
    _registered[ptr] = size


def hostUnregister(ptr: int) -> None:
    if _registered.pop(ptr, None) is None:
        raise CUDARuntimeError(
            "cudaErrorHostMemoryNotRegistered", "pointer does not correspond to a registered memory region"
        )


def profilerStart() -> None:
    pass


def profilerStop() -> None:
    pass
