"""scripts/environment.sh with a Python that only pretends to install."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = "bash cat chmod cksum cp df dirname grep head ln ls mkdir rm sleep tail tee touch tr"
PYTHON = f"""#!/bin/bash
case "$2" in
venv) mkdir -p "${{@: -1}}/bin" && cp "$0" "${{@: -1}}/bin/python" ;;
pip)
    case "$*" in
    *--version | *--help) ;;
    *constraints.txt*) sleep 0.3; echo install >>"$CALLS"; echo "$SAYS"; exit "${{FAILS:-0}}" ;;
    esac ;;
*) exec {shlex.quote(sys.executable)} "$@" ;;
esac
"""


class Clone:
    """A copy of what the script needs, in a path with spaces, and a PATH with little on it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a clone 'of' it"
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("setup.cfg", "constraints.txt", "pyproject.toml", "scripts/environment.sh"):
            shutil.copy(ROOT / name, self.root / name)
        self.bin.mkdir()
        for tool in TOOLS.split():
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        self.add("python3", PYTHON)
        self.add("cc", "#!/bin/bash\n")

    def add(self, name: str, program: str) -> None:
        """Put a program on the PATH."""
        file = self.bin / name
        file.write_text(program)
        file.chmod(0o755)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Source the script as the others do, from another folder."""
        command = f'. "{self.root}/scripts/environment.sh"; echo "ready: $PYTHON"'
        return subprocess.Popen(
            [self.bin / "bash", "-c", command],
            env={"PATH": str(self.bin), "CALLS": str(self.calls), "SAYS": "", **environment},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, **environment: str) -> tuple[int, str]:
        """The exit code and what was printed."""
        process = self.start(**environment)
        printed = process.communicate()[0]
        return process.returncode, printed

    def installs(self) -> int:
        """How often pip was asked to install the package."""
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_it_installs_once_and_again_only_when_the_versions_change(clone: Clone) -> None:
    for _ in range(2):
        assert clone.run()[0] == 0
        assert clone.installs() == 1
    with (clone.root / "constraints.txt").open("a") as file:
        file.write("another==1\n")
    assert clone.run()[0] == 0
    assert clone.installs() == 2


def test_it_names_the_python_of_a_path_with_spaces(clone: Clone) -> None:
    code, printed = clone.run()
    assert code == 0
    assert f"ready: {clone.root}/.venv/bin/python" in printed


def test_two_at_once_install_once(clone: Clone) -> None:
    both = [clone.start(), clone.start()]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert clone.installs() == 1
    assert any("Another script is installing" in text for text in printed)


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("NewConnectionError: [Errno 111] Connection refused", "is there a network?"),
        ("error: something else", "The installation failed"),
    ],
)
def test_a_failed_installation_says_why_and_is_repaired_by_the_next_run(
    clone: Clone, says: str, sentence: str
) -> None:
    code, printed = clone.run(SAYS=says, FAILS="1")
    assert code == 1
    assert sentence in printed
    assert "ready" not in printed
    assert says in (clone.root / ".local/log/install.log").read_text()
    assert clone.run()[0] == 0
    assert clone.installs() == 2


def test_without_python_it_says_which_one_is_needed(clone: Clone) -> None:
    (clone.bin / "python3").unlink()
    code, printed = clone.run()
    assert code == 1
    assert "Python 3.11 or newer is needed" in printed


def test_an_old_python_will_not_do(clone: Clone) -> None:
    clone.add("python3", "#!/bin/bash\nexit 1\n")
    assert "Python 3.11 or newer is needed" in clone.run()[1]


def test_without_a_compiler_it_says_so_before_anything_is_downloaded(clone: Clone) -> None:
    (clone.bin / "cc").unlink()
    code, printed = clone.run()
    assert code == 1
    assert "A C compiler is needed" in printed
    assert clone.installs() == 0


def test_a_disk_that_is_nearly_full_is_noticed_before_anything_is_downloaded(clone: Clone) -> None:
    (clone.bin / "df").unlink()
    clone.add("df", "#!/bin/bash\necho /dev/disk 100000 99000 1000 99% /\n")
    code, printed = clone.run()
    assert code == 1
    assert "Only 0 MB are free" in printed
    assert clone.installs() == 0
