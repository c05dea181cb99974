"""Two users of one group work in one results folder, with an open and with a closed umask.

    python -m tests.robustness.users

Run as root, which alone may become others. With umask 002 the second user must be able to do all
that the first one does; with 077 each command must work or end in a sentence without a traceback,
and must not advise to delete what only may not be read. An interpreter that lies where only root
may read is copied for the others; the harness and its packages must lie where everybody may.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.command import ROOT, TINY

GROUP = 54321


def interpreter(folder: Path) -> tuple[str, dict[str, str]]:
    """A Python that every user may run and what it needs in its environment."""
    base = Path(sys.base_prefix)
    if all(place.stat().st_mode & 0o005 == 0o005 for place in (base, *base.parents)):
        return sys.executable, {}
    copy = folder / "python"
    without = shutil.ignore_patterns("site-packages", "test", "tests")
    for part in ("bin", "lib"):
        shutil.copytree(base / part, copy / part, symlinks=True, ignore=without)
    packages = [path for path in sys.path if "site-packages" in path]
    return str(copy / "bin" / f"python3.{sys.version_info.minor}"), {
        "PYTHONHOME": str(copy),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *packages]),
        "LD_LIBRARY_PATH": str(copy / "lib"),
    }


def give(
    python: tuple[str, dict[str, str]], arguments: list[str], user: int, umask: int, home: Path
) -> tuple[int, str]:
    """Give a command as another user of the group; return how it ended and what it said."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    own = {"HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    done = subprocess.run(
        [python[0], "-m", "bench", *arguments],
        env={"PYTHONPATH": str(ROOT), **kept, **own, **python[1]},
        user=user,
        group=GROUP,
        extra_groups=[],
        umask=umask,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def main() -> int:
    """Let them work in turn and print the figures; 1 when one could not, or was told wrong."""
    faults, given = list[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        python = interpreter(Path(folder))
        for umask in (0o002, 0o077):
            results, homes = Path(folder) / f"results-{umask:03o}", dict[int, Path]()
            for user in (54322, 54323):
                homes[user] = Path(folder) / f"home-{umask:03o}-{user}"
                homes[user].mkdir()
                os.chown(homes[user], user, GROUP)
            results.mkdir()
            os.chown(results, 54322, GROUP)
            os.chmod(results, 0o2775)
            there = ["--results", str(results)]
            for user, arguments in (
                (54322, ["all", *TINY, "--methods", "independent", *there]),
                (54323, ["all", *TINY, "--methods", "independent,l2", *there]),
                (54323, ["report", *there]),
                (54323, ["track", *there]),
                (54323, ["compare", str(results), str(results)]),
                (54322, ["all", *TINY, "--methods", "independent,l2", *there]),
                (54322, ["report", *there]),
                (54322, ["track", *there]),
            ):
                given += 1
                code, text = give(python, arguments, user, umask, homes[user])
                open_to_all = umask == 0o002
                wrong = ["a traceback"] * ("Traceback" in text)
                wrong += ["it could not"] * (open_to_all and (code != 0 or "warning" in text))
                wrong += ["told to delete"] * ("delete" in text)
                wrong += ["told that nothing is there"] * (
                    "holds n" in text or "no records" in text
                )
                wrong += [f"ended with {code}"] * (code not in (0, 1))
                said = text.strip().rpartition("\n")[2]
                told = f"umask {umask:03o}, user {user}, {arguments[0]}: ended with {code}, {said}"
                print(told, flush=True)
                if wrong:
                    faults.append(f"{told}: {', '.join(wrong)}\n{text[-1500:]}")
    print("\n".join(faults))
    print(f"{given} commands of two users given, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
