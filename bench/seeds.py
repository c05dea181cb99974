"""Seeds are hashes of what they are for, so that no two random choices share a stream."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: str | int) -> int:
    """Derive a 63-bit seed from named parts, the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
