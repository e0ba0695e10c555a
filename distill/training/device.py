"""Where torch computes: its device and its number of threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread; the number of threads is restored at the end of the last such context.

    The rounding of a sum depends on its division among threads, and results must not depend on the number of cores.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    with _THREADS.lock:
        if not _THREADS.users:
            _THREADS.before = torch.get_num_threads()
        _THREADS.users += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _THREADS.lock:
            _THREADS.users -= 1
            if not _THREADS.users:
                torch.set_num_threads(_THREADS.before)


def check_device(device: str) -> torch.device:
    """Return the torch device of this name.

    Raises
    ------
    ValueError
        If the name is not one of torch, or the device is not available.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be a torch device such as 'cpu' or 'cuda', got {device!r}") from error
    try:
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used here ({reason}); use device='cpu'") from error
    return found


class _Threads:
    """Number of contexts in all Python threads, and torch's number of threads before the first of them."""

    def __init__(self):
        self.lock, self.users, self.before = threading.Lock(), 0, 1


_THREADS = _Threads()
