"""Memory that the scorer owns and a model server may write: token ids in, logits out.

On a CPU a sealed memfd each (sealed, because shrinking it would kill whoever reads it); on a GPU the
logits are a CUDA allocation of their own, shared by its IPC handle. Of its own: a handle gives away
the whole allocation that it points into, and torch's allocator would put targets beside the logits.
Every server gets fresh, zeroed buffers: left-over bytes would be a way to talk to the next one.
"""

import ctypes
import fcntl
import mmap
import os
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

IPC_HANDLE_BYTES = 64
LAZY_PEER_ACCESS = 1
GRANULE_BYTES = 2 * 2**20  # CUDA shares whole blocks of this size


@dataclass
class SharedArray:
    """Anonymous shared memory by descriptor, as a numpy array."""

    descriptor: int
    array: np.ndarray

    @classmethod
    def create(cls, shape: tuple[int, ...], dtype: Any) -> "SharedArray":
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if sys.platform == "linux":
            descriptor = os.memfd_create("harness", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(descriptor, size)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
            os.ftruncate(descriptor, size)
        return cls(descriptor, cls.map(descriptor, shape, dtype))

    @staticmethod
    def map(descriptor: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        count = int(np.prod(shape))
        shared = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)  # no page faults while scoring
        memory = mmap.mmap(descriptor, count * np.dtype(dtype).itemsize, shared)
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def close(self) -> None:
        os.close(self.descriptor)  # the mapping goes with its last array


class CudaBuffer:
    """A float32 CUDA allocation shared by IPC handle, through the driver alone."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        import torch

        torch.zeros(1, device="cuda")  # makes torch's context the current one
        size = -(-int(np.prod(shape)) * 4 // GRANULE_BYTES) * GRANULE_BYTES
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(self._pointer), ctypes.c_size_t(size))
        self._call("cuMemsetD8_v2", self._pointer, ctypes.c_ubyte(0), ctypes.c_size_t(size))
        self.tensor = _as_tensor(self._pointer.value or 0, shape)

    def _call(self, name: str, *args: Any) -> None:
        _check(name, getattr(self._driver, name)(*args))

    def handle(self) -> str:
        handle = (ctypes.c_char * IPC_HANDLE_BYTES)()
        self._call("cuIpcGetMemHandle", ctypes.byref(handle), self._pointer)
        return bytes(handle).hex()

    def close(self) -> None:
        import torch

        torch.cuda.synchronize()
        self._call("cuMemFree_v2", self._pointer)


class _IpcHandle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_char * IPC_HANDLE_BYTES),)


def open_cuda(handle: str, shape: tuple[int, ...]) -> "torch.Tensor":
    """The model server's view of a `CudaBuffer`; (B, ...) float32."""
    import torch

    torch.zeros(1, device="cuda")
    raw, pointer = _IpcHandle(), ctypes.c_uint64()
    ctypes.memmove(ctypes.byref(raw), bytes.fromhex(handle), IPC_HANDLE_BYTES)
    driver = ctypes.CDLL("libcuda.so.1")
    opened = driver.cuIpcOpenMemHandle_v2(ctypes.byref(pointer), raw, ctypes.c_uint(LAZY_PEER_ACCESS))
    _check("cuIpcOpenMemHandle", opened)
    return _as_tensor(pointer.value or 0, shape)


def _check(name: str, result: int) -> None:
    if result:
        raise RuntimeError(f"{name} failed with CUDA error {result}")


def _as_tensor(pointer: int, shape: tuple[int, ...]) -> "torch.Tensor":
    import torch

    class View:
        __cuda_array_interface__ = {  # noqa: RUF012
            "shape": shape, "typestr": "<f4", "data": (pointer, False), "version": 3,
        }  # fmt: skip

    return torch.as_tensor(View(), device="cuda")
