"""What reaches a person: an exception that is one sentence, and texts without secrets."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

LOCAL = r"(?!sqlite:|file:)"  # addresses of files, in which an @ is part of a path
# Names and schemes have lengths: a text of millions of letters is searched in linear time.
START = r"\bhttps?:/{0,3}|\b[a-z][a-z0-9+.-]{0,40}:/{1,3}|(?<![:/\w])//"
WORD = re.compile(r"[^\s'\"<>]+")
ADDRESS = re.compile(rf"{LOCAL}(?:{START})", re.I)
SECRET_WORD = r"token|pass|pwd?\b|secret|key|credential|sig(?:nature)?\b|auth|jwt|\bsas\b|\bcode\b"
PUBLIC = "(?!viewStateShareKey=)"  # names a view of MLflow's pages, which opens nothing without it
QUERY = re.compile(
    rf"([?&;#]{PUBLIC}[\w.-]{{0,80}}(?:{SECRET_WORD})[\w.-]{{0,80}}=)[^&;\s'\"<>)]+", re.I
)
# What stands beside a name outside of an address: `password=…`, `"api_key": "…"`, `;PWD%3D…`.
PAIR = re.compile(
    r"((?:passw(?:or)?d|passphrase|pwd|secret|(?:api|access|account|private|secret)[_-]?key"
    r"|(?<![a-z])[a-z]{1,80}[_-]token|\btoken(?==))[\w-]{0,80}[\"']?\s*(?:=|:|%3D)\s*[\"']?)"
    r"[^\s&;,'\")}]+",
    re.I,
)
HEADER = re.compile(r"((?:authorization\W+(?:bearer|basic|token)|\bbearer)\s+)[\w.~+/=-]{6,}", re.I)
# Secrets that their shape tells: of Hugging Face, GitHub, Slack, OpenAI, Databricks, Amazon.
SHAPE = re.compile(
    r"\b(?:(?:hf_|gh[opsu]_|github_pat_|xox[abp]-|sk-|dapi)[A-Za-z0-9_-]{20,}|A[KS]IA[0-9A-Z]{16}\b)"
)
SECRET_VARIABLE = re.compile(
    r"(?<!BY)PASS(?![EI])|PWD|TOKEN(?!IZ)|SECRET|CREDENTIAL|ACCESS_?KEY|API_?KEY|_KEY$|AUTH(?!OR)"
    "|CONNECTION_STRING",
    re.I,
)
ADDRESS_VARIABLE = re.compile("UR[IL]$|PROXY$|ADDRESS$", re.I)
SHORTEST = 6  # characters of a secret that is looked for without its address


class BenchError(Exception):
    """One sentence: what was found, where, what was expected, what to do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> BenchError:
    """State that `name` is no known `kind`, with the nearest name or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
    return BenchError(f"unknown {kind} '{name}'; {hint}")


def shown(text: str) -> str:
    """Return an address, or a sentence with addresses in it, without secrets.

    These are whatever stands before an address's `@`, values whose names say that they are secret,
    headers that authorize, tokens of a known shape, and what the environment holds as a secret:
    libraries take addresses apart before they complain.
    """
    for secret in _secrets():
        text = text.replace(secret, "***")
    text = WORD.sub(lambda word: _without_user(word[0]), text)
    for pattern in (QUERY, PAIR, HEADER):
        text = pattern.sub(lambda found: f"{found[1]}***", text)
    return SHAPE.sub("***", text)


def _without_user(word: str) -> str:
    """Return a word without what stands between the start of an address and its last `@`."""
    last = word.rfind("@")
    start = ADDRESS.search(word, 0, max(last, 0))
    return word if start is None else f"{word[: start.end()]}***{word[last:]}"


def _secrets() -> list[str]:
    """Secrets that the environment holds, the longest first."""
    found = set()
    for name, value in os.environ.items():
        if SECRET_VARIABLE.search(name) and not os.path.exists(value):
            found |= {value, *value.split(), *(pair.partition("=")[2] for pair in value.split(";"))}
        elif "@" in value and (
            re.match(rf"{LOCAL}[a-z][a-z0-9+.-]*:/", value, re.I)
            or (ADDRESS_VARIABLE.search(name) and re.match(LOCAL, value))
        ):
            user, _, password = value.partition(":")[2].strip("/").rpartition("@")[0].partition(":")
            for secret in (password or user, unquote(password)):
                found |= {secret, *secret.split("/"), *secret.split("@")}
        for query in QUERY.finditer(value):
            found.add(query[0].partition("=")[2])
    return sorted((each for each in found if len(each) >= SHORTEST), key=len, reverse=True)


def command(*words: object, results: Path = Path("results")) -> str:
    """Write a command of this program that can be pasted into a shell, whatever its words hold."""
    folder = [] if results == Path("results") else ["--results", results]
    return shlex.join(["python", "-m", "bench", *map(str, [*words, *folder])])
