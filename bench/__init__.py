"""The harness: trains compatible embedding models, walks the backfill, keeps per-query records."""

__version__ = "0.1.0"
