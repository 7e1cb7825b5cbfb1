"""The study folder: whole pieces, single files, and who works in it."""

from reseed.store.claims import Known, Process, alive, ask_to_stop, called, workers, working
from reseed.store.files import (
    PIECE,
    checked_sha256,
    existing,
    file_bytes,
    file_sha256,
    json_bytes,
    parquet_bytes,
    read_json,
    safetensors_bytes,
    seal,
    write_bytes,
)
from reseed.store.pieces import Store, snapshot_folder
from reseed.store.sealed import read_sealed, write_sealed
from reseed.store.temporary import (
    BUILDING,
    beside,
    built_beside,
    fsync,
    move_into_place,
    sweep_beside,
)

__all__ = [
    "BUILDING",
    "PIECE",
    "Known",
    "Process",
    "Store",
    "alive",
    "ask_to_stop",
    "beside",
    "built_beside",
    "called",
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
    "sweep_beside",
    "workers",
    "working",
    "write_bytes",
    "write_sealed",
]
