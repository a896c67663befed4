"""config.json of a SaShiMi network: the fields of its configuration, under their own names."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from bioaudio_kernels import Backend

from bioaudio_mamba.block_config import BlockConfig
from bioaudio_mamba.sashimi import SashimiConfig

MODEL_TYPE = "bioaudio-sashimi"


def to_fields(config: SashimiConfig) -> dict[str, Any]:
    """The content of config.json; the kernels that run the model are no property of it."""
    content = {"model_type": MODEL_TYPE, **asdict(config)}
    del content["backend"]
    return content | {"pooling": list(config.pooling), "blocks": list(content["blocks"])}


def from_fields(content: dict[str, Any], backend: Backend) -> SashimiConfig:
    """The configuration that the content describes; fields that are missing have their defaults.

    Raises:
        ValueError: a field is of a wrong type, or has a value that the configuration refuses.
    """
    names = {field.name for field in fields(SashimiConfig)} - {"backend"}
    given = {name: value for name, value in content.items() if name in names}
    for name in ("pooling", "blocks"):
        if name in given:
            if not isinstance(given[name], list):
                raise ValueError(f"{name} holds a {type(given[name]).__name__}, expected a list")
            given[name] = tuple(given[name])
    if "blocks" in given:
        given["blocks"] = tuple(_block(described) for described in given["blocks"])
    return SashimiConfig(**given, backend=backend)


def _block(described: Any) -> BlockConfig:
    if not isinstance(described, dict):
        raise ValueError(f"blocks holds a {type(described).__name__}, expected objects")
    if unknown := described.keys() - {field.name for field in fields(BlockConfig)}:
        raise ValueError(f"a block has the fields {', '.join(sorted(unknown))}, which mean nothing here")
    return BlockConfig(**described)
