"""The study folder: whole pieces in `pieces`, single files in `files`."""

from reseed.store.files import (
    BUILDING,
    existing,
    file_bytes,
    file_sha256,
    fsync,
    json_bytes,
    parquet_bytes,
    read_json,
    safetensors_bytes,
    write_bytes,
)
from reseed.store.pieces import PIECE, Store, move_into_place, seal, snapshot_folder

__all__ = [
    "BUILDING",
    "PIECE",
    "Store",
    "existing",
    "file_bytes",
    "file_sha256",
    "fsync",
    "json_bytes",
    "move_into_place",
    "parquet_bytes",
    "read_json",
    "safetensors_bytes",
    "seal",
    "snapshot_folder",
    "write_bytes",
]
