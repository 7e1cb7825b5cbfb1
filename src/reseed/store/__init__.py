"""The study folder: whole pieces in `pieces`, single files in `files`."""

from reseed.store.files import (
    BUILDING,
    PIECE,
    checked_sha256,
    existing,
    file_bytes,
    file_sha256,
    fsync,
    json_bytes,
    move_into_place,
    parquet_bytes,
    read_json,
    safetensors_bytes,
    seal,
    write_bytes,
)
from reseed.store.pieces import Store, snapshot_folder
from reseed.store.sealed import read_sealed, write_sealed

__all__ = [
    "BUILDING",
    "PIECE",
    "Store",
    "checked_sha256",
    "existing",
    "file_bytes",
    "file_sha256",
    "fsync",
    "json_bytes",
    "move_into_place",
    "parquet_bytes",
    "read_json",
    "read_sealed",
    "safetensors_bytes",
    "seal",
    "snapshot_folder",
    "write_bytes",
    "write_sealed",
]
