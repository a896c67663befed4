"""`bioaudio generate`: clips of sound from a trained network, with their exact likelihoods."""

from __future__ import annotations

import hashlib
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bioaudio_mamba.pretrained.weights import find_weights
from bioaudio_recipes.evaluation.open_model import device_named, weights_folder
from bioaudio_recipes.generation.clip_folder import AudioFormat, ClipFolder, ClipRow, ClipWriter
from bioaudio_recipes.generation.drawing import Drawing
from bioaudio_recipes.generation.noise import NoiseDetector
from bioaudio_recipes.generation.prompt import read_prompt
from bioaudio_recipes.generation.sampler import Sampler
from bioaudio_recipes.pretrain.starting_waveform_model import Sound, load_waveform_model
from bioaudio_recipes.run_folder import device_name, write_json


def generate(
    run: Path,
    *,
    out: Path | None = None,
    num: int = 16,
    seconds: float = 1.0,
    label: str | int | None = None,
    prompt: Path | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    guidance: float = 1.0,
    seed: int = 0,
    format: AudioFormat = "wav",
    batch: int = 16,
    device: str = "auto",
) -> str:
    """Generate clips from a network over waveforms, and rank them by likelihood.

    Files are written as they are drawn, so a clip may be of any length. What was stopped goes on after the
    last finished batch, and more clips may be asked for later.

    Args:
        run: A run's folder, or a folder with config.json and model.safetensors.
        out: Folder of the clips and their table, clips.csv; `generated` in the run's folder unless given.
        num: Clips in all, those included that the folder has already.
        seconds: Length of what is generated for each clip.
        label: What to generate, for a network that knows labels; all labels in turn unless given.
        prompt: Audio file that every clip goes on from (and begins with); of any rate, mixed to mono.
        temperature: Below 1 keeps to the likely, 0 always takes the likeliest code.
        top_k: Draw from this many codes only, the likeliest.
        top_p: Draw from the likeliest codes only that together have this probability.
        guidance: Scale of classifier-free guidance, for a network trained with --data.label_dropout: 1 draws
            as the network says, above 1 follows the label more closely, at twice the work, 0 ignores it. The
            flags above then cut the guided probabilities.
        seed: Clip i is drawn by the random numbers of (seed, i), whatever the batch.
        format: Of the files, 16 bits a sample.
        batch: Clips drawn side by side.
        device: Where the network runs: auto, cpu, cuda, cuda:1, ...
    """
    drawing = Drawing(temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance)
    weights = weights_folder(run, "sound")
    model, sound = load_waveform_model(weights, device_named(device))
    samples = round(seconds * sound.sample_rate)
    for name, value in (("num", num), ("batch", batch), ("seconds", samples)):
        if value < 1:
            raise ValueError(f"--{name} must be {'one sample' if name == 'seconds' else '1'} or more")
    if seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {seed}")
    if drawing.guided and not sound.label_dropout:
        raise ValueError(
            f"--guidance {guidance:g} needs a network trained with --data.conditional true "
            "--data.label_dropout 0.1, or any share above 0"
        )
    label = None if label is None else str(label)  # YAML reads 3 as a number
    classes = _classes(label, sound, num)
    codes = None if prompt is None else read_prompt(prompt, sound)
    folder = ClipFolder(
        out or run / "generated",
        {
            "model": hashlib.sha256(find_weights(weights).read_bytes()).hexdigest(),
            "seconds": seconds,
            "label": label,
            "prompt": None if codes is None else hashlib.sha256(codes.tobytes()).hexdigest(),
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "guidance": guidance,
            "seed": seed,
            "format": format,
        },
    )
    sampler = Sampler(model, drawing, sound.quantiser.zero, seed)
    begun, drawn = time.perf_counter(), 0
    missing = [clip for clip in range(num) if clip not in folder.rows]
    with tqdm(total=num * samples, unit=" samples", unit_scale=True, desc="generate", disable=None) as bar:
        bar.update((num - len(missing)) * samples)
        for clips in _batches(missing, batch):
            names = [f"clip-{clip:05d}.{format}" for clip in clips]
            detector = NoiseDetector(len(clips), sound.sample_rate)
            log_likelihood = np.zeros(len(clips))
            labels = None if classes is None else classes[clips.start : clips.stop]
            with ClipWriter(folder.root, names, sound.sample_rate, format) as writer:
                if codes is not None:
                    writer.write(np.tile(sound.quantiser.decode(codes), (len(clips), 1)))
                for block in sampler.sample(clips, samples, labels, codes):
                    heard = sound.quantiser.decode(block.codes.numpy())
                    writer.write(heard)
                    detector.add(heard)
                    log_likelihood += block.log_p.double().sum(1).numpy()
                    bar.update(heard.size)
            drawn += len(clips) * samples
            folder.add(
                [
                    ClipRow(
                        clip=clip,
                        file=name,
                        label="" if labels is None else sound.labels[labels[row]],
                        samples=samples,
                        seconds=round(samples / sound.sample_rate, 6),
                        log_likelihood=float(log_likelihood[row]),
                        bits_per_sample=float(-log_likelihood[row] / samples / math.log(2)),
                        flagged=int(bool(reason)),
                        reason=reason,
                    )
                    for row, (clip, name, reason) in enumerate(
                        zip(clips, names, detector.reasons(), strict=True)
                    )
                ]
            )
    elapsed = time.perf_counter() - begun
    speed = {"samples": drawn, "seconds": elapsed, "batch": batch, "device": device_name(sampler.device)}
    if drawn:
        write_json(folder.root / "speed.json", speed | {"samples_per_second": drawn / elapsed})
    return _summary(folder, num, drawn, elapsed, batch, sampler.device)


def _classes(label: str | None, sound: Sound, num: int) -> np.ndarray | None:
    """The class of every clip, (num,)."""
    if label is None:
        return np.arange(num) % len(sound.labels) if sound.labels else None
    if not sound.labels:
        raise ValueError(f"--label {label}: this network was trained without labels")
    if label not in sound.labels:
        raise ValueError(f"--label {label!r} is unknown; this network knows {', '.join(sound.labels)}")
    return np.full(num, sound.labels.index(label))


def _batches(missing: list[int], size: int) -> list[range]:
    """Runs of consecutive clips, of at most `size`."""
    batches: list[range] = []
    for clip in missing:
        last = batches[-1] if batches else None
        if last is not None and last.stop == clip and len(last) < size:
            batches[-1] = range(last.start, clip + 1)
        else:
            batches.append(range(clip, clip + 1))
    return batches


def _summary(
    folder: ClipFolder, num: int, drawn: int, elapsed: float, batch: int, device: torch.device
) -> str:
    rows = [row for row in folder.rows.values() if row.clip < num]
    bits = sum(row.bits_per_sample for row in rows) / len(rows)
    bad = {reason: sum(row.reason == reason for row in rows) for reason in ("noise", "silence")}
    flags = ", ".join(f"{count} of {reason}" for reason, count in bad.items() if count) or "none"
    speed = f"{drawn / elapsed:,.0f} samples/s (batch {batch}, {device_name(device)})"
    return "\n".join(
        [
            f"{num} clips of {rows[0].seconds:g} s in {folder.root}{os.sep}, {bits:.3f} bits per sample",
            f"flagged: {flags}" + (f"; {speed}" if drawn else "; all were there already"),
        ]
    )
