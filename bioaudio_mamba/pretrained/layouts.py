"""config.json in the layouts that checkpoints come in, and the configuration that each describes.

That of transformers ("model_type": "mamba") is read and written; that of mamba_ssm is read. A SaShiMi
network, which neither has, is described by the fields of its `SashimiConfig` (see `waveform_layout`).
"""

from __future__ import annotations

from typing import Any

from bioaudio_kernels import Backend

from bioaudio_mamba.config import MambaConfig
from bioaudio_mamba.pretrained.waveform_layout import MODEL_TYPE, from_fields, to_fields
from bioaudio_mamba.sashimi import SashimiConfig

_TRANSFORMERS_REQUIRED = {
    "d_model": "hidden_size",
    "n_layer": "num_hidden_layers",
    "vocab_size": "vocab_size",
}
_TRANSFORMERS_OPTIONAL = {
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "dt_rank": "time_step_rank",
    "dt_min": "time_step_min",
    "dt_max": "time_step_max",
    "dt_init_floor": "time_step_floor",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
_TRANSFORMERS_FIXED = {"use_bias": False, "use_conv_bias": True, "hidden_act": "silu"}

_MAMBA_SSM_FIXED = {"rms_norm": True, "d_intermediate": 0, "attn_layer_idx": []}
_SSM_CFG_FIXED = {"layer": "Mamba1", "bias": False, "conv_bias": True}
_SSM_CFG_SIZES = ("d_state", "d_conv", "expand", "dt_rank", "dt_min", "dt_max", "dt_init_floor")


def to_layout(config: MambaConfig | SashimiConfig) -> dict[str, Any]:
    """The content of config.json that describes `config`."""
    return to_fields(config) if isinstance(config, SashimiConfig) else to_transformers(config)


def to_transformers(config: MambaConfig) -> dict[str, Any]:
    """The content of config.json that describes `config` to transformers' AutoModelForCausalLM."""
    described = {
        key: getattr(config, name) for name, key in (_TRANSFORMERS_REQUIRED | _TRANSFORMERS_OPTIONAL).items()
    }
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        **described,
        "time_step_rank": config.rank,
        "intermediate_size": config.d_inner,
        **_TRANSFORMERS_FIXED,
        "residual_in_fp32": True,
        # Our out_proj does start rescaled. But told so, transformers 5.23 rescales again after loading.
        "rescale_prenorm_residual": False,
        "initializer_range": 0.02,
        # The vocabulary's business, not the model's; transformers would take 0 for all three.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def read_layout(content: dict[str, Any], backend: Backend = "auto") -> MambaConfig | SashimiConfig:
    """What the content of a config.json describes, in any of the layouts.

    Raises:
        ValueError: it is of another kind of model, lacks a size, or asks for a part that these blocks lack.
    """
    if content.get("model_type") == "mamba":
        return _from_transformers(content, backend)
    if "model_type" not in content and {"d_model", "n_layer"} <= content.keys():
        return _from_mamba_ssm(content, backend)
    if content.get("model_type") == MODEL_TYPE:
        return from_fields(content, backend)
    raise ValueError(
        f"model_type is {content.get('model_type')!r}: expected 'mamba' (as transformers writes it), none"
        f" beside d_model and n_layer (as mamba_ssm does), or {MODEL_TYPE!r}"
    )


def _from_transformers(content: dict[str, Any], backend: Backend) -> MambaConfig:
    missing = [key for key in _TRANSFORMERS_REQUIRED.values() if key not in content]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    _check_fixed(content, _TRANSFORMERS_FIXED)
    names = _TRANSFORMERS_REQUIRED | _TRANSFORMERS_OPTIONAL
    given = {name: content[key] for name, key in names.items() if key in content}
    config = MambaConfig(**_without_auto(given), backend=backend)
    if content.get("intermediate_size", config.d_inner) != config.d_inner:
        raise ValueError(
            f"intermediate_size is {content['intermediate_size']}, expand * hidden_size is {config.d_inner}"
        )
    return config


def _from_mamba_ssm(content: dict[str, Any], backend: Backend) -> MambaConfig:
    if "vocab_size" not in content:
        raise ValueError("vocab_size missing")
    _check_fixed(content, _MAMBA_SSM_FIXED)
    ssm_cfg = content.get("ssm_cfg") or {}
    if not isinstance(ssm_cfg, dict):
        raise ValueError(f"ssm_cfg holds a {type(ssm_cfg).__name__}, expected an object")
    _check_fixed(ssm_cfg, _SSM_CFG_FIXED)
    multiple = content.get("pad_vocab_size_multiple", 8) or 1
    return MambaConfig(
        d_model=content["d_model"],
        n_layer=content["n_layer"],
        vocab_size=-(-content["vocab_size"] // multiple) * multiple,
        tie_embeddings=content.get("tie_embeddings", True),
        backend=backend,
        **_without_auto({name: ssm_cfg[name] for name in _SSM_CFG_SIZES if name in ssm_cfg}),
    )


def _without_auto(given: dict[str, Any]) -> dict[str, Any]:
    """Both layouts write "auto" where `MambaConfig` has None."""
    return {name: None if value == "auto" else value for name, value in given.items()}


def _check_fixed(content: dict[str, Any], fixed: dict[str, Any]) -> None:
    for key, value in fixed.items():
        if content.get(key, value) != value:
            raise ValueError(f"{key} is {content[key]!r}; only {value!r} is supported")
