"""Files: atomic writes, checksums, tensors, locks, the cache folder, and registries by name."""

from zpyro.io.cache import cache_folder
from zpyro.io.files import checksum, replace_file, replace_folder, translate_os_errors
from zpyro.io.locking import locked
from zpyro.io.registry import Registry

__all__ = [
    "Registry",
    "cache_folder",
    "checksum",
    "locked",
    "replace_file",
    "replace_folder",
    "translate_os_errors",
]
