"""`bioaudio pretrain`: its recipes parse; what contradicts itself or an earlier run is refused in a line."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bioaudio_recipes.cli import RECIPES, main, parser_for, with_recipe_paths
from bioaudio_recipes.commands.pretrain import pretrain
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.genome_data import GenomeData
from bioaudio_recipes.pretrain.length_warmup import LengthWarmup, Stage
from bioaudio_recipes.run_folder import RunFolder
from pretrain_runs import arguments, make_store, run

from bioaudio_mamba import CausalLM, MambaConfig
from bioaudio_mamba.pretrained import load_pretrained, save_pretrained

NAMES = sorted(path.stem for path in (RECIPES / "pretrain").glob("*.yaml"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("genome"))


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert run(arguments(store, out)) == 0
    return out


def parse(*flags: str) -> Any:
    parser = parser_for("pretrain")
    return parser.instantiate(parser.parse_args(with_recipe_paths("pretrain", flags)))


@pytest.mark.parametrize("name", NAMES)
def test_every_yaml_parses(name: str) -> None:
    bed = ["--data.bed=x.bed"] if name.startswith("hg38") else []
    values = parse("--config", f"pretrain/{name}", "--out=x", "--data.genomes=[x]", *bed)
    schedule, trainer = values.schedule, values.trainer
    assert schedule.accumulation(trainer.tokens_per_microbatch, trainer.world_size) >= 1


@pytest.mark.parametrize("name", ["hg38_1.4m_1mb", "hg38_7m_1mb"])
def test_the_longest_recipes_run_unchanged_on_1_to_16_devices(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = parse("--config", f"pretrain/{name}", "--out=x", "--data.genomes=[x]", "--data.bed=x.bed")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for devices in (1, 2, 4, 8, 16):
        monkeypatch.setattr("torch.cuda.device_count", lambda devices=devices: devices)
        microbatch = values.trainer.tokens_per_microbatch
        accumulation = values.schedule.accumulation(microbatch, values.trainer.world_size)
        assert accumulation * devices * microbatch == 2**24
    nodes = replace(values.trainer, devices=4, num_nodes=2)
    assert (nodes.world_size, nodes.arithmetic()["devices"]) == (8, 8)
    with pytest.raises(ValueError, match=r"--trainer\.num_nodes must be 1 or more, got 0"):
        replace(nodes, num_nodes=0)


def test_the_slurm_template_is_sound() -> None:
    template = RECIPES.parent / "slurm" / "pretrain.sbatch"
    assert subprocess.run(["bash", "-n", template], check=False).returncode == 0
    text = template.read_text(encoding="utf-8").replace("\\\n", "")
    (command,) = re.findall(r"^srun .* bioaudio pretrain (.*)$", text, re.MULTILINE)
    flags = set(re.findall(r"--[\w.]+", command))
    known = {option for action in parser_for("pretrain")._actions for option in action.option_strings}
    assert {"--trainer.devices", "--trainer.num_nodes", "--resume"} <= flags <= known
    (example,) = re.findall(r"^#   sbatch .* pretrain\.sbatch (.*)$", text, re.MULTILINE)
    assert parse(*shlex.split(example.replace("#", ""))).data.genomes


def test_recipes_cover_the_experiments() -> None:
    sizes = {f"hg38_{size}_1k" for size in ("250k", "700k", "1.4m", "3.5m", "7m")}
    long = {"great_apes_chr22_1mb", "hg38_1.4m_1mb", "hg38_7m_1mb"}
    assert set(NAMES) == {"demo", "great_apes_chr22", *long, *sizes}


def test_flags_override_the_yaml() -> None:
    values = parse(
        "--config=pretrain/demo",
        "--out=x",
        "--data.genomes=[x]",
        "--optimizer.learning_rate=0.5",
        "--model.n_layer=7",
    )
    assert values.optimizer.learning_rate == 0.5
    assert (values.model.n_layer, values.model.d_model) == (7, 64)


def test_unknown_key_in_a_yaml_exits_2_naming_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = yaml.safe_load((RECIPES / "pretrain" / "demo.yaml").read_text())
    recipe["optimizer"]["learning_rat"] = 1
    path = tmp_path / "typo.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit) as exit_info:
        main(["pretrain", "--config", str(path), "--out", str(tmp_path / "run"), "--data.genomes=[x]"])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert "learning_rat" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_saved_config_reads_back(finished: Path, store: Path) -> None:
    values = parse("--config", str(RunFolder(finished).config))
    for name, value in arguments(store, finished).items():
        assert getattr(values, name) == value, name


def test_run_leaves_a_model_with_its_vocabulary(finished: Path) -> None:
    model, extra = load_pretrained(RunFolder(finished).model)
    assert isinstance(model, CausalLM)
    assert extra["vocabulary"]["name"] == "dna-char-hyenadna"
    assert extra["trained"] == {"steps": 13, "of_steps": 13}
    assert list(RunFolder(finished).tensorboard.iterdir())
    assert len(list(RunFolder(finished).checkpoints.iterdir())) == 2


def refused(message: str, values: dict[str, Any]) -> None:
    before = set(values["out"].rglob("*"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pretrain(**values)
    assert set(values["out"].rglob("*")) == before, "nothing is half-written"


def test_resuming_with_other_settings_is_refused(finished: Path, store: Path) -> None:
    values = arguments(store, finished)
    refused(
        "learning_rate was 0.008, now it is 0.1", values | {"optimizer": OptimizerConfig(learning_rate=0.1)}
    )
    refused("seed was 0, now it is 1", values | {"seed": 1})
    refused("rule was 'mamba'", values | {"data": replace(values["data"], rule="tile")})
    refused("d_model was 8, now it is 16", values | {"model": MambaConfig(d_model=16, n_layer=1, d_state=4)})
    refused(
        "tokens_per_microbatch was 64",
        values | {"trainer": replace(values["trainer"], tokens_per_microbatch=32)},
    )


def test_other_bases_under_the_same_name_are_refused(finished: Path, tmp_path: Path) -> None:
    refused("bases was", arguments(make_store(tmp_path, seed=1), finished))


def test_an_earlier_run_is_not_written_over(finished: Path, store: Path) -> None:
    refused("already holds the checkpoints of a run", arguments(store, finished) | {"resume": "never"})


def test_checkpoint_by_path_must_be_sound(store: Path, tmp_path: Path) -> None:
    values = arguments(store, tmp_path / "run")
    refused("no such checkpoint", values | {"resume": tmp_path / "none.ckpt"})
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    refused("damaged", values | {"resume": tmp_path / "bad.ckpt"})


def test_checkpoint_that_carries_code_is_refused(store: Path, tmp_path: Path) -> None:
    torch.save({"global_step": 1, "bioaudio_numbers": Path("x")}, tmp_path / "code.ckpt")
    refused(
        "damaged or not of such a run",
        arguments(store, tmp_path / "run") | {"resume": tmp_path / "code.ckpt"},
    )


def test_model_of_another_vocabulary_is_refused(store: Path, tmp_path: Path) -> None:
    save_pretrained(
        CausalLM(MambaConfig(d_model=8, n_layer=1)), tmp_path / "text", {"vocabulary": {"name": "text"}}
    )
    refused("has the vocabulary text", arguments(store, tmp_path / "run") | {"init_from": tmp_path / "text"})


def test_model_to_start_from_must_have_the_sizes_asked_for(
    finished: Path, store: Path, tmp_path: Path
) -> None:
    values = arguments(store, tmp_path / "run") | {"init_from": RunFolder(finished).model}
    refused("--model.d_model is", values | {"model": "mamba_dna_250k"})
    refused("--model is missing", arguments(store, tmp_path / "run") | {"model": None})


def test_windows_that_reach_another_split_are_refused(store: Path, tmp_path: Path) -> None:
    values = arguments(store, tmp_path / "run")
    shifted = GenomeData(genomes=[store], guard=10, max_shift=300)
    refused("leakage between splits", values | {"data": shifted})


def test_window_longer_than_its_contig_is_refused(store: Path, tmp_path: Path) -> None:
    schedule = LengthWarmup(stages=[Stage(length=8192, steps=1)], tokens_per_step=8192)
    refused("longer than every contig", arguments(store, tmp_path / "run") | {"schedule": schedule})
