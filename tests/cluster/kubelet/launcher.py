"""Becomes a container's process: run by itself, with one argument, a JSON object.

It enters the pod's network namespace, makes new ones for mounts, process ids and the host name, builds the
container's root, gives up its rights and executes the command, which is process 1 there – so that, as in any
container, SIGTERM does nothing to a program without a handler. A parent stays behind: a process cannot be
waited for under a new process 1, and when the parent is killed, so is the container.

The descriptor `report` gets the container's process id as seen from outside, and then either is closed by
the execution of the command, or gets a line that says why there is none.

Imports little: it is started for each container.
"""

import ctypes
import json
import os
import signal
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 2
MS_NODEV = 4
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38

# The same number on every architecture (mount_setattr(2)).
SYS_MOUNT_SETATTR = 442
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = 1

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source, target, kind, flags, data=""):
    check(
        libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()),
        f"mount {source} on {target}",
    )


def read_only(path, on, *, below=False):
    """Make a mount read-only or writable, with those below it if asked."""

    class Attributes(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]

    attributes = Attributes(MOUNT_ATTR_RDONLY if on else 0, 0 if on else MOUNT_ATTR_RDONLY, 0, 0)
    check(
        libc.syscall(
            SYS_MOUNT_SETATTR,
            AT_FDCWD,
            path.encode(),
            AT_RECURSIVE if below else 0,
            ctypes.byref(attributes),
            ctypes.sizeof(attributes),
        ),
        f"mount_setattr of {path}",
    )


def bind(root, source, target):
    """Show `source`, a file or a folder with all that is mounted below it, at `target` in `root`."""
    target = root + target
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.lexists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(source, target, "", MS_BIND | MS_REC)


def build_root(spec):
    """The container's root: a file system of its own, into which the machine's folders are bound."""
    root = spec["root"]
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    for name in ("bin", "lib", "lib32", "lib64", "sbin"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            bind(root, f"/{name}", f"/{name}")
    for source, target in spec["binds"]:
        bind(root, source, target)
    os.makedirs(f"{root}/tmp", exist_ok=True)
    os.chmod(f"{root}/tmp", 0o1777)
    os.makedirs(f"{root}/proc", exist_ok=True)
    for _, target in spec["writable"]:
        os.makedirs(root + target, exist_ok=True)
    # Nothing of the machine's can be written, whatever the pod says of its root.
    read_only(root, True, below=True)
    if not spec["read_only"]:
        read_only(root, False)
    for source, target in spec["writable"]:
        bind(root, source, target)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV)
    os.chroot(root)


def become(spec):
    """Turn into the container's command; returns only by an exception."""
    build_root(spec)
    name = spec["hostname"].encode()
    check(libc.sethostname(name, len(name)), "sethostname")
    os.chdir(spec["folder"])
    if spec["user"]:
        os.setgroups([])
        os.setgid(spec["group"])
        # From root to another user: the kernel takes all capabilities.
        os.setuid(spec["user"])
    if spec["no_new_privileges"]:
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    # After the change of user, which clears it.
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvpe(spec["argv"][0], spec["argv"], spec["env"])


def main():
    spec = json.loads(sys.argv[1])
    report = spec["report"]
    os.set_inheritable(report, False)
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    namespace = os.open(spec["network"], os.O_RDONLY | os.O_CLOEXEC)
    check(libc.setns(namespace, CLONE_NEWNET), "setns")
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWPID), "unshare")
    child = os.fork()
    if child == 0:
        try:
            become(spec)
        except OSError as exc:
            os.write(report, f"{exc}\n".encode())
        finally:
            os._exit(127)
    os.write(report, f"{child}\n".encode())
    os.close(report)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    # As container runtimes have it: 137 for SIGKILL.
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
