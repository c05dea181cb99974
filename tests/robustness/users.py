"""Two users of one group work in one results folder, with an open and with a closed umask.

    python -m tests.robustness.users

Run as root, which alone may become others. With umask 002 the second user must be able to do all
that the first one does; with 077 each command must work or end in a sentence without a traceback,
and must not advise to delete what only may not be read.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.command import TINY
from tests.robustness.damages import give

GROUP = 54321


def become(user: int, umask: int, home: Path) -> None:
    """Go on as another user of the group."""
    os.setgroups([])
    os.setgid(GROUP)
    os.setuid(user)
    os.umask(umask)
    os.environ["HOME"] = str(home)
    os.chdir(home)


def main() -> int:
    """Let them work in turn and print the figures; 1 when one could not, or was told wrong."""
    faults, given = list[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
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
                code, text = give(arguments, partial(become, user, umask, homes[user]))
                open_to_all = umask == 0o002
                wrong = ["a traceback"] * ("Traceback" in text)
                wrong += ["it could not"] * (open_to_all and (code != 0 or "warning" in text))
                wrong += ["told to delete"] * ("delete" in text)
                wrong += [f"ended with {code}"] * (code not in (0, 1))
                told = f"umask {umask:03o}, user {user}, {arguments[0]}: ended with {code}"
                print(told, flush=True)
                if wrong:
                    faults.append(f"{told}: {', '.join(wrong)}\n{text[-1500:]}")
    print("\n".join(faults))
    print(f"{given} commands of two users given, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
