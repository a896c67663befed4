"""The `bioaudio` command: one table of commands, each a plain function whose signature is its command line.

A command is imported only when it is called, so that `bioaudio --help` answers at once. Its flags, their
types and their help come from the function's annotations and docstring; `--config FILE` reads the same keys
from YAML, and `--config NAME` (say `pretrain/great_apes_chr22`) from a recipe that ships with the package.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

import docstring_parser
from jsonargparse import ArgumentParser, set_parsing_settings

from bioaudio_recipes.bad_input import RECIPES, in_words, no_such_recipe, of_the_system, place_in_config

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo:demo", "Run the whole story on the real DNA that ships with the package."),
    "demo-audio": (
        "demo_audio:demo_audio",
        "Train on synthetic speech that the package makes, and generate more of it.",
    ),
    "doctor": ("doctor:doctor", "Say what this machine offers, and why a backend is missing."),
    "download": (
        "download:download",
        "Fetch a published genome, interval file or set of speech: resumable, checksummed, atomic.",
    ),
    "render-midi": (
        "render_midi:render_midi",
        "Render MIDI files to sound by FluidSynth, as music to train on.",
    ),
    "prepare-genome": ("prepare_genome:prepare_genome", "Convert FASTA or 2bit files to a genome store."),
    "prepare-audio": (
        "prepare_audio:prepare_audio",
        "Convert a folder of wav, flac, ogg or mp3 files to a waveform store.",
    ),
    "verify": ("verify:verify", "Check every byte of a store against its hash."),
    "plan": (
        "plan:plan",
        "Print windows, tokens and steps for each length of a pretraining, without running it.",
    ),
    "pretrain": ("pretrain:pretrain", "Pretrain a language model, with sequence-length warm-up."),
    "pretrain-audio": (
        "pretrain_audio:pretrain_audio",
        "Pretrain a network over raw waveforms, with or without labels.",
    ),
    "finetune": ("finetune:finetune", "Fine-tune a classifier of species, or of your own classes."),
    "finetune-audio": (
        "finetune_audio:finetune_audio",
        "Fine-tune a classifier of clips of sound by their labels.",
    ),
    "evaluate": (
        "evaluate:evaluate",
        "Perplexity by context length, beside counting models of the same bases.",
    ),
    "generate": (
        "generate:generate",
        "Generate clips of sound of any length, with their exact likelihoods.",
    ),
    "evaluate-speech": (
        "evaluate_speech:evaluate_speech",
        "Score generated speech by a classifier of the store's labels: FID, IS, mIS, AM, label accuracy.",
    ),
    "score": ("score:score", "Log-likelihood of every base of a genome of any length, as bedGraph."),
    "report": ("report:report", "Write one self-contained HTML page about a run."),
    "bench": ("bench:bench", "Time our operations against their peers in one run."),
}
BOOLEANS = ("true", "false")
USAGE_ERROR = 2
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the number of the signal."""


class OneLineParser(ArgumentParser):
    """A parser whose errors are one clear line and exit code 2, without the usage block."""

    arguments: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report what is wrong with the arguments, or where it is wrong in a YAML given to `--config`."""
        fail(place_in_config(str(message), self.arguments) + str(message))

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Parse, remembering the arguments for the text of an error."""
        self.arguments = list(args or ())
        return super().parse_args(args, *rest, **options)


def fail(message: str) -> NoReturn:
    """Print the message as one line on stderr and leave with the exit code for bad input."""
    print(f"bioaudio: error: {in_words(message)}", file=sys.stderr)
    raise SystemExit(USAGE_ERROR)


def overview() -> str:
    """Text of `bioaudio --help`."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: bioaudio COMMAND [ARGUMENTS]",
            "",
            "commands:",
            *rows,
            "",
            "`bioaudio COMMAND --help` lists its flags.",
        ]
    )


def load(command: str) -> Callable[..., str | None]:
    """Import the function behind a command of `COMMANDS`."""
    module, function = COMMANDS[command][0].split(":")
    return getattr(importlib.import_module(f"bioaudio_recipes.commands.{module}"), function)


def parser_for(command: str) -> OneLineParser:
    """The parser of one command: parameters before the `*` are positional, those after it are flags."""
    function = load(command)
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    positional = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    texts = {item.arg_name: item.description for item in docstring_parser.parse_from_object(function).params}
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = OneLineParser(prog=f"bioaudio {command}", description=COMMANDS[command][1], default_env=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the arguments below.")
    for parameter in positional:
        many = get_origin(parameter.annotation) is list
        kind = get_args(parameter.annotation)[0] if many else parameter.annotation
        optional = parameter.default is not inspect.Parameter.empty
        nargs = ("*" if optional else "+") if many else ("?" if optional else None)
        default = {"default": parameter.default} if optional else {}
        parser.add_argument(parameter.name, type=kind, nargs=nargs, help=texts.get(parameter.name), **default)
    skip: set[str | int] = {p.name for p in positional}
    parser.add_function_arguments(function, as_group=False, as_positional=False, fail_untyped=True, skip=skip)
    return parser


def with_recipe_paths(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments, with a recipe's name after `--config` replaced by the path of its YAML file.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a recipe.
    """
    result = list(arguments)
    for i, argument in enumerate(result):
        flag, equals, value = argument.partition("=")
        if flag != "--config":
            continue
        position = i if equals else i + 1
        name = value if equals else result[position] if position < len(result) else ""
        if not name or (Path(name).exists() and not Path(name).is_dir()):
            continue
        recipe = RECIPES / f"{name}.yaml"
        if not recipe.is_file():
            raise FileNotFoundError(no_such_recipe(command, name))
        result[position] = f"--config={recipe}" if equals else str(recipe)
    return result


def with_plain_flags(arguments: Sequence[str], parser: ArgumentParser) -> list[str]:
    """The arguments as the parser knows them: `--a_b` for `--a-b`, `--flag=true` for a lone `--flag`."""
    known = {option: action for action in parser._actions for option in action.option_strings}
    result = []
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        flag, equals, value = argument.partition("=")
        option = "--" + flag[2:].replace("-", "_")
        if not flag.startswith("--") or option not in known:
            result.append(argument)
        elif getattr(known[option], "_typehint", None) is bool and not equals and following not in BOOLEANS:
            result.append(f"{option}=true")
        else:
            result.append(option + equals + value)
    return result


def run(command: str, arguments: Sequence[str]) -> str | None:
    """Parse the arguments of one command and call it.

    Raises:
        FileNotFoundError: for a `--config` that is not there.
        SystemExit: with code 2 on bad arguments.
    """
    parser = parser_for(command)
    spelled = with_plain_flags(with_recipe_paths(command, arguments), parser)
    values = vars(parser.instantiate(parser.parse_args(spelled)))
    values.pop("config", None)
    return load(command)(**values)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script: bad input ends in one line and exit code 2, never in a traceback."""
    # Before torch is loaded: its threads shall sleep between two operations. Threads that spin keep a core
    # from our kernels and from other processes (on two busy cores training ran six times slower).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return
    command, *rest = arguments
    if command not in COMMANDS:
        fail(f"unknown command {command!r}; `bioaudio --help` lists them: {', '.join(COMMANDS)}")
    try:
        result = run(command, rest)
    except OSError as error:
        fail(of_the_system(error))
    except ValueError as error:
        fail(str(error))
    except KeyboardInterrupt:
        kept = "stopped; the same command goes on after what it has finished, if that was kept"
        print(f"bioaudio: {kept}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if result:
        print(result)
