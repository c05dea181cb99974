"""One file per dataset adapter; a file dropped in here is discovered by its name.

This package shares its name with Hugging Face's `datasets`, which the project never uses.
"""
