"""What Windows and macOS lack is used behind a check only: read from the source, since no such machine is here."""

import ast
from pathlib import Path

import pytest

import zoo

PACKAGE = Path(zoo.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Modules and attributes that one of the systems lacks.
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}
WINDOWS_MODULES = {"msvcrt", "winreg", "_winapi", "winsound", "nt"}
LACKING = {
    "os": {
        *("fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "getgroups", "sched_getaffinity", "getloadavg"),
        *("uname", "mkfifo", "setsid", "killpg", "getpgid", "nice", "statvfs", "O_NONBLOCK", "O_BINARY", "O_DIRECTORY"),
        *("chown", "lchown", "wait", "WNOHANG", "posix_fadvise", "sync", "fchmod", "getpriority", "confstr", "sysconf"),
    },
    "signal": {*("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGQUIT", "alarm")},
    "mmap": {"MADV_DONTNEED", "MADV_SEQUENTIAL", "MADV_WILLNEED", "MAP_SHARED", "MAP_PRIVATE", "PROT_READ"},
    "socket": {"AF_UNIX"},
    "time": {"tzset", "clock_gettime"},
}
# Used in a test of kills alone, which says so.
EXCEPT = {("core/files.py", "SIGKILL")}


def parents(tree):
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def above(node, up):
    while node in up:
        node = up[node]
        yield node


def catches_import_error(node, up):
    names = {"ImportError", "ModuleNotFoundError", "Exception"}
    for parent in above(node, up):
        if isinstance(parent, ast.Try):
            return any(
                names & {n.id for n in ast.walk(h.type) if isinstance(n, ast.Name)} for h in parent.handlers if h.type
            )
    return False


def is_checked(node, name, up):
    """Whether ``hasattr(module, "name")`` stands in an ``if`` around the node, or in an early return before it."""
    check = f"'{name}')"

    def asks(test):
        text = ast.unparse(test)
        return check in text and ("hasattr(" in text or "getattr(" in text)

    for parent in above(node, up):
        if isinstance(parent, ast.If | ast.IfExp) and asks(parent.test):
            return True
        if (
            isinstance(parent, ast.BoolOp | ast.ListComp)
            and check in ast.unparse(parent)
            and "hasattr(" in ast.unparse(parent)
        ):
            return True
        if isinstance(parent, ast.FunctionDef):
            early = [n for n in parent.body if isinstance(n, ast.If) and isinstance(n.body[-1], ast.Return | ast.Raise)]
            return any(asks(n.test) and n.lineno < node.lineno for n in early)
    return False


def problems_of(path):
    """What a file uses without asking whether the system has it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    up, place = parents(tree), path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module).split(".")[0]]
        for name in names:
            if name in POSIX_MODULES | WINDOWS_MODULES and not catches_import_error(node, up):
                yield f"{place}:{node.lineno}: imports {name}, which not every system has"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            is_lacking = node.attr in LACKING.get(node.value.id, ()) and (place, node.attr) not in EXCEPT
            if is_lacking and not is_checked(node, node.attr, up):
                yield f"{place}:{node.lineno}: uses {node.value.id}.{node.attr}, which not every system has"
        if isinstance(node, ast.Call):
            yield from (f"{place}:{node.lineno}: {problem}" for problem in problems_of_call(node, up))


def problems_of_call(node, up):
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    text = ast.unparse(node)
    keywords = {keyword.arg for keyword in node.keywords}
    mode = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
    if name == "open" and mode in ("r", "w", "a", "x") and "encoding" not in keywords:
        yield "open without encoding, which is not UTF-8 everywhere"
    if name in ("read_text", "write_text") and "encoding" not in keywords:
        yield f"{name} without encoding, which is not UTF-8 everywhere"
    if (
        text.startswith("os.kill(")
        and text.endswith(", 0)")
        and not any("os.name" in ast.unparse(n) for n in above(node, up) if isinstance(n, ast.FunctionDef))
    ):
        yield "os.kill(process, 0) sends Ctrl-C on Windows"
    if text.startswith("ctypes.CDLL(None)"):
        function = next(n for n in above(node, up) if isinstance(n, ast.FunctionDef))
        if function.name != "_keep_freed_memory":  # whose switch asks for glibc
            yield "ctypes.CDLL(None) is an error on Windows"
    if text.startswith(("multiprocessing.get_context('fork'", "multiprocessing.set_start_method('fork'")):
        yield "fork is not everywhere; use spawn"
    if text.startswith(("Path('/tmp", "open('/tmp", "Path('/dev/", "open('/dev/")):
        yield "a path of POSIX; use tempfile or os.devnull"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_what_a_system_may_lack_is_asked_for(path):
    assert list(problems_of(path)) == []


SEEDED = {
    "import fcntl": "imports fcntl",
    "try:\n    import fcntl\nexcept OSError:\n    pass": "imports fcntl",
    "from resource import getrusage": "imports resource",
    "import os\nos.fork()": "os.fork",
    "import os\nif hasattr(os, 'getuid'):\n    os.fork()": "os.fork",
    "import os\ndef f():\n    return os.getuid()": "os.getuid",
    "import os\ndef f(p):\n    os.kill(p, 0)": "sends Ctrl-C",
    "import signal\nsignal.SIGHUP": "signal.SIGHUP",
    "from pathlib import Path\nPath('x').read_text()": "without encoding",
    "import ctypes\ndef f():\n    ctypes.CDLL(None)": "error on Windows",
}


@pytest.mark.parametrize("code", SEEDED)
def test_the_check_finds_what_it_is_for(code, tmp_path):
    path = tmp_path / "seeded.py"
    path.write_text(code, encoding="utf-8")
    assert any(SEEDED[code] in problem for problem in problems_of(path))


def test_what_is_asked_for_passes(tmp_path):
    path = tmp_path / "fine.py"
    code = "import os\ntry:\n    import fcntl\nexcept ImportError:\n    fcntl = None\n"
    code += "x = os.getuid() if hasattr(os, 'getuid') else 0\n"
    code += "def f():\n    if not hasattr(os, 'getuid'):\n        return 0\n    return os.getuid()\n"
    path.write_text(code, encoding="utf-8")
    assert list(problems_of(path)) == []


def test_names_of_files_are_allowed_on_windows():
    """Its forbidden characters and names, and pairs that differ by case alone."""
    files = [
        path.relative_to(PACKAGE.parent) for place in (PACKAGE, PACKAGE.parent / "recipes") for path in place.rglob("*")
    ]
    for path in files:
        for part in path.parts:
            assert not set('<>:"|?*\\') & set(part), path
            assert part.split(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT1"}, path
            assert not part.endswith((".", " ")), path
    lowered = [str(path).lower() for path in files]
    assert len(set(lowered)) == len(lowered)
