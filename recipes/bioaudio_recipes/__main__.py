"""`python -m bioaudio_recipes` is the `bioaudio` command."""

from bioaudio_recipes.cli import main

main()
