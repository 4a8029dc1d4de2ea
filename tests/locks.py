"""A process in which the kernel refuses to lock files, as a file system without locks does.

A seccomp filter, which a process may put on itself (seccomp(2)), answers `flock` and the locks of
`fcntl` with ENOLCK, there and in all that it starts.
"""

from __future__ import annotations

WITHOUT_LOCKS = """
import ctypes, errno, fcntl, os, struct

def refuse_locks():
    flock, control = {"x86_64": (73, 72), "aarch64": (32, 25)}[os.uname().machine]
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    program = [
        (load, 0, 0, 0),  # the system call's number
        (equal, 6, 0, flock),
        (equal, 0, 4, control),
        (load, 0, 0, 24),  # the lower half of its second argument
        (equal, 3, 0, fcntl.F_SETLK),
        (equal, 2, 0, fcntl.F_SETLKW),
        (equal, 1, 0, 37),  # F_OFD_SETLK
        (answer, 0, 0, 0x7FFF0000),  # let it through
        (answer, 0, 0, 0x00050000 | errno.ENOLCK),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    address = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    whole = ctypes.create_string_buffer(address)
    libc = ctypes.CDLL(None, use_errno=True)
    null = ctypes.c_ulong(0)
    assert libc.prctl(38, ctypes.c_ulong(1), null, null, null) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, ctypes.c_ulong(2), whole, null, null) == 0, ctypes.get_errno()

refuse_locks()
"""
